"""A change of a public name since the last tag has to stand in CHANGELOG.md."""

import subprocess

import pytest
from release.report import Failed, Skipped

HEAD = "# Changelog\n\n## [Unreleased]\n"
TAGGED = "\n## [0.1.0] - 2026-01-01\n\n### Changed\n\n- `Loss` and `loss`, once.\n"
CODE = '''
"""Losses."""
def loss(x, y, *, alpha=1.0):
    """A loss."""
class Loss:
    """A loss."""
    def __init__(self, alpha=1.0): ...
    def terms(self, x): ...
    def _hidden(self, x): ...
def helper(x):
    """Not exported."""
'''
ENTRY = '"""A package."""\nfrom pack.losses import Loss, loss\n__all__ = ["Loss", "loss"]\n'


@pytest.fixture
def api(require, monkeypatch):
    require("griffe")
    from release import api

    monkeypatch.setattr(api, "PACKAGES", ("pack",))
    return api


@pytest.fixture
def repository(tmp_path):
    """A clone with one package whose version 0.1.0 is tagged, and a commit after it."""
    (tmp_path / "backends/pack").mkdir(parents=True)
    (tmp_path / "backends/pack/__init__.py").write_text(ENTRY)
    (tmp_path / "backends/pack/losses.py").write_text(CODE)
    (tmp_path / "CHANGELOG.md").write_text(HEAD + TAGGED)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "One")
    git(tmp_path, "tag", "v0.1.0")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "Two")
    return tmp_path


def git(root, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", root, *identity, *arguments], check=True, capture_output=True)


def change(repository, old, new):
    """Replace a text in the module, or in what the package exports."""
    assert (old in CODE) != (old in ENTRY)
    (repository / "backends/pack/losses.py").write_text(CODE.replace(old, new))
    (repository / "backends/pack/__init__.py").write_text(ENTRY.replace(old, new))


def test_without_a_tag_there_is_nothing_to_compare_with(api, repository):
    git(repository, "tag", "--delete", "v0.1.0")
    with pytest.raises(Skipped, match="no tag of an earlier version"):
        api.compare(repository)


def test_the_tag_of_this_release_is_not_the_last_one(api, repository):
    git(repository, "tag", "v0.2.0")
    git(repository, "tag", "notes-of-a-meeting")
    assert api.last_tag(repository) == "v0.1.0"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def helper(x)", "def helper(x, y)"),
        ("def _hidden(self, x)", "def _hidden(self)"),
        ("*, alpha=1.0", "*, alpha=1.0, beta=2.0"),
        ("A loss.", "The loss."),
    ],
)
def test_what_breaks_no_code_needs_no_line(api, repository, old, new):
    change(repository, old, new)
    assert api.compare(repository).startswith("0 changes since v0.1.0")


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("*, alpha=1.0", "*, weight=1.0", "loss"),
        ("*, alpha=1.0", "*, alpha=2.0", "loss"),
        (', loss\n__all__ = ["Loss", "loss"]', '\n__all__ = ["Loss"]', "loss"),
        ("def terms(self, x)", "def parts(self, x)", "terms"),
        ("def __init__(self, alpha=1.0)", "def __init__(self, beta=1.0)", "Loss"),
    ],
)
def test_what_breaks_code_has_to_be_named(api, repository, old, new, name):
    change(repository, old, new)
    with pytest.raises(Failed, match="that breaks code; it says nothing"):
        api.compare(repository)
    notes = repository / "CHANGELOG.md"
    for heading, enough in (("Added", False), ("Changed", True), ("Removed", True)):
        notes.write_text(f"{HEAD}\n### {heading}\n\n- `{name}` is another.\n{TAGGED}")
        if enough:
            assert "since v0.1.0 that break code, each" in api.compare(repository)
        else:
            with pytest.raises(Failed, match="it says nothing of"):
                api.compare(repository)
