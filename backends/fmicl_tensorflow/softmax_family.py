"""CLIP, DCL and DHEL: InfoNCE with another choice of softmaxes."""

from __future__ import annotations

import tensorflow as tf

from fmicl_core.family import FAMILY_DEFAULTS
from fmicl_core.pairs import pairs_of
from fmicl_tensorflow.info_nce import info_nce_of
from fmicl_tensorflow.scalars import checked_scalar, scale_of


def clip_loss(
    x: tf.Tensor,
    y: tf.Tensor | None = None,
    /,
    *,
    logit_scale: float | tf.Tensor = FAMILY_DEFAULTS.clip_scale,
    positives: str = FAMILY_DEFAULTS.positives,
    ids: tf.Tensor | None = None,
    normalize: bool = FAMILY_DEFAULTS.normalize,
    implementation: str = "auto",
    distributed: bool = True,
) -> tf.Tensor:
    """CLIP: mean over i of log(sum over j of e^s_ij) - s_ii, averaged with that of the columns.

    s_ij = logit_scale (x_i . y_j): `info_nce_loss(x, y, negatives="cross")` in both directions.

    On several replicas of a `tf.distribute` strategy it is of the union of their batches;
    `distributed=False` makes it that of this replica's rows alone. (PyTorch and JAX have to be
    told, TensorFlow's strategy says who the replicas are.)

    Args:
        x: (N, D) features of the first view or tower; any float dtype.
        y: (N, D) features of the second view or tower; row i belongs to row i of x.
        logit_scale: factor > 0 of x . y in s, 1 / temperature; a number, or a tensor of no
            dimension, which may learn.
        positives: pairs of rows with equal `ids` that are positive: "ids", all of them; "pair",
            (x_i, y_i) alone, so that other rows with that id are merely no negatives (duplicates).
        ids: (N,) whole numbers of the rows of x, and of y; rows with equal ids belong together, as
            captions of one image do. None: row i of x and of y are alone with each other.
        normalize: whether rows are scaled to unit length first.
        implementation: form that computes the loss: "dense" (any-order derivatives, O(N^2) memory),
            "tiled" (two passes, O(N D) memory, differentiable once), or "auto", by size.
        distributed: whether replicas share the batch, as for `fmicl_loss`.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option or a shape does not fit; the message names it.

    Source: Radford et al. (2021), figure 3.
    """
    scale = "logit_scale", checked_scalar("logit_scale", logit_scale)
    pairs = pairs_of("cross", positives, y, None, ids, None, symmetric=True)
    options = normalize, implementation, distributed
    return info_nce_of(pairs, scale, x, y, None, ids, None, *options)


