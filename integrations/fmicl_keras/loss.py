"""f-MICL and InfoNCE as Keras losses, for `model.compile(loss=...)` on every Keras backend."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from typing import Any

import keras

from fmicl_core import FMICL, Divergence, Similarity
from fmicl_core.objective import DEFAULTS
from fmicl_core.related import INFO_NCE_OPTIONS, RELATED_DEFAULTS, check_info_nce
from fmicl_keras.backend import Rows, Tensor, library
from fmicl_keras.predictions import arrays
from fmicl_keras.sample_losses import fmicl_by_anchor, info_nce_by_anchor
from fmicl_keras.shares import shared_out
from fmicl_keras.view_loss import ViewLoss


@keras.saving.register_keras_serializable("fmicl")
class FMICLLoss(ViewLoss):
    """f-MICL loss: - mean_i s(x_i, y_i) + alpha * mean over negative pairs of f*(s).

    Negatives are by default the other samples of x, `negatives="anchor"`: the paper's printed
    equation, and the cheapest. `InfoNCELoss` takes "all" by default, as NT-Xent does.

    y_pred holds both views, x = y_pred[:, 0] and y = y_pred[:, 1]. With V > 2 views (batch, V, dim)
    every two views of a sample are positives of each other. y_true is not used, so `fit` may have
    no targets, or any; with `ids_from_targets=True` it holds labels, or other ids: samples with
    equal ids are positives of each other, and no negatives.

    A sample's own loss, which `sample_weight` and `class_weight` multiply and reduction "none"
    returns, is - s(x_i, y_i) + alpha * mean of f*(s) over the negatives of sample i as the anchor;
    with ids, or more views, see `fmicl_by_anchor`. With alpha="auto" all samples of a batch have
    its alpha. Weights do not change whom it is compared with. Their mean is the loss of the batch,
    in a strategy with replicas that of the union of their batches.

    Args:
        divergence: as for the backend's `fmicl_loss`.
        similarity: as for the backend's `fmicl_loss`.
        alpha: as for the backend's `fmicl_loss`; a number or "auto".
        strength: as for the backend's `fmicl_loss`.
        logit_scale: as for the backend's `fmicl_loss`; a number.
        logit_bias: as for the backend's `fmicl_loss`; a number.
        negatives: as for the backend's `fmicl_loss`. Unless there are two views of a sample,
            "anchor" or "all", either of which stands for all pairs of different samples.
        positives: as for the backend's `fmicl_loss`. Unless there are two views of a sample, "ids".
        normalize: as for the backend's `fmicl_loss`.
        implementation: as for the backend's `fmicl_loss`. With weights, or reduction "none", all
            pairs are held at once whatever it is.
        check_finite: as for the backend's `fmicl_loss`. With weights, or reduction "none",
            nothing is checked.
        ids_from_targets: whether y_true holds the ids, one whole number per sample, (batch,) or
            (batch, 1). y_pred may then be (batch, dim), too, a single view of every sample.
        reduction: "sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none" or None.
        name: name of the loss.
        dtype: dtype of the arithmetic, "float32" or "float64", or None for `keras.config.floatx()`;
            half precision is computed in float32.

    Raises:
        ValueError: an option is unknown or out of range; y_pred is not (batch, V, dim), or masked;
            ids are no whole numbers, or not one per sample.

    Warns:
        UserWarning: a batch has no negative or no positive pair, as a single sample has none; its
            loss is 0.

    Source: the objective of Lu et al. (2023).
    """

    def __init__(
        self,
        *,
        divergence: Divergence | str = DEFAULTS.divergence,
        similarity: Similarity | str = DEFAULTS.similarity,
        alpha: float | str = DEFAULTS.alpha,
        strength: float | None = None,
        logit_scale: float | None = None,
        logit_bias: float | None = None,
        negatives: str = DEFAULTS.negatives,
        positives: str = DEFAULTS.positives,
        normalize: bool = DEFAULTS.normalize,
        implementation: str = "auto",
        check_finite: bool = True,
        ids_from_targets: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "fmicl_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(ids_from_targets, reduction, name, dtype)
        #: The loss of the backend's library.
        self.native = library().FMICLLoss(
            divergence=divergence, similarity=similarity, alpha=alpha, strength=strength,
            logit_scale=logit_scale, logit_bias=logit_bias, negatives=negatives,
            positives=positives, normalize=normalize, implementation=implementation,
            check_finite=check_finite,
        )  # fmt: skip

    @property
    def objective(self) -> FMICL:
        """The settings."""
        return self.native.objective

    def terms(self, y_pred: Tensor, y_true: Any = None) -> Any:
        """Named tuple (loss, score, penalty, alpha) of a batch, as the backend's `fmicl_terms`.

        Args:
            y_pred: as for a call of the loss.
            y_true: as for a call of the loss.

        Raises:
            ValueError: y_pred or y_true does not fit, or the batch has no positive or no negative
                pair.
        """
        views, ids = self.read(y_true, y_pred)
        return self.terms_of(views, ids)

    def terms_of(self, views: Tensor, ids: Tensor | None) -> Any:
        """`terms` of this replica's checked views (N, V, D) and ids (N,)."""
        return self._terms(*arrays(views, ids))

    def _terms(self, x: Tensor, y: Tensor | None, ids: Tensor | None) -> Any:
        return shared_out(self._native_terms, {"x": x, "y": y, "ids": ids})

    def of_batch(self, x: Tensor, y: Tensor | None, ids: Tensor | None) -> Tensor:
        """The loss of two views x and y (N, D), or of a single array x with ids (N,); scalar."""
        return self._terms(x, y, ids).loss

    def _native_terms(self, *views: Tensor, axis_name: str | None = None, **ids: Tensor) -> Any:
        """The terms by the backend's library; JAX alone may name an axis of its devices."""
        native = self.native if axis_name is None else replace(self.native, axis_name=axis_name)
        return native.terms(*views, **ids)

    def of_rows(self, rows: Rows, ids: Tensor | None) -> Tensor:
        """The loss of every row of prepared features; (N,)."""
        return fmicl_by_anchor(rows, self.objective, ids)

    def options(self) -> dict[str, Any]:
        """The options, as they would be passed."""
        own = {field.name: getattr(self.objective, field.name) for field in fields(FMICL)}
        more = ("implementation", "check_finite")
        own |= {name: getattr(self.native, name) for name in more}
        return own | {"ids_from_targets": self.ids_from_targets}


