"""InfoNCE and the other losses that f-MICL generalises, in TensorFlow."""

from __future__ import annotations

import math

import tensorflow as tf

from fmicl_core.checks import check_positive, fixed_option
from fmicl_core.forms import check_implementation, choose_form
from fmicl_core.related import (
    INFO_NCE_OPTIONS,
    RELATED_DEFAULTS,
    check_info_nce,
    info_nce_anchors,
)
from fmicl_tensorflow.dense import Rows
from fmicl_tensorflow.distributed import tell_of_replicas
from fmicl_tensorflow.inputs import prepare
from fmicl_tensorflow.ops import TENSORFLOW, off_diagonal, square_lengths
from fmicl_tensorflow.tiled_related import tiled_info_nce


def info_nce_loss(
    x: tf.Tensor,
    y: tf.Tensor | None = None,
    /,
    *,
    temperature: float = RELATED_DEFAULTS.temperature,
    negatives: str = RELATED_DEFAULTS.negatives,
    bank: tf.Tensor | None = None,
    normalize: bool = RELATED_DEFAULTS.normalize,
    implementation: str = "auto",
) -> tf.Tensor:
    """InfoNCE: mean over anchors of log(e^s+ + sum over negatives of e^s-) - s+.

    Negatives are by default all other samples of both views, `negatives="all"`, as in NT-Xent.
    `fmicl_loss` takes "anchor" by default, the paper's printed equation, and the cheapest.

    s = x . y / temperature; s+ is the score of the anchor's other view.

    The rows that it is given are the whole batch. Among several ranks, devices or replicas gather
    their features first; `fmicl_loss` does that itself.

    Args:
        x: (N, D) features of the first view, any float dtype.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x.
            Two views in one array are split first, `z1, z2 = tf.split(features, 2)`.
        temperature: temperature > 0 that scores are divided by.
        negatives: scheme of negatives: "all", the NT-Xent of SimCLR: the anchors are both views,
            the negatives all other samples of both; "cross": anchors x, negatives y (CLIP in one
            direction, MoCo v3); "anchor": anchors x, negatives x; "within": "anchor" averaged with
            its twin on y.
        bank: (K, D) features that supply all negatives (MoCo's queue), or None.
        normalize: whether rows are scaled to unit length first.
        implementation: form that computes the loss: "dense" (any-order derivatives, O(N^2) memory),
            "tiled" (two passes, O(N D) memory, differentiable once), or "auto", by size.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option or a shape does not fit; the message names it.

    Source: Oord et al. (2018), eq. 4; Chen et al. (2020), eq. 1; He et al. (2020), eq. 1.
    """
    tell_of_replicas("info_nce_loss")
    temperature = check_positive("temperature", temperature)
    check_implementation(implementation)
    anchors = info_nce_anchors(negatives, bank is not None)
    rows = prepare(x, y, bank, normalize)
    n, k = rows["x"].shape[0], rows.get("bank", rows["x"]).shape[0]
    if choose_form(implementation, n, k) == "tiled":
        return tiled_info_nce(rows, temperature, negatives)
    positive = tf.reduce_sum(rows["x"] * rows["y"], axis=1) / temperature
    losses = []
    for anchor, pools in anchors:
        logits = [_negative_logits(rows, anchor, pool, temperature) for pool in pools]
        every = tf.reduce_logsumexp(tf.concat(logits, axis=1), axis=1)
        # The same as log-sum-exp of all less s+, but where the loss is small nothing cancels.
        losses.append(tf.reduce_mean(TENSORFLOW.softplus(every - positive)))
    return tf.reduce_mean(tf.stack(losses))


def _negative_logits(rows: Rows, anchor: str, pool: str, temperature: float) -> tf.Tensor:
    s = tf.matmul(rows[anchor], rows[pool], transpose_b=True) / temperature
    if pool == "bank":
        return s
    row = tf.range(tf.shape(s)[0])
    # Not set_diag, whose gradient XLA cannot compile while the size is unknown.
    return tf.where(row[:, None] == row[None, :], tf.constant(-math.inf, s.dtype), s)


