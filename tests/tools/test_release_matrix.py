"""Which environments a release is checked in, and with which versions."""

import sys
import tomllib
from pathlib import Path

import pytest
from release import contents, environments, matrix
from release.report import Failed, Skipped

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_package_works_in_an_environment():
    tried = [package for _, _, packages in matrix.ENVIRONMENTS.values() for package in packages]
    assert sorted(tried) == list(contents.PACKAGES)


def test_every_extra_has_lower_bounds_and_lowest_are_exact():
    for extra in PROJECT["optional-dependencies"]:
        for name, specifiers in matrix.requirements_of(PROJECT, (extra,)).items():
            assert matrix.lowest_of(name, specifiers)
    with pytest.raises(Failed, match=r"a lower bound, .*'numpy<3'"):
        matrix.lowest_of("numpy", matrix.SpecifierSet("<3"))


def test_requirements_of_extras_that_name_extras_are_merged():
    project = {
        "name": "it",
        "dependencies": ["numpy>=1.26"],
        "optional-dependencies": {"a": ["jax>=0.6"], "b": ["it[a]", "jax>=0.10", "numpy>=2.0"]},
    }
    found = matrix.requirements_of(project, ("b",))
    lowest = {name: matrix.lowest_of(name, specifiers) for name, specifiers in found.items()}
    assert lowest == {"jax": "0.10", "numpy": "2.0"}


@pytest.mark.parametrize(("which", "torch"), [("lowest", "torch==2.6"), ("newest", "torch==9.9")])
def test_torch_is_the_lowest_or_the_pinned(monkeypatch, which, torch):
    monkeypatch.setattr(matrix, "pinned", lambda root, name: "9.9")
    lines = matrix.wanted(ROOT, PROJECT, matrix.Environment("torch", which, "3.11"))
    assert lines == [{"lowest": "numpy==1.26", "newest": "numpy>=1.26"}[which], torch]


def test_lowest_versions_are_tried_with_the_lowest_python_alone():
    tried = {(one.python, one.versions) for one in matrix.environments(PROJECT)}
    first, *later = matrix.pythons(PROJECT)
    assert tried == {(first, "lowest"), *((python, "newest") for python in (first, *later))}
    assert [str(one) for one in matrix.environments(PROJECT, quick=True)] == [
        f"base, newest, Python {first}"
    ]


def test_a_python_that_is_not_here_is_not_checked(tmp_path):
    assert matrix.find_python("3.99") is None
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert matrix.find_python(here)
    check = environments.check(ROOT, tmp_path, PROJECT, tmp_path, index=None, cuda=False)
    with pytest.raises(Skipped, match=r"no python3\.99 on this machine"):
        check(matrix.Environment("base", "newest", "3.99"))


def test_torch_with_cuda_is_not_downloaded_unless_allowed(monkeypatch):
    builds = {"2.13.0": "2.13.0+cpu"}
    monkeypatch.setattr(
        environments, "cpu_build", lambda python, version, index: builds.get(version)
    )

    def lines_for(*lines, cuda=False):
        return environments.with_torch(Path(), list(lines), "2.13.0", None, cuda)

    assert lines_for("jax==0.6") == (["jax==0.6"], "")
    assert lines_for("torch==2.6", cuda=True) == (["torch==2.6"], "")
    assert lines_for("numpy>=1", "torch==2.13.0") == (["numpy>=1", "torch==2.13.0+cpu"], "")
    with pytest.raises(Skipped, match=r"torch 2\.6 has no build for CPUs"):
        lines_for("numpy==1.26", "torch==2.6")
    lines, remark = lines_for("lightning==2.6", "numpy==1.26", "torch==2.6")
    assert lines == ["lightning==2.6", "numpy==1.26", "torch==2.13.0+cpu"]
    assert remark.startswith("torch 2.13.0 in place of 2.6")