def dcl_loss(
    x: tf.Tensor,
    y: tf.Tensor | None = None,
    /,
    *,
    temperature: float | tf.Tensor = FAMILY_DEFAULTS.dcl_temperature,
    logit_scale: float | tf.Tensor | None = None,
    negatives: str = FAMILY_DEFAULTS.dcl_negatives,
    positives: str = FAMILY_DEFAULTS.positives,
    bank: tf.Tensor | None = None,
    ids: tf.Tensor | None = None,
    bank_ids: tf.Tensor | None = None,
    normalize: bool = FAMILY_DEFAULTS.normalize,
    implementation: str = "auto",
    distributed: bool = True,
) -> tf.Tensor:
    """Decoupled contrastive loss: mean over anchors of log(sum over negatives of e^s-) - s+.

    s = x . y / temperature: `info_nce_loss` without the positives in its softmaxes.

    On several replicas of a `tf.distribute` strategy it is of the union of their batches;
    `distributed=False` makes it that of this replica's rows alone. (PyTorch and JAX have to be
    told, TensorFlow's strategy says who the replicas are.)

    Args:
        x: (N, D) features of the first view, or of all rows in a single array; any float dtype.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x. None:
            `ids` say which rows of x belong together.
        temperature: temperature > 0 that scores are divided by; a number, or a tensor of no
            dimension, which may learn.
        logit_scale: 1 / temperature, in place of it; a number, or a tensor of no dimension. None:
            the temperature counts.
        negatives: scheme of negatives, as for `info_nce_loss`.
        positives: pairs of rows with equal `ids` that are positive: "ids", all of them; "pair",
            (x_i, y_i) alone, so that other rows with that id are merely no negatives (duplicates).
        bank: (K, D) features that supply all negatives (MoCo's queue), or None.
        ids: (N,) whole numbers of the rows of x, and of y; rows with equal ids belong together, as
            labels or views of one sample do. None: row i of x and of y are alone with each other.
        bank_ids: (K,) whole numbers of the bank's rows, which are no negatives of rows with the
            same id; None: no row of the bank is.
        normalize: whether rows are scaled to unit length first.
        implementation: form that computes the loss: "dense" (any-order derivatives, O(N^2) memory),
            "tiled" (two passes, O(N D) memory, differentiable once), or "auto", by size.
        distributed: whether replicas share the batch, as for `fmicl_loss`.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option or a shape does not fit, or an anchor has no negative; the message
            names it.

    Source: Yeh et al. (2022), L_DC.
    """
    scale = scale_of(temperature, logit_scale, FAMILY_DEFAULTS.dcl_temperature)
    pairs = pairs_of(negatives, positives, y, bank, ids, bank_ids, decoupled=True)
    options = normalize, implementation, distributed
    return info_nce_of(pairs, scale, x, y, bank, ids, bank_ids, *options)


def dhel_loss(
    x: tf.Tensor,
    y: tf.Tensor | None = None,
    /,
    *,
    temperature: float | tf.Tensor = FAMILY_DEFAULTS.dhel_temperature,
    logit_scale: float | tf.Tensor | None = None,
    positives: str = FAMILY_DEFAULTS.positives,
    ids: tf.Tensor | None = None,
    normalize: bool = FAMILY_DEFAULTS.normalize,
    implementation: str = "auto",
    distributed: bool = True,
) -> tf.Tensor:
    """DHEL: mean_i of log(sum over j != i of e^s(x_i, x_j)) - s(x_i, y_i).

    s = x . y / temperature: the decoupled contrastive loss with negatives="anchor". The authors'
    code has by default (`include_augs`) the log-sum of the second view as well, beside one score;
    `dcl_loss(..., negatives="within")` averages the two.

    On several replicas of a `tf.distribute` strategy it is of the union of their batches;
    `distributed=False` makes it that of this replica's rows alone. (PyTorch and JAX have to be
    told, TensorFlow's strategy says who the replicas are.)

    Args:
        x: (N, D) features of the first view, or of all rows in a single array; any float dtype.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x. None:
            `ids` say which rows of x belong together.
        temperature: temperature > 0 that scores are divided by; a number, or a tensor of no
            dimension, which may learn.
        logit_scale: 1 / temperature, in place of it; a number, or a tensor of no dimension. None:
            the temperature counts.
        positives: pairs of rows with equal `ids` that are positive: "ids", all of them; "pair",
            (x_i, y_i) alone, so that other rows with that id are merely no negatives (duplicates).
        ids: (N,) whole numbers of the rows of x, and of y; rows with equal ids belong together, as
            labels or views of one sample do. None: row i of x and of y are alone with each other.
        normalize: whether rows are scaled to unit length first.
        implementation: form that computes the loss: "dense" (any-order derivatives, O(N^2) memory),
            "tiled" (two passes, O(N D) memory, differentiable once), or "auto", by size.
        distributed: whether replicas share the batch, as for `fmicl_loss`.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option or a shape does not fit; the message names it.

    Source: Koromilas et al. (2024).
    """
    scale = scale_of(temperature, logit_scale, FAMILY_DEFAULTS.dhel_temperature)
    pairs = pairs_of(FAMILY_DEFAULTS.dhel_negatives, positives, y, None, ids, None, decoupled=True)
    options = normalize, implementation, distributed
    return info_nce_of(pairs, scale, x, y, None, ids, None, *options)
