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

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        By `tf.GradientTape`: of any order with "dense", once with "tiled" (a second derivative is
        an error). By `tf.autodiff.ForwardAccumulator` with "dense" alone. ids are constants.

    Raises:
        ValueError: an option or a shape does not fit; the message names it.

    Examples:
        >>> import tensorflow as tf
        >>> from fmicl_tensorflow import clip_loss, info_nce_loss
        >>> x = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = tf.constant([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(clip_loss(x, y, logit_scale=2.0)), 4)
        0.572
        >>> one_way = lambda a, b: info_nce_loss(a, b, logit_scale=2.0, negatives="cross")
        >>> round(float(one_way(x, y) + one_way(y, x)) / 2, 4)
        0.572

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

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        By `tf.GradientTape`: of any order with "dense", once with "tiled" (a second derivative is
        an error). By `tf.autodiff.ForwardAccumulator` with "dense" alone. ids are constants.

    Raises:
        ValueError: an option or a shape does not fit, or an anchor has no negative; the message
            names it.

    Examples:
        >>> import math
        >>> import tensorflow as tf
        >>> from fmicl_tensorflow import dcl_loss
        >>> x = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = tf.constant([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(dcl_loss(x, y, temperature=0.5, negatives="cross")), 4)
        -0.2589
        >>> e = lambda product: math.exp(product / 0.5)  # e^s
        >>> round(math.log(e(-0.6) + e(-0.8) + e(0.6)) - 0.8 / 0.5, 4)  # alike for each anchor
        -0.2589

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

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        By `tf.GradientTape`: of any order with "dense", once with "tiled" (a second derivative is
        an error). By `tf.autodiff.ForwardAccumulator` with "dense" alone. ids are constants.

    Raises:
        ValueError: an option or a shape does not fit; the message names it.

    Examples:
        >>> import tensorflow as tf
        >>> from fmicl_tensorflow import dcl_loss, dhel_loss
        >>> x = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = tf.constant([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(dhel_loss(x, y)), 4)
        -1.9558
        >>> round(float(dcl_loss(x, y, temperature=0.3, negatives="anchor")), 4)
        -1.9558

    Source: Koromilas et al. (2024).
    """
    scale = scale_of(temperature, logit_scale, FAMILY_DEFAULTS.dhel_temperature)
    pairs = pairs_of(FAMILY_DEFAULTS.dhel_negatives, positives, y, None, ids, None, decoupled=True)
    options = normalize, implementation, distributed
    return info_nce_of(pairs, scale, x, y, None, ids, None, *options)
