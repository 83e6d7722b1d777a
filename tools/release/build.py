"""Builds the sdist and the wheel, with the pinned tools of requirements/release.txt."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from release.report import Failed


def run(command: list[str], what: str, **options: object) -> str:
    """Run a command and return what it printed, or refuse with its last lines."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )  # type: ignore[call-overload]
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise Failed(f"{what} ended with code {done.returncode}:\n{last}")
    return done.stdout


def build(root: Path, out: Path, kind: str) -> Path:
    """The "sdist" or the "wheel" of the sources in `root`."""
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out)]
    run([*command, str(root)], f"build --{kind}")
    pattern = "*.whl" if kind == "wheel" else "*.tar.gz"
    return next(out.glob(pattern))


def files_of_sdist(path: Path) -> set[str]:
    """Its files, by their path in the clone."""
    with tarfile.open(path) as archive:
        names = [PurePosixPath(member.name) for member in archive if member.isfile()]
    return {str(PurePosixPath(*name.parts[1:])) for name in names}


def unpacked(path: Path, out: Path) -> Path:
    with tarfile.open(path) as archive:
        archive.extractall(out, filter="data")
    return next(out.iterdir())


def hashes(wheel: Path) -> dict[str, str]:
    """SHA-256 of every file of a wheel, by its name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def same_wheels(ours: Path, theirs: Path) -> str:
    """Refuse two wheels of which a file differs; dates and order do not count."""
    one, other = hashes(ours), hashes(theirs)
    different = sorted(
        name for name in one.keys() | other.keys() if one.get(name) != other.get(name)
    )
    if different:
        raise Failed(
            "expected the wheel of the sdist to be that of the clone; these files differ or are in "
            f"one of the two alone: {', '.join(different[:10])}"
        )
    return f"{len(one)} files, each with the same hash"
