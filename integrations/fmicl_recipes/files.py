"""Folders that are checked and made, and files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from fmicl_core.checks import invalid


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> Path:
    """Let `write` fill a temporary file beside `path`, then put it in the place of `path`."""
    half = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(half, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    return path


def check_folder(path: str | Path, argument: str = "out") -> None:
    """Check that `make_folder` could make a folder and files in it, without making anything.

    Args:
        path: path of the folder.
        argument: name of the argument that gave the path, for the message.

    Raises:
        ValueError: a file, or a folder without permission, is in its way.
    """
    path = Path(path)
    above = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        why = f"{above} is no folder." if not above.is_dir() else f"{above} is read-only."
        raise invalid(argument, "a folder that can be made", str(path), why=why)


def make_folder(path: str | Path, argument: str = "out") -> Path:
    """Make a folder, with those above it, unless it exists.

    Args:
        path: path of the folder.
        argument: name of the argument that gave the path, for the message.

    Raises:
        ValueError: there is a file of that name, or no permission.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise invalid(argument, "a folder that can be made", str(path),
                      why=f"{error.strerror}.") from error  # fmt: skip
    return Path(path)


def read_json(path: Path, argument: str = "run") -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: file to read.
        argument: name of the argument that gave its folder, for the message.

    Raises:
        ValueError: the file is unreadable, or holds no object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise invalid(argument, f"a readable {path.name}", str(path), why=f"{error}.") from error
    if not isinstance(values, dict):
        raise invalid(argument, f"an object in {path.name}", str(path))
    return values


def write_json(path: Path, values: dict[str, Any]) -> Path:
    """Write an object as JSON; a reader sees the old file or the new one, whole."""
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    return write_atomically(path, lambda file: file.write(text.encode()))
