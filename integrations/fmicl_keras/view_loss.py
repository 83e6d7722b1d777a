"""What losses of views have in common: what they read, weights, reductions and configuration."""

from __future__ import annotations

from typing import Any, Self

import keras

from fmicl_core.checks import check_bool
from fmicl_keras.backend import Rows, Tensor, count, float32_at_least, library, mean, per_sample
from fmicl_keras.predictions import arrays, check_pairs, read
from fmicl_keras.replicas import add_up, gather, own_share, replica_count
from fmicl_keras.serialization import SPECS, spec_from_config, spec_to_config
from fmicl_keras.small_batches import or_zero


class ViewLoss(keras.losses.Loss):
    """The base of losses of two or more views: y_pred is (batch, V, dim), y_true may hold ids.

    A subclass gives the loss of a batch and the losses of its rows, whose mean it is, and has the
    options `negatives`, `positives` and `normalize`.
    """

    def __init__(
        self, ids_from_targets: bool, reduction: str | None, name: str | None, dtype: Any
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=float32_at_least(dtype))
        self.ids_from_targets = check_bool("ids_from_targets", ids_from_targets)

    def of_batch(self, x: Tensor, y: Tensor | None, ids: Tensor | None) -> Tensor:
        """The loss of two views x and y (N, D), or of a single array x with ids (N,); scalar."""
        raise NotImplementedError

    def of_rows(self, rows: Rows, ids: Tensor | None) -> Tensor:
        """The loss of every row of prepared features; (N,)."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """The options, as they would be passed."""
        raise NotImplementedError

    def read(self, y_true: Any, y_pred: Any) -> tuple[Tensor, Tensor | None]:
        """Checked views (batch, V, dim) and the ids (batch,) of their samples, or None.

        Raises:
            ValueError: y_pred or y_true does not fit, or the options need two views of a sample.
        """
        views, ids = read(y_true, y_pred, self.dtype, self.ids_from_targets)
        options = self.options()
        check_pairs(views.shape[1], options["negatives"], options["positives"])
        return views, ids

    def __call__(self, y_true: Any, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """The reduced loss.

        Args:
            y_true: one whole number per sample, (batch,) or (batch, 1), if `ids_from_targets`;
                otherwise not used: None, or targets of any type and structure.
            y_pred: (batch, V, dim) features of the views of every sample; with `ids_from_targets`
                also (batch, dim).
            sample_weight: (batch,) factors of the samples' losses, or None.

        Raises:
            ValueError: y_pred or y_true has another shape or dtype, or y_pred has a Keras mask of
                samples or views.

        Warns:
            UserWarning: the batch has no negative or no positive pair; its loss is 0.
        """
        with keras.name_scope(self.name):
            if sample_weight is not None or self.reduction in (None, "none"):
                values = self.call(y_true, y_pred)
                return self._reduced(values, per_sample(sample_weight, values))
            # Only the mean counts, which is the loss of the batch: no need to know single samples.
            views, ids = self.read(y_true, y_pred)
            loss = or_zero(lambda *of: self.of_batch(*arrays(*of)), views, ids, is_share=True)
            if self.reduction == "sum":
                return loss * count(views, loss.dtype)
            return loss / replica_count()

    def _reduced(self, values: Tensor, weights: Tensor) -> Tensor:
        values = values * weights
        if self.reduction in (None, "none"):
            return values
        total = keras.ops.sum(values)
        if self.reduction == "sum":
            return total
        weighted = self.reduction == "mean_with_sample_weight"
        divisor = keras.ops.sum(weights) if weighted else count(values, values.dtype)
        # Over all replicas; then, as Keras scales every mean, by their number, since the strategy
        # adds their gradients up.
        total, divisor = add_up(total), add_up(divisor)
        divisor = keras.ops.where(divisor == 0, keras.ops.ones_like(divisor), divisor)
        return total / divisor / replica_count()

    def call(self, y_true: Any, y_pred: Tensor) -> Tensor:
        """The loss of every sample, (batch,), whose mean is the loss of the batch."""
        views, ids = self.read(y_true, y_pred)
        # A sample's own loss is none of the library's, which would share the work out.
        losses = or_zero(self._of_samples, gather(views), gather(ids), axis=(1, 2))
        return own_share(losses, views)

    def _of_samples(self, views: Tensor, ids: Tensor | None) -> Tensor:
        x, y, ids = arrays(views, ids)
        normalize = library("ops").normalize_rows if self.options()["normalize"] else lambda v: v
        rows = {name: normalize(v) for name, v in (("x", x), ("y", y)) if v is not None}
        values = self.of_rows(rows, ids)
        return values if y is not None else mean(keras.ops.reshape(values, (-1, views.shape[1])), 1)

    def get_config(self) -> dict[str, Any]:
        """Everything that makes an equal loss by `from_config`."""
        config = super().get_config() | {"dtype": self.dtype} | self.options()
        specs = {k: spec_to_config(k, config[k]) for k in SPECS if k in config}
        return config | specs

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The loss `get_config` described.

        Raises:
            ValueError: a divergence or similarity of one's own is neither registered nor among the
                `custom_objects`.
        """
        return cls(**config | {k: spec_from_config(k, config[k]) for k in SPECS if k in config})

    def __repr__(self) -> str:
        """The options, as they would be pasted."""
        given = {name: value for name, value in self.options().items() if value is not None}
        listed = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return f"{type(self).__name__}({listed})"
