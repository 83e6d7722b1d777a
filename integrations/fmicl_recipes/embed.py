"""Features of all images of a data set by a run's trained encoder, in one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmicl_core.checks import invalid, non_finite
from fmicl_recipes.data import AnyImages, StoredImages
from fmicl_recipes.data.arrays import stack
from fmicl_recipes.data.pictures import Decoder
from fmicl_recipes.data.places import SHARE
from fmicl_recipes.data.sources import open_splits
from fmicl_recipes.data.splits import NO_LABEL, Split, numbered
from fmicl_recipes.files import check_folder, make_folder, write_atomically
from fmicl_recipes.machines import workers_of
from fmicl_recipes.progress import note
from fmicl_recipes.resources import free_memory
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.weights import AnyRun, Model, open_model

#: From a run's model and uint8 images (N, H, W, C) to features (N, F) float32.
Encode = Callable[[Model, AnyImages], NDArray[np.floating]]

SUFFIXES = (".npz", ".parquet")


def embed(
    run: AnyRun,
    out: str | Path,
    encode: Encode,
    data: str | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> NDArray[np.float32]:
    """Encode all images of a data set, in every split, and write their features to a file.

    Images are brought to the shape that the run's images have; where memory would not hold them
    all, each is decoded when it is encoded. docs/data.md says what the file holds.

    Args:
        run: folder with model.json and encoder.safetensors, such as that of a run; or what
            `open_model` returned for it.
        out: file to write, .npz or .parquet.
        encode: `features` of a framework's package.
        data: name of the data set, as `load_images` takes it; None for the run's own.
        image_column: name of the column of images, as `load_images` takes it.
        label_column: name of the column of labels, as `load_images` takes it.
        overwrite: whether to replace `out` if it exists.
        progress: whether to say what was changed in the pictures, and how many are encoded.

    Returns:
        The features (N, F).

    Raises:
        ValueError: there is no trained encoder in the folder; or the file cannot be written, or
            exists; or the images cannot be read, or brought to the shape of the run's images, or
            nobody knows which the run's own are.
    """
    out = Path(out)
    _check_out(out, overwrite)
    model = open_model(run)
    model.check()
    shape, settings = model.image_shape, TrainSettings()
    if shape[2] not in (1, 3):
        raise invalid("run", "a run on grey or colour images", shape, what="image_shape",
                      why="Pictures cannot be brought to other channels.")  # fmt: skip
    if data is None:
        settings = _own_settings(model.file.parent)
        data = settings.data
        image_column = image_column or settings.image_column
        label_column = label_column or settings.label_column
    splits = open_splits(data, image_column, label_column)
    count = sum(len(split.pictures) for split in splits.values())
    images: AnyImages
    if count * prod(shape) <= SHARE * free_memory():
        decoder = Decoder(shape[:2], shape[2])
        pictures = (decoder.decode(split, key, data, progress) for key, split in splits.items())
        images = stack(chain.from_iterable(pictures), count, data)
        if progress:
            decoder.tell()
    else:
        every = _Chained([split.pictures for split in splits.values()])
        names = list(chain.from_iterable(split.names for split in splits.values()))
        images = StoredImages(every, names, shape, workers_of(settings))
    note(f"encoding {count} images", progress)
    features = np.asarray(encode(model, images), np.float32)
    if not (finite := np.isfinite(features).all(axis=1)).all():
        raise non_finite("run", np.flatnonzero(~finite).tolist())
    labels, class_names = numbered(splits)
    columns: dict[str, Any] = {
        "name": [name for split in splits.values() for name in split.names],
        "split": [key for key, split in splits.items() for _ in split.names],
        "labels": _joined(labels, splits),
        "class_names": class_names,
    }
    write = _write_npz if out.suffix == ".npz" else _write_parquet
    make_folder(out.parent)
    write_atomically(out, lambda file: write(file, features, columns))
    return features


class _Chained(Sequence[Any]):
    """The pictures of all splits in one sequence, none of them decoded."""

    def __init__(self, parts: Sequence[Sequence[Any]]) -> None:
        self.parts, self.ends = parts, np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: Any) -> Any:
        part = int(np.searchsorted(self.ends, index, side="right")) - 1
        return self.parts[part][index - self.ends[part]]


def _own_settings(folder: Path) -> TrainSettings:
    """The settings of a run, which name its images."""
    if not (folder / "settings.json").is_file():
        why = f"{folder} has no settings.json, which would name the run's own."
        raise invalid("data", "the name of a data set", None, why=why)
    settings: TrainSettings = RunFolder(folder).settings()
    return settings


def _check_out(out: Path, overwrite: bool) -> None:
    if out.suffix not in SUFFIXES:
        raise invalid("out", f"a file name that ends in {' or '.join(SUFFIXES)}", str(out))
    if out.is_dir():
        raise invalid("out", "a file, and not a folder", str(out))
    if out.exists() and not overwrite:
        raise invalid("out", "a file that does not exist yet, or --overwrite", str(out))
    check_folder(out.parent)


def _joined(
    labels: Mapping[str, NDArray[np.int64] | None], splits: Mapping[str, Split]
) -> list[int | None] | None:
    """The labels of all splits in one list; None if no split has any."""
    if all(of_split is None for of_split in labels.values()):
        return None
    joined: list[int | None] = []
    for key, of_split in labels.items():
        joined += [None] * len(splits[key].names) if of_split is None else of_split.tolist()
    return joined


def _write_npz(file: Any, features: NDArray[np.float32], columns: Mapping[str, Any]) -> None:
    known = {name: column for name, column in columns.items() if column is not None}
    if "labels" in known:
        known["labels"] = [NO_LABEL if label is None else label for label in known["labels"]]
    arrays: dict[str, Any] = {name: np.array(column) for name, column in known.items()}
    np.savez(file, features=features, **arrays)


def _write_parquet(file: Any, features: NDArray[np.float32], columns: Mapping[str, Any]) -> None:
    import pyarrow
    from pyarrow import parquet

    table = {"name": columns["name"], "split": columns["split"]}
    names, labels = columns["class_names"], columns["labels"]
    if labels is not None:
        table["label"] = [names[i] if names and i is not None else i for i in labels]
    rows = pyarrow.FixedSizeListArray.from_arrays(features.reshape(-1), features.shape[1])
    parquet.write_table(pyarrow.table(table | {"feature": rows}), file)
