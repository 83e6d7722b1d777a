"""Which environments are made: extras, with their lowest or their newest versions, by Python."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

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


def requirements_of(project: dict, extras: tuple[str, ...]) -> dict[str, SpecifierSet]:
    """The direct requirements, by name, with those of the extras, which may name other extras."""
    found: dict[str, SpecifierSet] = {}
    texts, queue, seen = list(project["dependencies"]), list(extras), set()
    while queue:
        extra = queue.pop()
        if extra not in seen:
            seen.add(extra)
            for text in project["optional-dependencies"][extra]:
                requirement = Requirement(text)
                ours = requirement.name == project["name"]
                queue += requirement.extras if ours else ()
                texts += () if ours else (text,)
    for requirement in map(Requirement, texts):
        found[requirement.name] = (
            found.get(requirement.name, SpecifierSet()) & requirement.specifier
        )
    return dict(sorted(found.items()))


def lowest_of(name: str, specifiers: SpecifierSet) -> str:
    """The lowest version that is allowed, from the highest ">="."""
    bounds = [Version(spec.version) for spec in specifiers if spec.operator == ">="]
    if not bounds:
        raise Failed(f"expected a lower bound, as in 'numpy>=1.26', got '{name}{specifiers}'")
    return str(max(bounds))


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
    for name, specifiers in requirements_of(project, extras).items():
        name = SMALLER.get(name, name)
        if environment.versions == "lowest":
            lines.append(f"{name}=={lowest_of(name, specifiers)}")
        elif name == "torch":
            lines.append(f"torch=={pinned(root, 'torch')}")
        else:
            lines.append(f"{name}{specifiers}")
    return [*lines, *more]
