"""In what runs differ beside loss and divergence, so that a table of them does not mislead."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fmicl_recipes.augmentation import chosen_augmentation
from fmicl_recipes.options import has_effect
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.text import METHODS as TEXT_METHODS
from fmicl_recipes.text import TextSettings

#: The options that matter most come first, then all others in the order of the command line.
FIRST = (
    "image_size", "encoder", "model", "training images", "limit", "epochs", "batch_size",
    "augmentation", "seed", "supervised", "views", "alpha", "temperature", "negatives",
)  # fmt: skip
#: Options that titles or other lines stand for, and those that do not change what is compared.
APART = ("loss", "divergence", "knn_k", "device", "knn_every", "save_steps", "mini_batch_size")
#: Options on which an untrained encoder's scores depend, beside the images.
UNTRAINED = (
    "method", "framework", "keras_backend", "encoder", "width", "stem_stride", "patch_size",
    "projection_hidden", "projection_dim", "head_norm", "augmentation", "seed",
)  # fmt: skip

#: What stands in the place of the value of an option that has no effect in a run.
IDLE = object()

Values = Mapping[str, Any]


def differences(
    titles: Sequence[str], settings: Sequence[Values], metrics: Sequence[Values]
) -> list[str]:
    """A sentence for each setting in which runs differ, beside loss and divergence.

    An option counts in the runs in which it has an effect.

    Args:
        titles: titles of the runs.
        settings: contents of the runs' settings.json; an option that the file of a former version
            lacks is at its default.
        metrics: contents of the runs' metrics.json.

    Returns:
        The sentences, most severe first: test images, size of images, then the options.
    """
    texts = settings[0].get("method") in TEXT_METHODS
    fields = (TextSettings if texts else TrainSettings).options()
    every = [{n: _value(n, s, field.default) for n, field in fields.items()} for s in settings]
    values: dict[str, list[Any]] = {
        name: [s[name] if has_effect(field.metadata["only"], s) else IDLE for s in every]
        for name, field in fields.items()
        if name not in APART
    }
    if all(title.startswith(name) for title, name in zip(titles, values["method"], strict=True)):
        del values["method"]
    if texts:
        del values["sts"]
        lines = _sentences(titles, settings, metrics)
    else:
        del values["data"]
        lines = _images(titles, metrics)
        if all("train_images" in m for m in metrics):
            del values["limit"]
            values["training images"] = [m["train_images"] for m in metrics]
        trained = [len(m["loss_history"]) for m in metrics]
        values["epochs"] = [
            epochs if done >= epochs else f"{done} of {epochs}"
            for done, epochs in zip(trained, values["epochs"], strict=True)
        ]
        if all("image_shape" in m for m in metrics):
            del values["image_size"]
        if all("knn_k" in m for m in metrics):
            values["knn_k"] = [m["knn_k"] for m in metrics]
    for name in sorted(values, key=lambda n: FIRST.index(n) if n in FIRST else len(FIRST)):
        used = [(t, v) for t, v in zip(titles, values[name], strict=True) if v is not IDLE]
        shown = ["none" if value is None else str(value) for _, value in used]
        lines += _line(name.replace("_", " "), [title for title, _ in used], shown)
    return lines


def untrained_alike(settings: Values, metrics: Values, *, pixels: bool) -> Hashable:
    """A value that is equal for runs whose untrained encoders, or raw pixels, score the same.

    Args:
        settings: contents of a run's settings.json.
        metrics: contents of the run's metrics.json.
        pixels: whether to say it of raw pixels instead of the untrained encoder.
    """
    images = tuple(str(metrics.get(key)) for key in ("test_digest", "train_images", "knn_k"))
    if pixels:
        return images
    texts = tuple(str(settings.get(name)) for name in ("model", "data", "sts"))
    return images, texts, tuple(str(settings.get(name)) for name in UNTRAINED)


def _value(name: str, settings: Values, default: Any) -> Any:
    """The value of an option, as versions of today would store it."""
    value = settings.get(name, default)
    if name == "augmentation":  # in former versions it was stored as it was given
        return chosen_augmentation(value, settings.get("data", ""))
    return value


def _images(titles: Sequence[str], metrics: Sequence[Values]) -> list[str]:
    """Sentences where runs were tested on different images, or on images of different sizes."""
    shapes = [m.get("image_shape") for m in metrics]
    keys: list[Hashable] = [m.get("test_digest") for m in metrics]
    if None in keys or len(set(map(str, shapes))) > 1:  # resized, they have another digest
        said = [k for k in ("evaluated_on", "test_images") if all(k in m for m in metrics)]
        keys = [(_source(m["data"]), *(m[key] for key in said)) for m in metrics]
    shown = [_described(m) for m in metrics]
    if len(set(shown)) < len(set(keys)):  # of the same name, they differ in their pixels
        shown = [f"{text} (SHA-256 {str(key)[:8]})" for text, key in zip(shown, keys, strict=True)]
    lines = _line("test images", titles, shown, keys, "; accuracies cannot be compared")
    sizes = [" x ".join(map(str, shape)) for shape in shapes if shape is not None]
    return lines + (_line("image size", titles, sizes) if len(sizes) == len(shapes) else [])


def _sentences(
    titles: Sequence[str], settings: Sequence[Values], metrics: Sequence[Values]
) -> list[str]:
    """A sentence where runs on texts were tested on different pairs."""
    counts = [sum(m.get("sts_pairs", {}).values()) for m in metrics]
    sources = [s.get("sts") or "those of the data or of the hub" for s in settings]
    shown = [f"{source} ({count} pairs)" for source, count in zip(sources, counts, strict=True)]
    return _line("test pairs", titles, shown, None, "; correlations cannot be compared")


def _source(data: str) -> str:
    """A path in one spelling; another name as it is."""
    return str(Path(data).resolve()) if Path(data).exists() else data


def _described(metrics: Values) -> str:
    """The test images in words: data set, split and number."""
    count = f", {metrics['test_images']} images" if "test_images" in metrics else ""
    return f"{metrics['data']} ({metrics.get('evaluated_on', 'split unknown')}{count})"


def _line(
    name: str,
    titles: Sequence[str],
    values: Sequence[str],
    keys: Sequence[Hashable] | None = None,
    warning: str = "",
) -> list[str]:
    """A line such as "encoder: resnet18 in A, C; smallconv in B"; none where all runs agree.

    Args:
        name: name of what may differ.
        titles: titles of the runs.
        values: the runs' values, as they are shown.
        keys: the runs' values, as they are compared; None compares what is shown.
        warning: end of the line.
    """
    groups: dict[Hashable, tuple[str, list[str]]] = {}
    for title, value, key in zip(titles, values, keys or values, strict=True):
        groups.setdefault(key, (value, []))[1].append(title)
    if len(groups) < 2:
        return []
    listed = "; ".join(f"{value} in {', '.join(runs)}" for value, runs in groups.values())
    return [f"{name}: {listed}{warning}"]
