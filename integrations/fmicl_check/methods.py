"""SimCLR, MoCo and MoCo v3, each written once, as a function that every framework can run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fmicl_check.base import Adapter
from fmicl_check.setup import PARTS

Weights = dict[str, Any]
#: Losses by name: the function of the backends, and its options. Sixteen dimensions want a small
#: alpha: with the default of 40 a momentum encoder's keys and the queries drift to opposite poles.
LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "kl-micl": ("fmicl_loss", {"divergence": "kl", "alpha": 8.0}),
    "info-nce": ("info_nce_loss", {}),
}


@dataclass(frozen=True)
class Model:
    """A perceptron and a loss in one framework.

    Args:
        adapter: adapter of the framework.
        loss_name: name in `LOSSES`.
    """

    adapter: Adapter
    loss_name: str

    def loss(self, x: Any, y: Any, **where: Any) -> Any:
        """The framework's loss; `where` says which the negatives are."""
        function, options = LOSSES[self.loss_name]
        return getattr(self.adapter.library, function)(x, y, **options, **where)

    def embed(self, weights: Weights, images: Any) -> Any:
        """Projections (N, DIM) of images (N, 64)."""
        features = self.activation(self._layers(weights, "encoder", images))
        return self._layers(weights, "head", features)

    def predict(self, weights: Weights, projections: Any) -> Any:
        """Predictions (N, DIM) that the predictor makes from projections (N, DIM)."""
        return self._layers(weights, "predictor", projections)

    def activation(self, x: Any) -> Any:
        """SiLU, which is smooth: at the kink of ReLU rounding would choose between two slopes."""
        return x * self.adapter.ops.sigmoid(x)

    def stop_gradient(self, x: Any) -> Any:
        """x, through which no gradient flows."""
        return self.adapter.stop_gradient(x)

    def _layers(self, weights: Weights, part: str, x: Any) -> Any:
        for layer in range(len(PARTS[part]) - 1):
            x = self.activation(x) if layer else x
            x = x @ weights[f"{part}.{layer}.weight"] + weights[f"{part}.{layer}.bias"]
        return x


def simclr(model: Model, weights: Weights, state: Weights, x1: Any, x2: Any) -> tuple[Any, ...]:
    """Two views, one encoder, negatives from both views (Chen et al. 2020)."""
    return (model.loss(model.embed(weights, x1), model.embed(weights, x2), negatives="all"),)


def moco(model: Model, weights: Weights, state: Weights, x1: Any, x2: Any) -> tuple[Any, ...]:
    """Keys by a momentum encoder, negatives from a queue of earlier keys (He et al. 2020)."""
    keys = model.stop_gradient(model.embed(state["momentum"], x2))
    return model.loss(model.embed(weights, x1), keys, bank=state["queue"]), keys


def moco_v3(model: Model, weights: Weights, state: Weights, x1: Any, x2: Any) -> tuple[Any, ...]:
    """Predictions of the other view's keys, negatives from the batch (Chen et al. 2021)."""
    q1, q2 = (model.predict(weights, model.embed(weights, x)) for x in (x1, x2))
    k1, k2 = (model.stop_gradient(model.embed(state["momentum"], x)) for x in (x1, x2))
    return (model.loss(q1, k2, negatives="cross") + model.loss(q2, k1, negatives="cross"),)


@dataclass(frozen=True)
class Method:
    """A method, and what it keeps between steps.

    Args:
        step: function of model, weights, state and two views that gives the loss and, for a method
            with a queue, the keys.
        momentum: momentum of the momentum encoder, or None if the method has none.
        queue: number of rows of the queue, or 0.
    """

    step: Callable[..., tuple[Any, ...]]
    momentum: float | None = None
    queue: int = 0


#: Adding a method: its function and one line here.
METHODS = {
    "simclr": Method(simclr),
    "moco": Method(moco, momentum=0.99, queue=512),
    "moco-v3": Method(moco_v3, momentum=0.99),
}
