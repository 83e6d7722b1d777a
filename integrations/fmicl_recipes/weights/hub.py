"""Models on the Hugging Face hub: their names, and their files as the hub's client gives them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fmicl_core.checks import InvalidArgument, invalid

SCHEME = "hf://"
_PLACE = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?/?")


def is_hub(place: str | Path) -> bool:
    """Whether a place is one of the hub, hf://OWNER/NAME."""
    return str(place).startswith(SCHEME)


def repository(place: str) -> tuple[str, str | None]:
    """Name and revision of "hf://OWNER/NAME" or "hf://OWNER/NAME@REVISION".

    Raises:
        ValueError: it is something else.
    """
    found = _PLACE.fullmatch(place)
    if found is None:
        raise invalid("run", "hf://OWNER/NAME or hf://OWNER/NAME@REVISION", place)
    return found["name"], found["revision"]


def fetch(place: str | Path, files: Sequence[str]) -> Path:
    """The folder of a model: itself, or where the hub's client keeps its copy of hf://OWNER/NAME.

    Args:
        place: folder, or hf://OWNER/NAME, or hf://OWNER/NAME@REVISION.
        files: files of a repository that are wanted; no others are taken.

    Raises:
        ValueError: the hub has no such model, or cannot be reached and there is no copy.
    """
    if not is_hub(place):
        return Path(place)
    from huggingface_hub import snapshot_download

    name, revision = repository(str(place))
    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=list(files), library_name="fmicl"
            )
        )
    except Exception as error:  # of the hub's, its client's and the system's many kinds
        expected = "a model that the hub has, or an earlier copy of it"
        raise refused("run", expected, str(place), error) from error


def refused(argument: str, expected: str, given: str, error: Exception) -> InvalidArgument:
    """The error for what the hub, or its client, does not do; in its own words."""
    lines = str(error).strip().splitlines() or [""]
    said = lines[0].rstrip(".")
    return invalid(argument, expected, given, why=f"{type(error).__name__}: {said}.")
