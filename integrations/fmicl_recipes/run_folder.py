"""`RunFolder`: the settings, history, checkpoint, metrics and plots of a run, on disk."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from fmicl_core.checks import InvalidArgument, check_choice, check_name, invalid
from fmicl_recipes.augmentation import chosen_augmentation
from fmicl_recipes.checks import is_history
from fmicl_recipes.files import (
    check_folder,
    check_own_files,
    make_folder,
    read_json,
    read_text,
    size_on_disk,
    write_atomically,
    write_json,
)
from fmicl_recipes.options import Settings, changes, combined, difference
from fmicl_recipes.settings import TrainSettings

#: Scores of raw pixels and of the untrained encoder, written when a run starts.
BASELINES = "baselines.json"
#: The file with the settings.
SETTINGS = "settings.json"
#: What it has beside the settings: (H, W, C) of an image, a digest of all images, and the version
#: of the folder's format.
FACTS = (IMAGE_SHAPE, DIGEST, VERSION) = ("image_shape", "data_digest", "format_version")
#: Version of the folders that are made. Those of version 1 lack the entry; it and all later ones up
#: to this one are read.
FORMAT = 2
#: More numbers than these, and this many for every byte of the checkpoint, are not a run's own;
#: Orbax compresses, but trained weights hardly.
ANYWAY, PACKED = 2**26, 2


class RunFolder:
    """The folder of a run: its paths, and the only way its files are written.

    Use `create` for a new run and `resume` for one that stopped.

    Args:
        path: path of the folder.
        kind: class of the run's settings.
    """

    def __init__(self, path: str | Path, kind: type[Settings] = TrainSettings) -> None:
        self.path, self.kind = Path(path), kind
        #: Whether the folder is known to hold files of its own alone.
        self.checked = False

    @classmethod
    def create(cls, path: str | Path, settings: Settings) -> RunFolder:
        """Make the folder of a new run.

        Raises:
            ValueError: the folder exists and is not empty, as nothing is ever overwritten; or it
                cannot be made.
        """
        folder = cls(path, type(settings))
        folder.check_free()
        make_folder(folder.path)
        folder.write_json(SETTINGS, settings.to_dict() | {VERSION: FORMAT})
        return folder

    def check_free(self) -> None:
        """Check that a new run can be made here, without making anything.

        Raises:
            ValueError: the folder exists and is not empty, or a file or a folder without permission
                is in its way.
        """
        if self.path.is_dir() and any(self.path.iterdir()):
            expected = "a folder that does not exist yet, or --resume to continue the run in it"
            raise invalid("out", expected, str(self.path))
        check_folder(self.path)

    def discard(self) -> None:
        """Remove everything of a run that has not got as far as a checkpoint."""
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    @classmethod
    def resume(cls, path: str | Path, settings: Settings | None = None) -> RunFolder:
        """Open the folder of a run that stopped.

        Args:
            path: path of the folder.
            settings: settings that the run has to have; None takes any.

        Raises:
            ValueError: there is no run in the folder, or its settings differ (which ones is said).
        """
        folder = cls(path) if settings is None else cls(path, type(settings))
        stored = folder.settings()
        if settings is not None:
            _check_equal(difference(stored, settings))
        return folder

    def continued(self, given: Mapping[str, Any], preset: Mapping[str, Any] | None = None) -> Any:
        """The settings to go on with: the run's own, of which `given` and `preset` repeat some.

        Args:
            given: options by name, as the user gave them.
            preset: options of a preset by name; an option that `given` replaces, or that
                has no effect in the run, is passed over.

        Raises:
            ValueError: there is no run in the folder; or an option that is given does not exist,
                or differs from the run's and would change the result (which ones is said).
        """
        values = self.read_json(SETTINGS)
        fields = self.kind.options()
        options = combined(preset or {}, given)
        for name, value in options.items():
            check_choice("option", name, fields)
            if choices := fields[name].metadata["choices"]:
                options[name] = check_name(name, value, choices)
        if options.get("method") not in (None, values.get("method")):  # which has other options
            _check_equal({"method": (values.get("method"), options["method"])})
        stored = self.settings()
        if "augmentation" in options:
            options["augmentation"] = chosen_augmentation(options["augmentation"], stored.data)
        options = {k: v for k, v in options.items() if k in given or stored.applies(k)}
        _check_equal(changes(stored.to_dict(), stored.to_dict() | options))
        return replace(stored, **options)

    def settings(self) -> Any:
        """The settings the run was started with.

        Raises:
            ValueError: settings.json is missing or unreadable.
        """
        values = self.read_json(SETTINGS)
        values = {name: value for name, value in values.items() if name not in FACTS}
        return self.kind.from_dict(values, optional=values)

    @property
    def format_version(self) -> int:
        """The version of the folder's format; those before it was written down are of 1."""
        return int(self.read_json(SETTINGS).get(VERSION, 1))

    def keep_images(self, shape: Sequence[int], digest: str | None = None) -> bool:
        """Write what is known of the images into settings.json.

        Args:
            shape: (H, W, C) of the images.
            digest: digest of all their pixels; None if nobody knows it.

        Returns:
            Whether these are the images that the run began with, as far as settings.json tells.
        """
        values = self.read_json(SETTINGS)
        facts: dict[str, Any] = {IMAGE_SHAPE: [int(size) for size in shape]}
        if digest is not None:
            facts[DIGEST] = digest
        same = values.get(DIGEST, digest) == digest
        if same and not facts.items() <= values.items():
            self.write_json(SETTINGS, values | facts)
        return same

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

    def baselines(self) -> dict[str, dict[str, float]]:
        """Scores of raw pixels and of the untrained encoder; none if nobody asked for them."""
        if (self.path / BASELINES).exists():
            return self.read_json(BASELINES)
        if (self.path / "metrics.json").exists():  # of a former version, which has them there alone
            rows: dict[str, dict[str, float]] = self.read_json("metrics.json").get("baselines", {})
            return rows
        return {}

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the run.

        Raises:
            ValueError: it is missing or unreadable, or the folder is of a version that is not known
                here, or has links that leave it.
        """
        file = self.path / name
        if not self.checked and self.path.is_dir():
            check_own_files(self.path)
            self.checked = True
        if not file.is_file():
            raise invalid("run", f"a run folder with {name}", str(self.path))
        values = read_json(file)
        if name == SETTINGS:
            check_version(values.get(VERSION, 1))
        return values

    def write_json(self, name: str, values: dict[str, Any]) -> Path:
        """Write a JSON file; a reader sees the old one or the new one, whole."""
        return write_json(self.path / name, values)

    def write_arrays(self, name: str, arrays: Mapping[str, Any]) -> Path:
        """Write a file of NumPy arrays, .npz; a reader sees the old one or the new one, whole."""
        return write_atomically(self.path / name, lambda file: np.savez(file, **arrays))

    def write_history(self, rows: list[dict[str, float]]) -> Path:
        """Write history.csv, a row an epoch; a cell is empty where a row lacks the column."""
        columns = list(dict.fromkeys(name for row in rows for name in row))

        def write(file: IO[bytes]) -> None:
            cells = [[repr(row[name]) if name in row else "" for name in columns] for row in rows]
            file.write("".join(",".join(line) + "\n" for line in [columns, *cells]).encode())

        return write_atomically(self.path / "history.csv", write)

    def read_history(self) -> list[dict[str, float]]:
        """The rows of history.csv; none if there is no such file.

        Raises:
            ValueError: it is damaged.
        """
        file = self.path / "history.csv"
        if not file.exists():
            return []
        try:
            lines = csv.DictReader(read_text(file).splitlines(), strict=True)
            rows = [{name: float(cell) for name, cell in line.items() if cell} for line in lines]
        except (csv.Error, TypeError, ValueError) as error:
            raise invalid("run", "a readable history.csv", str(file), why=f"{error}.") from error
        if not is_history(rows):
            raise invalid("run", "a history.csv of finite numbers, below their names", str(file))
        return rows

    def check_size(self, numbers: int) -> None:
        """Check that the checkpoint can hold the networks of the settings, before they are made.

        Args:
            numbers: how many numbers they have.

        Raises:
            ValueError: it is far too small for them, so that the settings are not its own.
        """
        stored = size_on_disk(self.checkpoint)
        if numbers > ANYWAY + PACKED * stored:
            raise invalid(
                "run", f"a checkpoint of the {numbers} numbers that its settings ask for", stored,
                what=f"bytes of {self.checkpoint.name}",
            )  # fmt: skip


def check_version(version: Any) -> None:
    """Check the version of a run folder's format.

    Raises:
        ValueError: it is none that is known here.
    """
    if type(version) is not int or version < 1:
        raise invalid("run", "a whole number from 1 on", version, what=VERSION)
    if version > FORMAT:
        raise invalid("run", f"a run folder of format {FORMAT} or before", version, what=VERSION,
                      why="A later version of fmicl made this one, and reads it.")  # fmt: skip


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
