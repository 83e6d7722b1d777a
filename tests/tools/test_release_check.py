"""The checks of a release refuse what may not be released, and say what is wrong with it."""

import io
import re
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from release import build, contents, versions
from release.report import Failed, Report, Skipped, Warned

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INFO = "fmicl-0.2.0.dist-info/"
FILES = {
    f"{package}/{name}" for package in contents.PACKAGES for name in ("__init__.py", "py.typed")
}
METADATA = "\n".join(
    [
        "Metadata-Version: 2.4",
        "Name: fmicl",
        "Version: 0.2.0",
        f"License-Expression: {PROJECT['license']}",
        f"Requires-Python: {PROJECT['requires-python']}",
        *(f"Provides-Extra: {extra}" for extra in PROJECT["optional-dependencies"]),
    ]
)
GOOD = {
    **dict.fromkeys(FILES, ""),
    f"{INFO}METADATA": METADATA,
    f"{INFO}licenses/LICENSE": "",
    f"{INFO}entry_points.txt": "[console_scripts]\nfmicl = fmicl_cli.main:main\n",
}


def wheel_of(tmp_path, files):
    path = tmp_path / "fmicl-0.2.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def sdist_of(tmp_path, names):
    path = tmp_path / "fmicl-0.2.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(f"fmicl-0.2.0/{name}"), io.BytesIO())
    return path


