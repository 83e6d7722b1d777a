"""Folders that are checked and made, and files: written whole or not at all, read with suspicion.

A run folder may be a stranger's. Nothing that is read here runs code, lies outside of the folder,
waits for ever, or takes far more memory than the file takes of the disk.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import stat
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

from fmicl_core.checks import invalid

#: Most bytes of a file of text that is read whole; a history of 60,000 epochs has as many.
LARGEST_TEXT = 2**24
#: Most characters of a whole number in JSON: 2^64 has as many.
LONGEST_NUMBER = 20
#: Unicode's categories of what no name holds: control characters, halves of characters.
_UNPRINTABLE = ("Cc", "Cs")


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


def check_own_files(folder: str | Path, argument: str = "run") -> None:
    """Check that a folder holds files and folders alone, and links to these.

    Else a link could lead what is read, or written, or removed to a place outside of the folder,
    and who opens a pipe would wait for ever. The folder itself may be a link.

    Args:
        folder: path of the folder.
        argument: name of the argument that gave it, for the message.

    Raises:
        ValueError: there is a link that leaves the folder, or that leads to itself, or an entry
            that is neither file nor folder.
    """
    home = Path(folder).resolve()
    for above, folders, files in os.walk(home):
        for path in (Path(above, name) for name in (*folders, *files)):
            try:
                kind = path.lstat().st_mode
                target = path.resolve() if stat.S_ISLNK(kind) else path
            except FileNotFoundError:  # a temporary file of another process
                continue
            except (OSError, RuntimeError) as error:
                raise _not_own(path, argument, "It leads to itself.") from error
            if stat.S_ISLNK(kind):
                if not target.is_relative_to(home):
                    raise _not_own(path, argument, f"It leads to {str(target)!r}.")
                if path in (target, *target.parents) or target in path.parents:
                    raise _not_own(path, argument, "It leads to itself.")
            elif not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise _not_own(path, argument, "It is neither.")


def _not_own(path: Path, argument: str, why: str) -> ValueError:
    return invalid(argument, "a folder of files and folders, whose links stay within it", str(path),
                   why=why)  # fmt: skip


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def read_text(path: Path, argument: str = "run") -> str:
    """The text in a file of at most `LARGEST_TEXT` bytes.

    Args:
        path: file to read.
        argument: name of the argument that gave its folder, for the message.

    Raises:
        ValueError: it is no such file, or larger, or no text in UTF-8.
    """
    expected = f"a readable {path.name}"
    try:
        if not path.is_file():
            raise invalid(argument, expected, str(path), why="It is no file.")
        if path.stat().st_size > LARGEST_TEXT:
            raise invalid(
                argument, expected, str(path), why=f"It has more than {LARGEST_TEXT} bytes."
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise invalid(argument, expected, str(path), why=f"{error}.") from error


def read_json(path: Path, argument: str = "run") -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: file to read.
        argument: name of the argument that gave its folder, for the message.

    Raises:
        ValueError: the file is unreadable, or holds no object, or what `parse_json` refuses.
    """
    text = read_text(path, argument)
    try:
        values = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise invalid(argument, f"a readable {path.name}", str(path), why=f"{error}.") from error
    if not isinstance(values, dict):
        raise invalid(argument, f"an object in {path.name}", str(path))
    return values


def write_json(path: Path, values: dict[str, Any]) -> Path:
    """Write an object as JSON; a reader sees the old file or the new one, whole."""
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    return write_atomically(path, lambda file: file.write(text.encode()))


def parse_json(text: str) -> Any:
    """The value of a text in JSON, of finite numbers and of texts without control characters.

    The latter could change what a terminal shows, or does.

    Raises:
        ValueError: the text is no JSON, or has other numbers or texts.
        RecursionError: it is nested too deeply.
    """
    values = json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)
    left = [values]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str) and not _is_printable(value):
            raise ValueError(f"there are control characters in {value[:80]!r}")
    return values


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"{text[:20]}... is too large")
    return int(text)


def _is_printable(text: str) -> bool:
    return text.isprintable() or all(unicodedata.category(c) not in _UNPRINTABLE for c in text)
