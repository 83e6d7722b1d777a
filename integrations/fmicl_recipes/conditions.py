"""In what runs differ beside what is compared, so that a table does not mislead."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fmicl_recipes.settings import TrainSettings, chosen_augmentation
from fmicl_recipes.text import METHODS as TEXT_METHODS
from fmicl_recipes.text import TextSettings

#: The options that matter most come first, then all others in the order of the command line.
FIRST = ("image_size", "encoder", "model", "limit", "epochs", "batch_size", "augmentation", "seed")
#: Options that other lines stand for, and those that do not change what is compared.
APART = ("knn_k", "device", "knn_every", "save_steps", "mini_batch_size")

Values = Mapping[str, Any]


def differences(
    titles: Sequence[str], settings: Sequence[Values], metrics: Sequence[Values]
) -> list[str]:
    """A sentence for each setting in which runs differ, beside the options of the loss.

    Args:
        titles: of the runs.
        settings: what their settings.json hold; an option that one of a former version lacks is at
            its default.
        metrics: what their metrics.json hold.

    Returns:
        Most severe first: what they are tested on, the size of images, then the options.
    """
    texts = settings[0].get("method") in TEXT_METHODS
    fields = {
        name: field
        for name, field in (TextSettings if texts else TrainSettings).__dataclass_fields__.items()
        if field.metadata["group"] != "Loss" and name not in APART
    }
    values = {
        name: [_value(name, s, field.default) for s in settings] for name, field in fields.items()
    }
    if all(title.startswith(name) for title, name in zip(titles, values["method"], strict=True)):
        del values["method"]
    if texts:
        del values["sts"]
        lines = _sentences(titles, settings, metrics)
    else:
        del values["data"]
        lines = _images(titles, metrics)
        if len(set(values["limit"])) == 1 and all("train_images" in m for m in metrics):
            values["limit"] = [m["train_images"] for m in metrics]
        if all("image_shape" in m for m in metrics):
            del values["image_size"]
        if all("knn_k" in m for m in metrics):
            values["knn_k"] = [m["knn_k"] for m in metrics]
    for name in sorted(values, key=lambda n: FIRST.index(n) if n in FIRST else len(FIRST)):
        lines += _line(
            name.replace("_", " "), titles, ["none" if v is None else str(v) for v in values[name]]
        )
    return lines


def _value(name: str, settings: Values, default: Any) -> Any:
    value = settings.get(name, default)
    if name == "augmentation":  # in former versions it was stored as it was given
        return chosen_augmentation(value, settings.get("data", ""))
    return value


def _images(titles: Sequence[str], metrics: Sequence[Values]) -> list[str]:
    """Whether runs were tested on other images, or on images of other sizes."""
    shapes = [m.get("image_shape") for m in metrics]
    keys: list[Hashable] = [m.get("test_digest") for m in metrics]
    if None in keys or len(set(map(str, shapes))) > 1:  # resized, they have another digest
        said = [k for k in ("evaluated_on", "test_images") if all(k in m for m in metrics)]
        keys = [(_source(m["data"]), *(m[key] for key in said)) for m in metrics]
    shown = [_described(m) for m in metrics]
    if len(set(shown)) < len(set(keys)):  # of the same name, they differ in their pixels
        shown = [f"{text} (SHA-256 {str(key)[:8]})" for text, key in zip(shown, keys, strict=True)]
    lines = _line("test images", titles, shown, keys, "; accuracies cannot be compared")
    if None in shapes:
        return lines
    return lines + _line("image size", titles, [" x ".join(map(str, shape)) for shape in shapes])


def _sentences(
    titles: Sequence[str], settings: Sequence[Values], metrics: Sequence[Values]
) -> list[str]:
    """Whether runs on texts were tested on other pairs."""
    counts = [sum(m.get("sts_pairs", {}).values()) for m in metrics]
    sources = [s.get("sts") or "those of the data or of the hub" for s in settings]
    shown = [f"{source} ({count} pairs)" for source, count in zip(sources, counts, strict=True)]
    return _line("test pairs", titles, shown, None, "; correlations cannot be compared")


def _source(data: str) -> str:
    """A path in one spelling; another name as it is."""
    return str(Path(data).resolve()) if Path(data).exists() else data


def _described(metrics: Values) -> str:
    count = f", {metrics['test_images']} images" if "test_images" in metrics else ""
    return f"{metrics['data']} ({metrics.get('evaluated_on', 'split unknown')}{count})"


def _line(
    name: str,
    titles: Sequence[str],
    values: Sequence[str],
    keys: Sequence[Hashable] | None = None,
    warning: str = "",
) -> list[str]:
    """A line such as "encoder: resnet18 in A, C; smallconv in B", where there is a difference."""
    groups: dict[Hashable, tuple[str, list[str]]] = {}
    for title, value, key in zip(titles, values, keys or values, strict=True):
        groups.setdefault(key, (value, []))[1].append(title)
    if len(groups) < 2:
        return []
    listed = "; ".join(f"{value} in {', '.join(runs)}" for value, runs in groups.values())
    return [f"{name}: {listed}{warning}"]
