"""The public names against those of the last tag: what breaks has to stand in CHANGELOG.md."""

from __future__ import annotations

import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import griffe

from release.contents import FOLDERS, PACKAGES
from release.report import Failed, Skipped
from release.versions import git, sections, tags_at_head

#: Headings of CHANGELOG.md under which a change that breaks code is looked for.
HEADINGS = ("Changed", "Removed")


def last_tag(root: Path) -> str | None:
    """The newest tag of a version before HEAD; a tag of HEAD is the release that is checked."""
    at_head = tags_at_head(root)
    tags = git(root, "tag", "--merged", "HEAD", "--sort=-version:refname")
    versions = [tag for tag in tags if re.fullmatch(r"v?\d+(\.\d+)+.*", tag)]
    return next((tag for tag in versions if tag.removeprefix("v") not in at_head), None)


def public_alone(package: griffe.Module) -> griffe.Module:
    """Make submodules private: public is what the package exports, wherever it is written."""
    for module in package.modules.values():
        module.public = False
    return package


def breakages(root: Path, tag: str) -> Iterator[griffe.Breakage]:
    """Changes of public names since `tag` after which code of users may not work."""
    paths = [str(root / folder) for folder in FOLDERS]
    now = griffe.GriffeLoader(search_paths=paths)
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        git(root, "archive", "--format=tar", f"--output={tree / 'then.tar'}", tag)
        with tarfile.open(tree / "then.tar") as archive:
            archive.extractall(tree, filter="data")
        then = griffe.GriffeLoader(search_paths=[str(tree / folder) for folder in FOLDERS])
        for loader in (then, now):
            for package in PACKAGES:
                loader.load(package)
            loader.resolve_aliases(implicit=True, external=False)
        for package in PACKAGES:
            old = public_alone(then.modules_collection[package])
            yield from griffe.find_breaking_changes(old, now.modules_collection[package])


def notes_since(root: Path, tag: str) -> str:
    """What CHANGELOG.md has under `HEADINGS` in the sections above that of `tag`."""
    text = []
    for version, (_, section) in sections(root).items():
        if version == tag.removeprefix("v"):
            break
        parts = re.split(r"^### (.+)$", section, flags=re.MULTILINE)
        text += [
            part for head, part in zip(parts[1::2], parts[2::2], strict=True) if head in HEADINGS
        ]
    return "\n".join(text)


def parameters_of(breakage: griffe.Breakage) -> list[str]:
    """The parameter that a change is about, or two if it has another name now."""
    values = (breakage.old_value, breakage.new_value)
    return [value.name for value in values if isinstance(value, griffe.Parameter)]


def names_of(breakage: griffe.Breakage) -> set[str]:
    """By what CHANGELOG.md can name a change: the object, its class or the parameter."""
    path = breakage.obj.path.split(".")
    owner = [part for part in path[1:-1] if part[:1].isupper()]
    return {path[-1], *owner, *parameters_of(breakage)}


def said(breakage: griffe.Breakage) -> str:
    """A change in a line: `fmicl_jax.family.siglip_loss(logit_bias): Parameter was removed`."""
    parameters = ", ".join(dict.fromkeys(parameters_of(breakage)))
    return f"{breakage.obj.path}{parameters and f'({parameters})'}: {breakage.kind.value}"


def compare(root: Path) -> str:
    """Refuse changes that break code, and of which CHANGELOG.md says nothing."""
    tag = last_tag(root)
    if tag is None:
        raise Skipped("no tag of an earlier version to compare with")
    notes = notes_since(root, tag)
    found = list(breakages(root, tag))
    silent = [
        breakage
        for breakage in found
        if not any(re.search(rf"\b{re.escape(name)}\b", notes) for name in names_of(breakage))
    ]
    if silent:
        lines = [f"\n  {said(breakage)}" for breakage in silent]
        raise Failed(
            f"expected CHANGELOG.md to name, under {' or '.join(HEADINGS)}, every change since "
            f"{tag} that breaks code; it says nothing of:{''.join(lines)}"
        )
    return f"{len(found)} changes since {tag} that break code, each in CHANGELOG.md"
