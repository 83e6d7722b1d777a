"""What methods of every framework take: settings as keywords, and labels with the images."""

from __future__ import annotations

from typing import Any

from fmicl_core.checks import invalid
from fmicl_recipes.settings import TrainSettings

_HEAD = ("projection_hidden", "projection_dim")
#: The settings that are keywords of a method's constructor, by the name of the method.
KEYWORDS = {
    "simclr": (*_HEAD, "views", "supervised"),
    "moco": (*_HEAD, "queue_size", "ema", "bn_splits", "head_norm", "supervised", "seed"),
    "moco-v3": (*_HEAD, "ema"),
}


def method_options(settings: TrainSettings) -> dict[str, Any]:
    """The keywords, and their values, that the constructor of the settings' method takes."""
    options = {name: getattr(settings, name) for name in KEYWORDS[settings.method]}
    if settings.method == "moco-v3":
        options["frozen_patches"] = settings.patch_projection == "frozen"
    return options


def labels_for(supervised: bool, labels: Any) -> Any:
    """The labels of a batch that the loss takes as ids; None unless the method is supervised.

    Args:
        supervised: whether the method is.
        labels: labels (N,) that came with the images; None if none did.

    Raises:
        ValueError: the method is supervised, and there are no labels.
    """
    if supervised and labels is None:
        raise invalid("labels", "labels of the images, (N,), as the method is supervised", None)
    return labels if supervised else None
