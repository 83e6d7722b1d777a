"""The version, in the package, CITATION.cff, CHANGELOG.md and the tag, is one and the same."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from release.report import Failed

HEADING = re.compile(r"^## \[(?P<version>[^\]]+)\](?: - (?P<date>\d{4}-\d\d-\d\d))?$", re.MULTILINE)


def git(root: Path, *arguments: str) -> list[str]:
    """The lines that git answers in `root`."""
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(
            f"expected a git clone in {root}; `{' '.join(command)}`: {done.stderr.strip()}"
        )
    return done.stdout.splitlines()


def found(path: Path, pattern: str) -> str:
    match = re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise Failed(f"expected a line like {pattern} in {path.name}, found none")
    return match[1]


def package_version(root: Path) -> str:
    return found(root / "fmicl_core/__init__.py", r'^__version__ = "([^"]+)"$')


def sections(root: Path) -> dict[str, tuple[str | None, str]]:
    """The sections of CHANGELOG.md, newest first: date and text by version, and "Unreleased"."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = list(HEADING.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return {
        head["version"]: (head["date"], text[head.end() : end].strip())
        for head, end in zip(heads, ends, strict=True)
    }


def tags_at_head(root: Path) -> list[str]:
    """The tags of the commit that is checked out, those that name a version alone."""
    tags = git(root, "tag", "--points-at", "HEAD")
    return [tag.removeprefix("v") for tag in tags if re.fullmatch(r"v?\d+(\.\d+)+.*", tag)]


def agree(root: Path) -> str:
    """Refuse versions and dates that differ; the remark says what the version is."""
    version = package_version(root)
    notes = sections(root)
    newest = next((name for name in notes if name != "Unreleased"), None)
    date, text = notes.get(version, (None, ""))
    tags = tags_at_head(root)
    citation = root / "CITATION.cff"
    named = {
        "CITATION.cff": found(citation, r"^version: (\S+)$"),
        "the newest section of CHANGELOG.md": newest,
        **({"the tag of HEAD": tags[0]} if tags else {}),
    }
    wrong = [f"{where} has {other}" for where, other in named.items() if other != version]
    if wrong:
        raise Failed(f"expected {version} (fmicl_core.__version__) everywhere; {', '.join(wrong)}")
    cited = found(citation, r"^date-released: (\S+)$")
    if date != cited:
        raise Failed(f"CHANGELOG.md dates {version} {date}, CITATION.cff {cited}")
    if not text:
        raise Failed(f"expected CHANGELOG.md to say what is new in {version}; its section is empty")
    later = notes.get("Unreleased", (None, ""))[1]
    if tags and later:
        raise Failed(f"HEAD is tagged {version}, and CHANGELOG.md has lines under Unreleased")
    open_lines = f"; {len(later.splitlines())} lines under Unreleased" if later else ""
    return f"{version} of {date}, {'tagged' if tags else 'HEAD has no tag'}{open_lines}"