class InfoNCELoss(tf.Module):
    """`info_nce_loss` as a module: the same options, no variables and no state.

    Negatives are by default all other samples of both views, `negatives="all"`, as in NT-Xent.
    `FMICLLoss` takes "anchor" by default, the paper's printed equation, and the cheapest.

    What it was made with does not change, since a `tf.function` that has been traced would not
    learn of it.

    Args:
        temperature, negatives, normalize, implementation: as for `info_nce_loss`.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    temperature: float
    negatives: str
    normalize: bool
    implementation: str

    def __init__(
        self,
        *,
        temperature: float = RELATED_DEFAULTS.temperature,
        negatives: str = RELATED_DEFAULTS.negatives,
        normalize: bool = RELATED_DEFAULTS.normalize,
        implementation: str = "auto",
    ) -> None:
        super().__init__()
        self.__dict__.update(check_info_nce(temperature, negatives, normalize, implementation))

    def __call__(
        self, x: tf.Tensor, y: tf.Tensor | None = None, bank: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The loss of x (N, D), y (N, D) and, if given, bank (K, D); scalar."""
        options = {name: getattr(self, name) for name in INFO_NCE_OPTIONS}
        return info_nce_loss(x, y, bank=bank, **options)

    def __setattr__(self, name: str, value: object) -> None:
        if name in INFO_NCE_OPTIONS:
            raise fixed_option(name, value, but="")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        """The options, as they would be pasted."""
        listed = ", ".join(f"{name}={getattr(self, name)!r}" for name in INFO_NCE_OPTIONS)
        return f"InfoNCELoss({listed})"


def alignment_uniformity_loss(
    x: tf.Tensor,
    y: tf.Tensor | None = None,
    /,
    *,
    exponent: float = RELATED_DEFAULTS.exponent,
    t: float = RELATED_DEFAULTS.t,
    uniformity_weight: float = RELATED_DEFAULTS.uniformity_weight,
    normalize: bool = RELATED_DEFAULTS.normalize,
) -> tf.Tensor:
    """Alignment and uniformity: mean |x_i - y_i|^exponent + uniformity_weight (u(x) + u(y)) / 2.

    u(x) = log mean over i != j of exp(-t |x_i - x_j|^2).

    The rows that it is given are the whole batch. Among several ranks, devices or replicas gather
    their features first; `fmicl_loss` does that itself.

    Args:
        x: (N, D) features of the first view, any float dtype.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x.
            Two views in one array are split first, `z1, z2 = tf.split(features, 2)`.
        exponent: exponent > 0 of the distance.
        t: rate of the Gaussian potential in 1 / (units of the features)^2, > 0.
        uniformity_weight: weight > 0 of the uniformity.
        normalize: whether rows are scaled to unit length first.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option or a shape does not fit; the message names it.

    Source: Wang and Isola (2020), section 4.1.
    """
    tell_of_replicas("alignment_uniformity_loss")
    for name, value in (("exponent", exponent), ("t", t), ("uniformity_weight", uniformity_weight)):
        check_positive(name, value)
    rows = prepare(x, y, None, normalize)
    square = square_lengths(rows["x"] - rows["y"])
    spread = [_log_potential(rows[name], t) for name in ("x", "y")]
    aligned = tf.reduce_mean(_power(square, exponent))
    return aligned + uniformity_weight * tf.reduce_mean(tf.stack(spread))


def _power(square: tf.Tensor, exponent: float) -> tf.Tensor:
    """Distances to the exponent, of their squares."""
    if exponent >= 2.0:
        return square ** (exponent / 2.0)
    # The slope of a power below 1 is infinite at 0. A pair that coincides has the slope 0.
    zero = square == 0.0
    apart = tf.where(zero, tf.ones_like(square), square) ** (exponent / 2.0)
    return tf.where(zero, tf.zeros_like(square), apart)


def _log_potential(x: tf.Tensor, t: float) -> tf.Tensor:
    lengths = square_lengths(x)
    d2 = off_diagonal(lengths[:, None] + lengths[None, :] - 2.0 * tf.matmul(x, x, transpose_b=True))
    return tf.reduce_logsumexp(-t * d2) - tf.math.log(tf.cast(tf.size(d2), d2.dtype))


def spectral_contrastive_loss(
    x: tf.Tensor, y: tf.Tensor | None = None, /, *, normalize: bool = RELATED_DEFAULTS.normalize
) -> tf.Tensor:
    """Spectral contrastive loss: -2 mean_i x_i . y_i + mean over i != j of (x_i . y_j)^2.

    The rows that it is given are the whole batch. Among several ranks, devices or replicas gather
    their features first; `fmicl_loss` does that itself.

    Args:
        x: (N, D) features of the first view, any float dtype.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x.
            Two views in one array are split first, `z1, z2 = tf.split(features, 2)`.
        normalize: whether rows are scaled to unit length first.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: a shape does not fit; the message names it.

    Source: HaoChen et al. (2021).
    """
    tell_of_replicas("spectral_contrastive_loss")
    rows = prepare(x, y, None, normalize)
    s = tf.matmul(rows["x"], rows["y"], transpose_b=True)
    aligned = tf.reduce_mean(tf.linalg.diag_part(s))
    return tf.reduce_mean(tf.square(off_diagonal(s))) - 2.0 * aligned