def git(root, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", root, *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    """A clone at version 0.2.0, of which everything agrees."""
    (tmp_path / "fmicl_core").mkdir()
    (tmp_path / "fmicl_core/__init__.py").write_text('__version__ = "0.2.0"\n')
    (tmp_path / "CITATION.cff").write_text("version: 0.2.0\ndate-released: 2026-11-30\n")
    changes = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-11-30\n\n### Added\n\n- All.\n"
    (tmp_path / "CHANGELOG.md").write_text(changes)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "All of it")
    return tmp_path


def replace(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_wheel_with_all_and_nothing_else_is_good(tmp_path):
    remark = contents.check_wheel(wheel_of(tmp_path, GOOD), PROJECT, FILES)
    assert remark.startswith("24 files of 12 packages")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fmicl_torch/py.typed": None}, "py.typed in every package; none in fmicl_torch"),
        ({"tests/test_it.py": ""}, "too many: tests/test_it.py"),
        ({"fmicl_jax/__init__.py": None}, "missing: fmicl_jax/__init__.py"),
        ({f"{INFO}licenses/LICENSE": None}, "the licence at .*LICENSE"),
        ({f"{INFO}entry_points.txt": None}, "the wheel's commands to be"),
        ({f"{INFO}METADATA": METADATA.replace(">=3.11", ">=3.8")}, "Requires-Python to be >=3.11"),
        ({f"{INFO}METADATA": METADATA.replace("Provides-Extra: jax\n", "")}, "the wheel's extras"),
        ({f"{INFO}METADATA": METADATA.replace("Apache-2.0", "MIT")}, "licence to be Apache-2.0"),
    ],
)
def test_a_wheel_that_is_not_as_it_should_be_is_refused(tmp_path, change, message):
    files = {name: text for name, text in {**GOOD, **change}.items() if text is not None}
    with pytest.raises(Failed, match=message):
        contents.check_wheel(wheel_of(tmp_path, files), PROJECT, FILES)


def test_a_wheel_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "LARGEST_WHEEL", 100)
    with pytest.raises(Failed, match="at most 100 bytes"):
        contents.check_wheel(wheel_of(tmp_path, GOOD), PROJECT, FILES)


def test_the_packages_of_the_check_are_those_of_pyproject():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = tomllib.loads(text)["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(Path(package).name for package in packages) == list(contents.PACKAGES)


def test_files_of_packages_are_named_as_in_the_wheel():
    tracked = [
        "fmicl_core/a.py",
        "backends/fmicl_jax/b.py",
        "integrations/fmicl/c.py",
        "tests/d.py",
    ]
    found = contents.tracked_of_packages(ROOT, tracked)
    assert found == {"fmicl_core/a.py", "fmicl_jax/b.py", "fmicl/c.py"}


def test_an_sdist_has_what_git_tracks(tmp_path):
    tracked = ["Makefile", "docs/a.md", ".github/workflows/ci.yml"]
    full = sdist_of(tmp_path, ["Makefile", "docs/a.md", "PKG-INFO", ".gitignore"])
    assert contents.check_sdist(full, tracked).startswith("2 files")
    with pytest.raises(Failed, match=r"missing: docs/a.md .*too many: none"):
        contents.check_sdist(sdist_of(tmp_path, ["Makefile"]), tracked)
    with pytest.raises(Failed, match=r"missing: none .*too many: draft.md"):
        contents.check_sdist(sdist_of(tmp_path, [*tracked, "draft.md"]), tracked)


def test_wheels_differ_where_a_file_does(tmp_path):
    (tmp_path / "again").mkdir()
    one = wheel_of(tmp_path, GOOD)
    backwards = wheel_of(tmp_path / "again", dict(reversed(GOOD.items())))
    assert "27 files" in build.same_wheels(one, backwards)
    other = wheel_of(tmp_path / "again", {**GOOD, "fmicl/__init__.py": "1"})
    with pytest.raises(Failed, match=r"alone: fmicl/__init__\.py$"):
        build.same_wheels(one, other)


def test_a_readme_whose_links_a_package_index_cannot_follow_is_a_warning(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("![a](docs/a.png) [b](docs/b.md) [c](https://example.org) [d](#d)")
    with pytest.raises(Warned, match=r"no project\.urls .*; 2 links and pictures"):
        contents.check_readme(readme, {})
    readme.write_text("[c](https://example.org)")
    contents.check_readme(readme, {"urls": {"Source": "https://example.org"}})


def test_the_versions_of_this_clone_agree():
    versions.agree(ROOT)


def test_versions_that_agree_are_named(repository):
    assert versions.agree(repository) == "0.2.0 of 2026-11-30, HEAD has no tag"
    git(repository, "tag", "v0.2.0")
    assert versions.agree(repository) == "0.2.0 of 2026-11-30, tagged"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("fmicl_core/__init__.py", "0.2.0", "0.3.0", "CITATION.cff has 0.2.0, the newest section"),
        ("CITATION.cff", "version: 0.2.0", "version: 0.1.0", "CITATION.cff has 0.1.0"),
        ("CITATION.cff", "-30", "-29", "dates 0.2.0 2026-11-30, CITATION.cff 2026-11-29"),
        ("CITATION.cff", "version: ", "v: ", "a line like .* in CITATION.cff, found none"),
        ("CHANGELOG.md", "[0.2.0]", "[0.2.1]", "of CHANGELOG.md has 0.2.1"),
        ("CHANGELOG.md", "### Added\n\n- All.\n", "", "its section is empty"),
    ],
)
def test_versions_that_disagree_are_refused(repository, file, old, new, message):
    replace(repository / file, old, new)
    with pytest.raises(Failed, match=message):
        versions.agree(repository)


def test_a_tag_of_another_version_is_refused_and_so_are_lines_that_are_not_released(repository):
    git(repository, "tag", "v0.3.0")
    with pytest.raises(Failed, match=r"the tag of HEAD has 0\.3\.0"):
        versions.agree(repository)
    git(repository, "tag", "--delete", "v0.3.0")
    replace(repository / "CHANGELOG.md", "## [Unreleased]\n", "## [Unreleased]\n\n- More.\n")
    assert "1 lines under Unreleased" in versions.agree(repository)
    git(repository, "tag", "v0.2.0")
    with pytest.raises(Failed, match="lines under Unreleased"):
        versions.agree(repository)


def test_a_folder_that_is_no_clone_is_refused(tmp_path):
    with pytest.raises(Failed, match="expected a git clone"):
        versions.git(tmp_path, "ls-files")


def test_a_report_counts_and_names_what_is_not_ok(capsys):
    report = Report()
    assert report.step("one", lambda: "fine")
    assert report.step("two", raiser(Skipped("no such machine")))
    assert report.step("three", raiser(Warned("look at it")))
    assert "This can be released." in report.summary()
    assert not report.step("four", raiser(Failed("expected 1, found 2")))
    assert report.failed
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "ok           one: fine",
        "not checked  two: no such machine",
        "warning      three: look at it",
        "failed       four: expected 1, found 2",
    ]
    text = report.summary()
    assert re.search("release-check: 1 ok, 1 warning, 1 not checked, 1 failed;", text)
    assert "  not checked: two\n  failed: four\nThis cannot be released." in text


def raiser(error):
    def check():
        raise error

    return check


@pytest.mark.slow
@pytest.mark.long
def test_a_fresh_clone_passes_the_short_check(tmp_path):
    git(ROOT, "clone", "--quiet", str(ROOT), str(tmp_path / "clone"))
    command = ["make", "release-check", "QUICK=1", f"VENV={ROOT / '.venv'}"]  # kept between runs
    done = subprocess.run(
        command, cwd=tmp_path / "clone", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed;" in done.stdout
    assert len(list((tmp_path / "clone/dist").iterdir())) == 2
