"""f-MICL and InfoNCE as Keras losses, for `model.compile(loss=...)` on every Keras backend."""

from __future__ import annotations

from typing import Any, Self

import keras

from fmicl_core import FMICL, Divergence, Similarity
from fmicl_core.objective import DEFAULTS
from fmicl_core.ranks import features_are_gathered
from fmicl_core.related import INFO_NCE_OPTIONS, RELATED_DEFAULTS, check_info_nce
from fmicl_keras.backend import Tensor, count, float32_at_least, library, per_sample
from fmicl_keras.predictions import check_views, or_zero, unmasked
from fmicl_keras.replicas import add_up, gather, own_share, replica_count
from fmicl_keras.sample_losses import fmicl_by_anchor, info_nce_by_anchor
from fmicl_keras.serialization import SPECS, spec_from_config, spec_to_config


class TwoViewLoss(keras.losses.Loss):
    """The base of losses of two views: y_pred is (batch, 2, dim), y_true is not used.

    A subclass gives the loss of a batch and the losses of its samples, whose mean it is.
    """

    def __init__(self, reduction: str | None, name: str | None, dtype: Any) -> None:
        super().__init__(name=name, reduction=reduction, dtype=float32_at_least(dtype))

    def of_batch(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of the views x (N, D) and y (N, D); scalar."""
        raise NotImplementedError

    def of_samples(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of every sample; (N,)."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """The options, as they would be passed."""
        raise NotImplementedError

    def __call__(self, y_true: Any, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """The reduced loss.

        Args:
            y_true: not used; None, or targets of any type and structure.
            y_pred: (batch, 2, dim) features of the two views of every sample.
            sample_weight: (batch,) factors of the samples' losses, or None.

        Raises:
            ValueError: y_pred has another shape, or a Keras mask of samples or views.

        Warns:
            UserWarning: the batch is a single sample, which has no negative; its loss is 0.
        """
        with keras.name_scope(self.name):
            y_pred = keras.ops.convert_to_tensor(unmasked(y_pred), dtype=self.dtype)
            if sample_weight is not None or self.reduction in (None, "none"):
                values = self.call(y_true, y_pred)
                return self._reduced(values, per_sample(sample_weight, values))
            # Only the mean counts, which is the loss of the batch: no need to know single samples.
            loss = or_zero(self.of_batch, gather(y_pred))
            if self.reduction == "sum":
                return loss * count(y_pred, loss.dtype)
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
        return own_share(or_zero(self.of_samples, gather(y_pred), axis=(1, 2)), y_pred)

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
        listed = ", ".join(f"{name}={value!r}" for name, value in self.options().items())
        return f"{type(self).__name__}({listed})"


@keras.saving.register_keras_serializable("fmicl")
class FMICLLoss(TwoViewLoss):
    """f-MICL loss: - mean_i s(x_i, y_i) + alpha * mean over negative pairs of f*(s).

    Negatives are by default the other samples of x, `negatives="anchor"`: the paper's printed
    equation, and the cheapest. `InfoNCELoss` takes "all" by default, as NT-Xent does.

    y_pred holds both views, x = y_pred[:, 0] and y = y_pred[:, 1]; y_true is not used, so `fit` may
    have no targets, or any. A sample's own loss, which `sample_weight` and `class_weight` multiply
    and reduction "none" returns, is - s(x_i, y_i) + alpha * mean of f*(s) over the negatives of
    sample i as the anchor; weights do not change whom it is compared with. Their mean is the loss
    of the batch, in a strategy with replicas that of the union of their batches.

    Args:
        divergence, similarity, alpha, negatives, normalize, implementation, check_finite: options
            of the backend's `fmicl_loss`. With weights, or reduction "none", all pairs are held at
            once whatever the implementation, and finiteness is not checked.
        reduction: "sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none" or None.
        name: name of the loss.
        dtype: dtype of the arithmetic, "float32" or "float64", or None for `keras.config.floatx()`;
            half precision is computed in float32.

    Raises:
        ValueError: an option is unknown or out of range; y_pred is not (batch, 2, dim), or masked.

    Warns:
        UserWarning: a batch is a single sample, which has no negative; its loss is 0.

    Source: the objective of Lu et al. (2023).
    """

    def __init__(
        self,
        *,
        divergence: Divergence | str = DEFAULTS.divergence,
        similarity: Similarity | str = DEFAULTS.similarity,
        alpha: float = DEFAULTS.alpha,
        negatives: str = DEFAULTS.negatives,
        normalize: bool = DEFAULTS.normalize,
        implementation: str = "auto",
        check_finite: bool = True,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "fmicl_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(reduction, name, dtype)
        # What it is given here are the rows of all replicas already.
        alone = {"distributed": False} if keras.config.backend() == "tensorflow" else {}
        #: The loss of the backend's library.
        self.native = library().FMICLLoss(
            divergence=divergence, similarity=similarity, alpha=alpha, negatives=negatives,
            normalize=normalize, implementation=implementation, check_finite=check_finite, **alone,
        )  # fmt: skip

    @property
    def objective(self) -> FMICL:
        """The settings."""
        return self.native.objective

    def terms(self, y_pred: Tensor) -> Any:
        """Named tuple (loss, score, penalty) of a batch, as the backend's `fmicl_terms`.

        Raises:
            ValueError: y_pred is not (batch, 2, dim), or masked, or has a single sample.
        """
        y_pred = keras.ops.convert_to_tensor(unmasked(y_pred), dtype=self.dtype)
        check_views(y_pred.shape)
        y_pred = gather(y_pred)
        return self.native.terms(y_pred[:, 0], y_pred[:, 1])

    def of_batch(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of the views x (N, D) and y (N, D); scalar."""
        return self.native(x, y)

    def of_samples(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of every sample; (N,)."""
        rows = library("inputs").prepare(x, y, None, self.objective.normalize)
        return fmicl_by_anchor(rows, self.objective)

    def options(self) -> dict[str, Any]:
        """The options, as they would be passed."""
        own = {name: getattr(self.objective, name) for name in DEFAULTS._fields}
        more = ("implementation", "check_finite")
        return own | {name: getattr(self.native, name) for name in more}


@keras.saving.register_keras_serializable("fmicl")
class InfoNCELoss(TwoViewLoss):
    """InfoNCE: mean over anchors of log(e^s+ + sum over negatives of e^s-) - s+.

    Negatives are by default all other samples of both views, `negatives="all"`, as in NT-Xent.
    `FMICLLoss` takes "anchor" by default, the paper's printed equation, and the cheapest.

    s = x . y / temperature. The conventions are those of `FMICLLoss`; a sample's own loss is the
    mean over its views that are anchors.

    Args:
        temperature, negatives, normalize, implementation: options of the backend's `info_nce_loss`.
            With weights, or reduction "none", all pairs are held at once whatever the
            implementation.
        reduction, name, dtype: options of `FMICLLoss`.

    Raises:
        ValueError: an option is unknown or out of range; y_pred is not (batch, 2, dim), or masked.

    Warns:
        UserWarning: a batch is a single sample, which has no negative; its loss is 0.

    Source: Oord et al. (2018), eq. 4; Chen et al. (2020), eq. 1.
    """

    def __init__(
        self,
        *,
        temperature: float = RELATED_DEFAULTS.temperature,
        negatives: str = RELATED_DEFAULTS.negatives,
        normalize: bool = RELATED_DEFAULTS.normalize,
        implementation: str = "auto",
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "info_nce_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(reduction, name, dtype)
        features_are_gathered()  # from all replicas, before `of_batch`
        checked = check_info_nce(temperature, negatives, normalize, implementation)
        self.temperature, self.negatives = checked["temperature"], negatives
        self.normalize, self.implementation = normalize, implementation

    def of_batch(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of the views x (N, D) and y (N, D); scalar."""
        return library().info_nce_loss(x, y, **self.options())

    def of_samples(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of every sample; (N,)."""
        rows = library("inputs").prepare(x, y, None, self.normalize)
        return info_nce_by_anchor(rows, self.temperature, self.negatives)

    def options(self) -> dict[str, Any]:
        """The options, as they would be passed."""
        return {name: getattr(self, name) for name in INFO_NCE_OPTIONS}
