"""Which settings the constructor of a method takes: the same names in every framework."""

from __future__ import annotations

from typing import Any

from fmicl_recipes.settings import TrainSettings

_HEAD = ("projection_hidden", "projection_dim")
#: The settings that are keywords of a method's constructor, by the name of the method.
KEYWORDS = {
    "simclr": _HEAD,
    "moco": (*_HEAD, "queue_size", "ema", "bn_splits", "head_norm", "seed"),
    "moco-v3": (*_HEAD, "ema"),
}


def method_options(settings: TrainSettings) -> dict[str, Any]:
    """The keywords, and their values, that the constructor of the settings' method takes."""
    options = {name: getattr(settings, name) for name in KEYWORDS[settings.method]}
    if settings.method == "moco-v3":
        options["frozen_patches"] = settings.patch_projection == "frozen"
    return options
