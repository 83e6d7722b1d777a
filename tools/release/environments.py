"""Makes the environments of `matrix`, one after the other, and runs `smoke` in each."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from packaging.version import Version

from release.build import run
from release.matrix import Environment, find_python, pinned, wanted
from release.report import Skipped

SMOKE = Path(__file__).with_name("smoke.py")
#: Nothing of the caller's Python may reach the environments; one thread, and Keras on JAX, which
#: is the backend that its environment has.
CLEAN = {
    **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    "OMP_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "MPLBACKEND": "Agg",
    "HF_HUB_OFFLINE": "1",
    "KERAS_BACKEND": "jax",
}
#: Seconds that a smoke test may take before it counts as hanging.
PATIENCE = 900


def pip(python: Path, *arguments: str) -> list[str]:
    """The command of the pinned pip, working in another environment."""
    return [sys.executable, "-m", "pip", "--python", str(python), *arguments]


def cpu_build(python: Path, version: str, index: str | None) -> str | None:
    """The build of this torch for CPUs that pip finds, or None; on Linux it is 2.13.0+cpu."""
    more = ["--extra-index-url", index] if index else []
    # This ends with an error where the index has no torch at all for this Python.
    done = subprocess.run(
        pip(python, "index", "versions", "--json", *more, "torch"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    offered = json.loads(done.stdout)["versions"] if done.returncode == 0 else []
    same = [v for v in map(Version, offered) if Version(v.public) == Version(version)]
    return next((str(v) for v in same if v.local == "cpu" or sys.platform != "linux"), None)


def with_torch(
    python: Path, lines: list[str], pin: str, index: str | None, cuda: bool
) -> tuple[list[str], str]:
    """The requirements with a torch for CPUs, and a remark if it is the pinned and not the lowest.

    With CUDA torch is several GB, which is Skipped unless it is allowed.
    """
    asked = next((line for line in lines if line.startswith("torch==")), None)
    if asked is None or cuda:
        return lines, ""
    version = asked.removeprefix("torch==")
    rest = [line for line in lines if line != asked]
    build, remark = cpu_build(python, version, index), ""
    missing = (
        f"torch {version} has no build for CPUs where pip looks, and with CUDA it is several GB; "
        "give an index of such builds, RELEASE='--index URL', or allow CUDA, RELEASE=--cuda"
    )
    if build is None and version != pin and len(rest) > 1:  # more than NumPy is there to be checked
        build = cpu_build(python, pin, index)
        remark = f"torch {pin} in place of {version}, of which there is no build for CPUs; "
    if build is None:
        raise Skipped(missing)
    return [*rest, f"torch=={build}"], remark


def check(
    root: Path, wheel: Path, project: dict, home: Path, *, index: str | None, cuda: bool
) -> Callable[[Environment], str]:
    """A function that checks one environment, made in `home` and removed by whoever made `home`."""

    def one(environment: Environment) -> str:
        interpreter = find_python(environment.python)
        if interpreter is None:
            raise Skipped(f"no python{environment.python} on this machine")
        run([interpreter, "-m", "venv", "--without-pip", str(home)], "venv")
        python = home / "bin" / "python"
        lines = wanted(root, project, environment)
        lines, remark = with_torch(python, lines, pinned(root, "torch"), index, cuda)
        more = ["--extra-index-url", index] if index else []
        install = ["install", "--quiet", "--no-compile", "--only-binary", ":all:", *more]
        run([*pip(python, *install), str(wheel), *lines], f"pip install {' '.join(lines)}")
        run(pip(python, "check"), "pip check")
        folder = home / "work"
        folder.mkdir()
        said = run(
            [str(python), "-I", str(SMOKE), environment.name, *environment.packages],
            f"{SMOKE.name} with {' '.join(lines)}", cwd=folder, env=CLEAN, timeout=PATIENCE,
        )  # fmt: skip
        return f"{remark}{said.strip().splitlines()[-1]}; {installed(python, lines)}"

    return one


def installed(python: Path, lines: list[str]) -> str:
    """The versions that were installed of what was asked for."""
    listed = json.loads(run(pip(python, "list", "--format=json"), "pip list"))
    versions = {entry["name"].lower().replace("_", "-"): entry["version"] for entry in listed}
    names = [re.split(r"[=<>~!\[]", line)[0] for line in lines]
    return " ".join(f"{name} {versions[name.lower().replace('_', '-')]}" for name in names)
