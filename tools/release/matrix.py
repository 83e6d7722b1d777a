"""Which environments are made: extras, with their lowest or their newest versions, by Python."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from release.report import Failed

#: What an environment is made of: the extras, more requirements, and the packages that work in it.
#: Keras needs a backend of its own: JAX is the smallest. The trainers train by the command line.
ENVIRONMENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "base": ((), (), ("fmicl_core", "fmicl")),
    "torch": (("torch",), (), ("fmicl_torch",)),
    "jax": (("jax",), (), ("fmicl_jax",)),
    "tensorflow": (("tensorflow",), (), ("fmicl_tensorflow",)),
    "cli": (("cli",), (), ("fmicl_cli", "fmicl_recipes", "fmicl_check")),
    "lightning": (("lightning", "cli"), (), ("fmicl_lightning",)),
    "flax": (("flax", "cli"), (), ("fmicl_flax",)),
    "keras": (("keras", "cli", "jax"), (), ("fmicl_keras",)),
    "text": (("text",), (), ("fmicl_sentence_transformers",)),
}
VERSIONS = ("lowest", "newest")
#: Builds for the CPU with the same modules, in place of some that bring what GPUs need.
SMALLER = {"tensorflow": "tensorflow-cpu"} if sys.platform == "linux" else {}


@dataclass(frozen=True)
class Environment:
    """One clean environment: `name` of ENVIRONMENTS, versions, and the Python, "3.11"."""

    name: str
    versions: str
    python: str

    def __str__(self) -> str:
        return f"{self.name}, {self.versions}, Python {self.python}"

    @property
    def packages(self) -> tuple[str, ...]:
        return ENVIRONMENTS[self.name][2]


def pythons(project: dict) -> list[str]:
    """The versions of Python that the classifiers promise, lowest first."""
    text = "\n".join(project["classifiers"])
    return re.findall(r"^Programming Language :: Python :: (3\.\d+)$", text, re.MULTILINE)


def find_python(version: str) -> str | None:
    """An interpreter of this version that starts, or None; a shim that does not start is none."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    for name in (shutil.which(f"python{version}"), sys.executable):
        if name:
            done = subprocess.run([name, "-c", code], capture_output=True, text=True, check=False)
            if done.stdout.strip() == version:
                return name
    return None


def environments(project: dict, quick: bool = False) -> list[Environment]:
    """All of them; the lowest versions with the lowest Python alone, for which they were built."""
    lowest, *_ = versions = pythons(project)
    if quick:
        return [Environment("base", "newest", lowest)]
    return [
        Environment(name, which, python)
        for python in versions
        for which in VERSIONS
        for name in ENVIRONMENTS
        if python == lowest or which == "newest"
    ]


def requirements_of(project: dict, extras: tuple[str, ...]) -> list[Requirement]:
    """The direct requirements, with those of the extras, which may name other extras."""
    found, texts, seen = [], list(project["dependencies"]), set()
    queue = list(extras)
    while queue:
        extra = queue.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for text in project["optional-dependencies"][extra]:
            requirement = Requirement(text)
            if requirement.name == project["name"]:
                queue += requirement.extras
            elif text not in texts:
                texts.append(text)
    found = [Requirement(text) for text in texts]
    return sorted(found, key=lambda requirement: requirement.name)


def lowest_of(requirement: Requirement) -> str:
    """The lowest version that a requirement allows, from its ">="."""
    bounds = [spec.version for spec in requirement.specifier if spec.operator == ">="]
    if len(bounds) != 1:
        raise Failed(f"expected one lower bound, as in 'numpy>=1.26', got '{requirement}'")
    return bounds[0]


def pinned(root: Path, name: str) -> str:
    """The version of requirements/constraints.txt."""
    text = (root / "requirements/constraints.txt").read_text(encoding="utf-8")
    match = re.search(rf"^{re.escape(name)}==(\S+)$", text, re.MULTILINE)
    if match is None:
        raise Failed(f"expected a line {name}==... in requirements/constraints.txt, found none")
    return match[1]


def wanted(root: Path, project: dict, environment: Environment) -> list[str]:
    """What pip is asked for: the lowest versions exactly, or the newest that it finds.

    Of torch the newest is the pinned one: later ones are not known to work, and are large.
    """
    extras, more, _ = ENVIRONMENTS[environment.name]
    lines = []
    for requirement in requirements_of(project, extras):
        name = SMALLER.get(requirement.name, requirement.name)
        if environment.versions == "lowest":
            lines.append(f"{name}=={lowest_of(requirement)}")
        elif requirement.name == "torch":
            lines.append(f"torch=={pinned(root, 'torch')}")
        else:
            lines.append(f"{name}{requirement.specifier}")
    return [*lines, *more]