@keras.saving.register_keras_serializable("fmicl")
class InfoNCELoss(ViewLoss):
    """InfoNCE: mean over anchors of log(e^s+ + sum over negatives of e^s-) - s+.

    Negatives are by default all other samples of both views, `negatives="all"`, as in NT-Xent.
    `FMICLLoss` takes "anchor" by default, the paper's printed equation, and the cheapest.

    s = x . y / temperature. The conventions are those of `FMICLLoss`; a sample's own loss is the
    mean over its views that are anchors. With `ids_from_targets=True` and labels it is the
    supervised contrastive loss (Khosla et al. 2020, L_out).

    Args:
        temperature: as for the backend's `info_nce_loss`; a number.
        negatives: as for the backend's `info_nce_loss`.
        normalize: as for the backend's `info_nce_loss`.
        positives: as for the backend's `info_nce_loss`.
        implementation: as for the backend's `info_nce_loss`. With weights, or reduction "none", all
            pairs are held at once whatever it is.
        ids_from_targets: as for `FMICLLoss`.
        reduction: as for `FMICLLoss`.
        name: as for `FMICLLoss`.
        dtype: as for `FMICLLoss`.

    Raises:
        ValueError: an option is unknown or out of range; y_pred is not (batch, V, dim), or masked;
            ids are no whole numbers, or not one per sample.

    Warns:
        UserWarning: a batch has no negative or no positive pair, as a single sample has none; its
            loss is 0.

    Source: Oord et al. (2018), eq. 4; Chen et al. (2020), eq. 1; Khosla et al. (2020), eq. 2.
    """

    def __init__(
        self,
        *,
        temperature: float = RELATED_DEFAULTS.temperature,
        negatives: str = RELATED_DEFAULTS.negatives,
        normalize: bool = RELATED_DEFAULTS.normalize,
        positives: str = RELATED_DEFAULTS.positives,
        implementation: str = "auto",
        ids_from_targets: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "info_nce_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(ids_from_targets, reduction, name, dtype)
        checked = check_info_nce(temperature, negatives, normalize, positives, implementation)
        self.temperature, self.negatives = checked["temperature"], negatives
        self.normalize, self.positives, self.implementation = normalize, positives, implementation

    def of_batch(self, x: Tensor, y: Tensor | None, ids: Tensor | None) -> Tensor:
        """The loss of two views x and y (N, D), or of a single array x with ids (N,); scalar."""
        options = {name: getattr(self, name) for name in INFO_NCE_OPTIONS}
        loss = partial(library().info_nce_loss, **options)
        return shared_out(loss, {"x": x, "y": y, "ids": ids})

    def of_rows(self, rows: Rows, ids: Tensor | None) -> Tensor:
        """The loss of every row of prepared features; (N,)."""
        return info_nce_by_anchor(rows, self.temperature, self.negatives, self.positives, ids)

    def options(self) -> dict[str, Any]:
        """The options, as they would be passed."""
        return {name: getattr(self, name) for name in (*INFO_NCE_OPTIONS, "ids_from_targets")}
