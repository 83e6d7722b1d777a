"""How close positives are and how evenly features spread, as metrics for `model.compile`.

`Alignment` and `Uniformity` are those of Wang and Isola (2020), which mean the same whatever the
loss. `FMICLScore` and `FMICLPenalty` are the terms of one f-MICL loss, loss = -score + alpha *
penalty. `ContrastiveAccuracy` is the share of samples that are told from the rest of the batch.

All read y_pred (batch, V, dim). The terms are of all V views, and of ids in y_true, as the loss is;
the others are of the first two views of every sample. Each is a number of a batch, in a strategy
with replicas of the union of their batches; what is shown is its mean over the batches since the
last reset, weighted by their sizes. A batch of a single sample, or of samples with one id, has no
such number, and is left out.
"""

from __future__ import annotations

from typing import Any, Self

import keras
from keras import ops

from fmicl_core.checks import invalid
from fmicl_core.related import RELATED_DEFAULTS
from fmicl_core.renamed import warn_renamed
from fmicl_keras.backend import Tensor, count, library, product
from fmicl_keras.loss import FMICLLoss
from fmicl_keras.predictions import read
from fmicl_keras.replicas import gather
from fmicl_keras.sample_losses import without_diagonal
from fmicl_keras.small_batches import has_pairs, or_zero


class _OfBatches(keras.metrics.Mean):
    """Mean over samples of a number that a batch has."""

    #: Whether `of_batch` takes this replica's share of the batch, and not the views of all.
    takes_share = False

    def read(self, y_true: Any, y_pred: Any) -> tuple[Tensor, Tensor | None]:
        """Checked views (batch, V, dim), and the ids (batch,) of their samples or None."""
        return read(y_true, y_pred, self.dtype, ids_from_targets=False)

    def of_batch(self, views: Tensor, ids: Tensor | None) -> Tensor:
        raise NotImplementedError

    def update_state(self, y_true: Any, y_pred: Tensor, sample_weight: Any = None) -> None:
        """Take in a batch, y_pred (batch, V, dim); weights are not used."""
        own, ids = self.read(y_true, y_pred)
        views, ids = (own, ids) if self.takes_share else (gather(own), gather(ids))
        size = count(own, self.dtype)
        enough = has_pairs(views, ids, self.takes_share)
        counted = ops.where(enough, size, ops.zeros_like(size))
        value = or_zero(self.of_batch, views, ids, is_share=self.takes_share)
        super().update_state(value, sample_weight=counted)


