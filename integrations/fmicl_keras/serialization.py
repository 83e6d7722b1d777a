"""Divergences and similarities written to, and read from, a Keras configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import keras

from fmicl_core import DIVERGENCES, SIMILARITIES
from fmicl_core.checks import invalid

#: The options that are specifications, and the library's classes for each by name.
SPECS: dict[str, Mapping[str, Callable[..., Any]]] = {
    "divergence": DIVERGENCES,
    "similarity": SIMILARITIES,
}


def spec_to_config(argument: str, spec: Any) -> dict[str, Any]:
    """{"class_name": ..., "config": fields} of a divergence or similarity.

    The library's own go by their names. Another goes by the name that Keras has registered it
    under, or else that of its class. Its fields are those of the dataclass, or of its `get_config`.
    """
    known = SPECS[argument].get(spec.name) is type(spec)
    name = spec.name if known else keras.saving.get_registered_name(type(spec))
    if hasattr(spec, "get_config"):
        return {"class_name": name, "config": spec.get_config()}
    return {"class_name": name, "config": {f.name: getattr(spec, f.name) for f in fields(spec)}}


def spec_from_config(argument: str, config: Any) -> Any:
    """The divergence or similarity that `spec_to_config` described; a name stays as it is.

    Raises:
        ValueError: neither the library nor Keras knows the name.
    """
    if not isinstance(config, Mapping):
        return config
    name = config["class_name"]
    cls = SPECS[argument].get(name) or keras.saving.get_registered_object(name)
    if cls is None:
        raise invalid(
            argument,
            "a class that is in `custom_objects` or registered with"
            " keras.saving.register_keras_serializable",
            name,
        )
    return cls(**config["config"])
