"""Folders that are checked and made, and files that are written whole or not at all."""

from __future__ import annotations

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
