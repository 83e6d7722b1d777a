"""What is in a wheel and in an sdist: all that belongs there, and nothing else."""

from __future__ import annotations

import configparser
import zipfile
from collections.abc import Iterable
from pathlib import Path

from packaging.metadata import Metadata

from release.build import files_of_sdist
from release.report import Failed, Warned

#: The packages of the wheel.
PACKAGES = (
    "fmicl", "fmicl_check", "fmicl_cli", "fmicl_core", "fmicl_flax", "fmicl_jax", "fmicl_keras",
    "fmicl_lightning", "fmicl_recipes", "fmicl_sentence_transformers", "fmicl_tensorflow",
    "fmicl_torch",
)  # fmt: skip
#: Where they lie in a clone.
FOLDERS = (".", "backends", "integrations")
#: Tracked files that an sdist need not have: what only a forge and an editor read.
LEFT_OUT = (".github/", ".pre-commit-config.yaml", ".gitignore")
#: A wheel of this library is Python alone; a larger one holds what it should not.
LARGEST_WHEEL = 2_000_000


def folder_of(root: Path, package: str) -> Path:
    """Where a package lies in the clone."""
    return next(root / at / package for at in FOLDERS if (root / at / package).is_dir())


def some(names: Iterable[str]) -> str:
    """Up to ten names, in order, or "none"."""
    names = sorted(names)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return (", ".join(names[:10]) or "none") + more


def tracked_of_packages(root: Path, tracked: Iterable[str]) -> set[str]:
    """What a wheel should hold: the tracked files of the packages, by their path in the wheel."""
    homes = {folder_of(root, package).relative_to(root).as_posix() for package in PACKAGES}
    return {
        name.removeprefix("backends/").removeprefix("integrations/")
        for name in tracked
        if any(name.startswith(f"{home}/") for home in homes)
    }


def check_wheel(wheel: Path, project: dict, expected: set[str]) -> str:
    """Refuse a wheel that has other files than `expected`, or contradicts pyproject.toml.

    `project` is pyproject.toml's [project]; `expected` are the files outside of .dist-info.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = next(name for name in names if name.endswith(".dist-info/METADATA"))
        home = info.removesuffix("METADATA")
        metadata = Metadata.from_email(archive.read(info))
        licences = [home + "licenses/" + name for name in project["license-files"]]
        points = configparser.ConfigParser()
        if home + "entry_points.txt" in names:
            points.read_string(archive.read(home + "entry_points.txt").decode())
    untyped = [package for package in PACKAGES if f"{package}/py.typed" not in names]
    if untyped:
        raise Failed(f"expected py.typed in every package; none in {some(untyped)}")
    files = {name for name in names if not name.startswith(home)}
    if files != expected:
        raise Failed(
            "expected the tracked files of the packages, no more and no less; "
            f"missing: {some(expected - files)}; too many: {some(files - expected)}"
        )
    lacking = [name for name in licences if name not in names]
    if lacking:
        raise Failed(f"expected the licence at {some(lacking)}; it is not there")
    scripts = dict(points["console_scripts"]) if "console_scripts" in points else {}
    says = {
        "name": (metadata.name, project["name"]),
        "Requires-Python": (str(metadata.requires_python), project["requires-python"]),
        "licence": (metadata.license_expression, project["license"]),
        "extras": (set(metadata.provides_extra or ()), set(project["optional-dependencies"])),
        "commands": (scripts, project["scripts"]),
    }
    for what, (got, wanted) in says.items():
        if got != wanted:
            raise Failed(f"expected the wheel's {what} to be {wanted}, found {got}")
    size = wheel.stat().st_size
    if size > LARGEST_WHEEL:
        raise Failed(f"expected a wheel of at most {LARGEST_WHEEL:,} bytes, this has {size:,}")
    return f"{len(files)} files of {len(PACKAGES)} packages, {size // 1000} kB"


def check_sdist(sdist: Path, tracked: Iterable[str]) -> str:
    """Refuse an sdist without a tracked file, or with one that git does not know."""
    kept = {name for name in tracked if not name.startswith(LEFT_OUT)}
    files = {name for name in files_of_sdist(sdist) if not name.startswith(LEFT_OUT)} - {"PKG-INFO"}
    if files != kept:
        raise Failed(
            f"expected the files that git tracks; missing: {some(kept - files)} (to be named in "
            "[tool.hatch.build.targets.sdist] of pyproject.toml); too many: "
            f"{some(files - kept)}"
        )
    return f"{len(files)} files, {sdist.stat().st_size // 1000} kB"


def check_readme(readme: Path, project: dict) -> str:
    """Warn where a package index can not follow what README.md points at."""
    relative = [
        target
        for target in readme.read_text(encoding="utf-8").split("](")[1:]
        if not target.startswith(("http://", "https://", "#", "mailto:"))
    ]
    remarks = []
    if not project.get("urls"):
        remarks.append("no project.urls in pyproject.toml")
    if relative:
        remarks.append(
            f"{len(relative)} links and pictures of README.md are paths in the clone, which a "
            "package index does not show; hatch-fancy-pypi-readme can make them addresses, once "
            "there is a public repository"
        )
    if remarks:
        raise Warned("; ".join(remarks))
    return "every link is an address"
