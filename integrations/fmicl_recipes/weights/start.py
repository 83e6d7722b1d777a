"""Weights of another run, of any framework, that a run begins with: `--init`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fmicl_core.checks import invalid
from fmicl_recipes.trainer import Trainer
from fmicl_recipes.weights.layouts import Weights
from fmicl_recipes.weights.model import METHOD, Model, open_model
from fmicl_recipes.weights.networks import PARTS, QUEUE
from fmicl_recipes.weights.tensors import read_weights


class Start(NamedTuple):
    """What a run begins with.

    Args:
        weights: all arrays of the method by canonical name.
        taken: names of the parts that are those of the other run.
        left: names of the parts that are as they were.
    """

    weights: Weights
    taken: list[str]
    left: list[str]

    @property
    def told(self) -> str:
        """The same in a sentence."""
        rest = f"; drawn anew: {', '.join(self.left)}" if self.left else ""
        return f"weights of the other run: {', '.join(self.taken)}{rest}"


def starting_weights(trainer: Trainer, init: str | Path) -> Start:
    """The weights that a run begins with, of which the encoder's are those of another run.

    Where both are of one method, networks of equal shapes are taken, too, and the queue with the
    heads that made its keys. Else the key encoder is a copy of the encoder, as when a run begins.

    Args:
        trainer: trainer of the run, untrained.
        init: folder of the other run.

    Raises:
        ValueError: there is no run with weights in the folder, or its encoder is another one.
    """
    model = open_model(init)
    check_alike(trainer, model)
    own = trainer.weights()
    parts = {name.split(".")[0] for name in own} - {"encoder"}
    shapes = {
        name.removeprefix("encoder."): array.shape
        for name, array in own.items()
        if name.startswith("encoder.")
    }
    stored = {f"encoder.{name}": array for name, array in model.weights(shapes).items()}
    weights, taken = own | stored, ["encoder"]
    for part, arrays in _others(trainer, model, own).items():
        weights |= arrays
        taken.append(part)
    if "key_encoder" in parts and "key_encoder" not in taken:
        weights |= {f"key_{name}": array for name, array in stored.items()}
        taken.append("key_encoder")
    for name in taken:  # a network that has diverged teaches nothing
        check_finite(name, weights, init)
    return Start(weights, taken, sorted(parts - {*taken} - {"pointer", "queue_labels"}))


def _others(trainer: Trainer, model: Model, own: Weights) -> dict[str, Weights]:
    """What is taken of another run beside its encoder, by part.

    Labels in a queue are those of the other run's images, so it is taken with the same data alone.
    """
    before = model.settings
    if before.get("method") != trainer.settings.method or not trainer.architecture.ours:
        return {}
    others = read_weights(model.file.with_name(METHOD))
    found: dict[str, Weights] = {}
    for part in PARTS:
        names = [name for name in own if name.startswith(f"{part}.")]
        if names and _alike(names, own, others):
            found[part] = {name: others[name] for name in names}
    queue = [name for name in QUEUE if name in own]
    same = "queue_labels" not in own or before.get("data") == trainer.settings.data
    ready = queue and same and {"head", "key_head"} <= {*found} and _alike(queue, own, others)
    if ready and others["pointer"] in range(len(own["queue"])):
        found["queue"] = {name: others[name] for name in queue}
    return found


def check_alike(trainer: Trainer, model: Model) -> None:
    """Check that a model has the encoder of a trainer.

    Raises:
        ValueError: it has another one; the first option that differs is named.
    """
    own, other = trainer.architecture, model.architecture
    wanted, found = ({"encoder": a.name} | a.options for a in (own, other))
    for name, value in wanted.items():
        if found.get(name) != value:
            raise invalid("init", f"a run with {name} = {value!r}, as this one", found.get(name),
                          what=name)  # fmt: skip


def check_finite(part: str, weights: Weights, init: str | Path) -> None:
    """Check that the arrays of a part are finite.

    Raises:
        ValueError: they are not.
    """
    for name, array in weights.items():
        if name.split(".")[0] == part and not np.isfinite(array).all():
            raise invalid("init", f"finite weights, and {name} has others", str(init))


def _alike(names: list[str], own: Weights, others: Weights) -> bool:
    return all(name in others and others[name].shape == own[name].shape for name in names)
