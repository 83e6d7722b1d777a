"""A run's folder: settings, history, checkpoints, metrics and plots, written atomically."""

from __future__ import annotations

import csv
import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from fmicl_core.checks import InvalidArgument, check_choice, invalid
from fmicl_recipes.settings import Settings, TrainSettings, changes, difference


class RunFolder:
    """Paths of a run, and the only way its files are written.

    Use `create` for a new run and `resume` for one that stopped.

    Args:
        path: of the folder.
        kind: class of the run's settings.
    """

    def __init__(self, path: str | Path, kind: type[Settings] = TrainSettings) -> None:
        self.path, self.kind = Path(path), kind

    @classmethod
    def create(cls, path: str | Path, settings: Settings) -> RunFolder:
        """Make the folder of a new run.

        Raises:
            ValueError: the folder exists and is not empty, as nothing is ever overwritten; or it
                cannot be made.
        """
        folder = cls(path, type(settings))
        if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
            raise invalid(
                "out",
                "a folder that does not exist yet, or --resume to continue the run in it",
                str(path),
            )
        make_folder(folder.path)
        folder.write_json("settings.json", settings.to_dict())
        return folder

    @classmethod
    def resume(cls, path: str | Path, settings: Settings | None = None) -> RunFolder:
        """Open the folder of a run that stopped.

        Raises:
            ValueError: there is no run in the folder, or its settings differ (which ones is said).
        """
        folder = cls(path) if settings is None else cls(path, type(settings))
        stored = folder.settings()
        if settings is not None:
            _check_equal(difference(stored, settings))
        return folder

    def continued(self, given: Mapping[str, Any]) -> Any:
        """The settings to go on with: the run's, of which `given` repeats some.

        Raises:
            ValueError: there is no run in the folder; or an option that is given does not exist,
                or differs from the run's and would change the result (which ones is said).
        """
        values = self.read_json("settings.json")
        fields = self.kind.__dataclass_fields__
        for name, value in given.items():
            check_choice("option", name, fields)
            if choices := fields[name].metadata["choices"]:
                check_choice(name, value, choices)
        if given.get("method") not in (None, values.get("method")):  # which has other options
            _check_equal({"method": (values.get("method"), given["method"])})
        stored = self.kind.from_dict(values)
        _check_equal(changes(stored.to_dict(), stored.to_dict() | dict(given)))
        return replace(stored, **given)

    def settings(self) -> Any:
        """The settings the run was started with.

        Raises:
            ValueError: settings.json is missing or unreadable.
        """
        return self.kind.from_dict(self.read_json("settings.json"))

    @property
    def checkpoint(self) -> Path:
        """The last good checkpoint; its format is the trainer's."""
        return self.path / "checkpoint.ckpt"

    @property
    def plots(self) -> Path:
        """Folder of the pictures, made when first asked for."""
        folder = self.path / "plots"
        folder.mkdir(exist_ok=True)
        return folder

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run.

        Raises:
            ValueError: it is missing or unreadable.
        """
        file = self.path / name
        if not file.is_file():
            raise invalid("run", f"a run folder with {name}", str(self.path))
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise invalid("run", f"a readable {name}", str(file), why=f"{error}.") from error
        if not isinstance(values, dict):
            raise invalid("run", f"an object in {name}", str(file))
        return values

    def write_json(self, name: str, values: dict[str, Any]) -> Path:
        """Write a JSON file; a reader sees the old one or the new one, whole."""
        text = json.dumps(values, indent=2, allow_nan=False) + "\n"
        return write_atomically(self.path / name, lambda file: file.write(text.encode()))

    def write_history(self, rows: list[dict[str, float]]) -> Path:
        """Write history.csv, a row an epoch; a cell is empty where a row lacks the column."""
        columns = list(dict.fromkeys(name for row in rows for name in row))

        def write(file: IO[bytes]) -> None:
            cells = [[repr(row[name]) if name in row else "" for name in columns] for row in rows]
            file.write("".join(",".join(line) + "\n" for line in [columns, *cells]).encode())

        return write_atomically(self.path / "history.csv", write)

    def read_history(self) -> list[dict[str, float]]:
        """The rows of history.csv, none if there is no such file."""
        file = self.path / "history.csv"
        if not file.exists():
            return []
        with open(file, newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines)
            return [{k: float(v) for k, v in row.items() if v} for row in rows]


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


def make_folder(path: str | Path, argument: str = "out") -> Path:
    """Make a folder, with those above it, unless it exists.

    Raises:
        ValueError: there is a file of that name, or no permission.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise invalid(argument, "a folder that can be made", str(path),
                      why=f"{error.strerror}.") from error  # fmt: skip
    return Path(path)


def _check_equal(changed: dict[str, tuple[Any, Any]]) -> None:
    if changed:
        listed = ", ".join(f"{k}: {a!r} in the run, {b!r} now" for k, (a, b) in changed.items())
        raise invalid("resume", "the settings the run was started with", listed, what="changes")


def unreadable_checkpoint(path: str | Path) -> InvalidArgument:
    """The error for a checkpoint that is damaged, or holds objects whose reading could run code."""
    return invalid(
        "run", "a folder whose checkpoint is whole, of tensors and plain values only", str(path),
        why="Anything else could run code while it is read.",
    )  # fmt: skip
