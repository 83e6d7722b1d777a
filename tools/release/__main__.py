"""`python -m release`: every check of a release, a line each; code 1 where one failed."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import tomllib
from functools import partial
from pathlib import Path

from release import api, contents, environments, versions
from release.build import build, run, same_wheels, unpacked
from release.matrix import ENVIRONMENTS, find_python
from release.matrix import environments as all_environments
from release.report import Report
from release.versions import git

ROOT = Path(__file__).resolve().parents[2]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("release", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one environment alone, without extras"
    )
    parser.add_argument("--index", help="a further index that has torch for CPUs; none by default")
    parser.add_argument("--cuda", action="store_true", help="allow torch with CUDA, several GB")
    parser.add_argument("--python", action="append", help="this version alone, as 3.12; repeatable")
    parser.add_argument(
        "--only", action="append", choices=ENVIRONMENTS, help="these environments alone; repeatable"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of what passed")
    return parser.parse_args()


def main() -> int:
    asked, report = options(), Report()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with tempfile.TemporaryDirectory(prefix="fmicl-release-") as scratch:
        out = Path(scratch)
        files = built(report, out / "dist")
        if files:
            contained(report, out, files, project)
            report.step("public names since the last tag", lambda: api.compare(ROOT))
            installed(report, out, files[1], project, asked)
        if not report.failed:
            kept(files, asked.out)
    print(report.summary())
    return int(report.failed)


def built(report: Report, out: Path) -> list[Path]:
    """The sdist and the wheel, or nothing where they could not be built."""
    files: list[Path] = []
    report.step("versions agree", lambda: versions.agree(ROOT))

    def make() -> str:
        files.extend(build(ROOT, out, kind) for kind in ("sdist", "wheel"))
        return ", ".join(path.name for path in files)

    return files if report.step("sdist and wheel are built", make) else []


def contained(report: Report, out: Path, files: list[Path], project: dict) -> None:
    sdist, wheel = files
    tracked = git(ROOT, "ls-files")
    expected = contents.tracked_of_packages(ROOT, tracked)
    tools = [sys.executable, "-m"]

    def twine() -> None:
        run([*tools, "twine", "check", "--strict", *map(str, files)], "twine check")

    def wheel_contents() -> None:
        # W009, several packages at the top: there are twelve, which `check_wheel` knows by name
        options = ["--ignore", "W009"]
        run([*tools, "check_wheel_contents", *options, str(wheel)], "check-wheel-contents")

    def rebuilt() -> str:
        clone = unpacked(sdist, out / "unpacked")
        return same_wheels(wheel, build(clone, out / "again", "wheel"))

    report.step("twine check --strict", twine)
    report.step("check-wheel-contents", wheel_contents)
    report.step("contents of the wheel", lambda: contents.check_wheel(wheel, project, expected))
    report.step("contents of the sdist", lambda: contents.check_sdist(sdist, tracked))
    report.step("the wheel of the sdist is the same", rebuilt)
    report.step(
        "README.md on a package index", lambda: contents.check_readme(ROOT / "README.md", project)
    )


def installed(
    report: Report, out: Path, wheel: Path, project: dict, asked: argparse.Namespace
) -> None:
    chosen = [
        environment
        for environment in all_environments(project, asked.quick)
        if (not asked.only or environment.name in asked.only)
        and (not asked.python or environment.python in asked.python)
    ]
    for version in dict.fromkeys(environment.python for environment in chosen):
        if find_python(version) is None:
            report.skip(f"all with Python {version}", f"no python{version} on this machine")
            chosen = [environment for environment in chosen if environment.python != version]
    home = out / "environment"
    check = environments.check(ROOT, wheel, project, home, index=asked.index, cuda=asked.cuda)
    for environment in chosen:
        report.step(str(environment), partial(check, environment))
        shutil.rmtree(home, ignore_errors=True)
    if asked.quick:
        report.skip("every other environment", "QUICK is set")
    elif asked.only or asked.python:
        report.skip("every other environment", "--only or --python leaves them out")


def kept(files: list[Path], out: Path) -> None:
    """Leave what passed in `out`, and nothing of an earlier time beside it."""
    out.mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("fmicl-*.whl"), *out.glob("fmicl-*.tar.gz")]:
        old.unlink()
    for path in files:
        shutil.copy2(path, out)


if __name__ == "__main__":
    sys.exit(main())