class _OfFeatures(_OfBatches):
    """Mean over samples of a number that the views x and y, (N, D) and of unit length, have."""

    def of_views(self, x: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError

    def of_batch(self, views: Tensor, ids: Tensor | None) -> Tensor:
        rows = library("inputs").prepare(views[:, 0], views[:, 1], None, True)
        return self.of_views(rows["x"], rows["y"])


@keras.saving.register_keras_serializable("fmicl")
class Alignment(_OfFeatures):
    """Mean squared distance |x_i - y_i|^2 of the two views on the unit sphere, in [0, 4].

    Lower is closer. Source: Wang and Isola (2020), with exponent 2.

    Args:
        name: name of the metric.
        dtype: dtype of the metric.
    """

    def __init__(self, name: str = "alignment", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def of_views(self, x: Tensor, y: Tensor) -> Tensor:
        """The mean over the batch; scalar."""
        return ops.mean(ops.sum(ops.square(x - y), axis=1))


@keras.saving.register_keras_serializable("fmicl")
class Uniformity(_OfFeatures):
    """Log mean of exp(-2 |x_i - x_j|^2) over i != j in a batch, on the unit sphere, in [-8, 0].

    Lower is more uniform. Source: Wang and Isola (2020), t = 2.

    Args:
        name: name of the metric.
        dtype: dtype of the metric.
    """

    def __init__(self, name: str = "uniformity", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def of_views(self, x: Tensor, y: Tensor) -> Tensor:
        """The uniformity of the first view; scalar."""
        potential = -RELATED_DEFAULTS.t * (2.0 - 2.0 * product(x, x))
        return ops.log(ops.mean(ops.exp(without_diagonal(potential))))


@keras.saving.register_keras_serializable("fmicl")
class ContrastiveAccuracy(_OfFeatures):
    """Share of samples whose own second view is nearest, by cosine, among all in the batch.

    Of sample i the first view x_i is held against every second view y_j, and counts as right where
    x_i . y_i is strictly largest on the unit sphere. A tie counts as wrong, so that features which
    are all alike score 0 and not 1. In [0, 1], higher is better; chance is 1 / N in a batch of N,
    so compare only numbers of batches of one size. It holds all pairs, O(N^2) memory.

    Args:
        name: name of the metric.
        dtype: dtype of the metric.
    """

    def __init__(self, name: str = "contrastive_accuracy", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def of_views(self, x: Tensor, y: Tensor) -> Tensor:
        """The accuracy in the batch; scalar."""
        cosines = product(x, y)
        others = ops.max(without_diagonal(cosines), axis=1)
        # From the one matrix: a product of its own would differ in the last digit, and break ties.
        right = ops.diagonal(cosines) > others
        return ops.mean(ops.cast(right, cosines.dtype))


class _Term(_OfBatches):
    takes_share = True

    def __init__(self, loss: FMICLLoss, name: str, dtype: Any = None) -> None:
        if not isinstance(loss, FMICLLoss):
            raise invalid("loss", "an FMICLLoss", loss)
        super().__init__(name=name, dtype=dtype)
        self.loss = loss

    def read(self, y_true: Any, y_pred: Any) -> tuple[Tensor, Tensor | None]:
        """What the loss reads."""
        return self.loss.read(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """Everything that makes an equal metric by `from_config`."""
        return super().get_config() | {"loss": keras.losses.serialize(self.loss)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The metric `get_config` described."""
        return cls(**config | {"loss": keras.losses.deserialize(config["loss"])})


@keras.saving.register_keras_serializable("fmicl")
class FMICLScore(_Term):
    """Mean score of the positive pairs in an f-MICL loss; higher is closer.

    Args:
        loss: whose term it is; taking it costs that loss, without its gradient, once more.
        name: name of the metric.
        dtype: dtype of the metric.

    Raises:
        ValueError: loss is no FMICLLoss.
    """

    def __init__(self, loss: FMICLLoss, name: str = "fmicl_score", dtype: Any = None) -> None:
        super().__init__(loss, name, dtype)

    def of_batch(self, views: Tensor, ids: Tensor | None) -> Tensor:
        """Of the batch; scalar."""
        return self.loss.terms_of(views, ids).score


@keras.saving.register_keras_serializable("fmicl")
class FMICLPenalty(_Term):
    """Mean penalty f*(s) of the negative pairs in an f-MICL loss; lower is better.

    Args:
        loss: as for `FMICLScore`.
        name: name of the metric.
        dtype: dtype of the metric.

    Raises:
        ValueError: loss is no FMICLLoss.
    """

    def __init__(self, loss: FMICLLoss, name: str = "fmicl_penalty", dtype: Any = None) -> None:
        super().__init__(loss, name, dtype)

    def of_batch(self, views: Tensor, ids: Tensor | None) -> Tensor:
        """Of the batch; scalar."""
        return self.loss.terms_of(views, ids).penalty


@keras.saving.register_keras_serializable("fmicl")
class FMICLAlignment(FMICLScore):
    """`FMICLScore` by its name of the last version.

    Args:
        loss: as for `FMICLScore`.
        name: name of the metric.
        dtype: dtype of the metric.
    """

    def __init__(self, loss: FMICLLoss, name: str = "fmicl_alignment", dtype: Any = None) -> None:
        warn_renamed("FMICLAlignment", "FMICLScore")
        super().__init__(loss, name, dtype)


@keras.saving.register_keras_serializable("fmicl")
class FMICLUniformity(FMICLPenalty):
    """`FMICLPenalty` by its name of the last version.

    Args:
        loss: as for `FMICLScore`.
        name: name of the metric.
        dtype: dtype of the metric.
    """

    def __init__(self, loss: FMICLLoss, name: str = "fmicl_uniformity", dtype: Any = None) -> None:
        warn_renamed("FMICLUniformity", "FMICLPenalty")
        super().__init__(loss, name, dtype)
