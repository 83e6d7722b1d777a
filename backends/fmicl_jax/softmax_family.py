"""CLIP, DCL and DHEL: InfoNCE with another choice of softmaxes, in JAX."""

from __future__ import annotations

import jax

from fmicl_core.family import FAMILY_DEFAULTS
from fmicl_core.pairs import pairs_of
from fmicl_core.related import one_scale
from fmicl_jax.distributed import tell_of_devices
from fmicl_jax.info_nce import info_nce_of


def clip_loss(
    x: jax.Array,
    y: jax.Array | None = None,
    /,
    *,
    logit_scale: float | jax.Array = FAMILY_DEFAULTS.clip_scale,
    positives: str = FAMILY_DEFAULTS.positives,
    ids: jax.Array | None = None,
    normalize: bool = FAMILY_DEFAULTS.normalize,
    implementation: str = "auto",
    axis_name: str | None = None,
) -> jax.Array:
    """CLIP: mean over i of log(sum over j of e^s_ij) - s_ii, averaged with that of the columns.

    s = logit_scale (x . y). It is InfoNCE with negatives="cross" in both directions. CLIP learns
    the logarithm of the scale, and holds the scale below 100.

    With `ids` an anchor has several positives, as for `info_nce_loss`:
    `clip_loss(captions, images[of], ids=of)` takes several captions an image, where of (N,) says
    which image a caption is of.

    On several devices it is of this device's rows alone; `axis_name=` makes it that of the union of
    their batches.

    Args:
        x: (N, D) features of the first view, as of captions; any float dtype.
        y: (N, D) features of the second view, as of images; row i belongs to row i of x.
        logit_scale: factor > 0 of x . y; a number, or an array of no dimension, which may learn.
        positives: pairs of rows with equal `ids` that are positive: "ids", all of them; "pair",
            (x_i, y_i) alone, so that other rows with that id are merely no negatives (duplicates).
        ids: (N,) whole numbers of the rows of x, and of y; rows with equal ids belong together, as
            captions of one image do. None: row i of x and of y are alone with each other.
        normalize: whether rows are scaled to unit length first.
        implementation: form that computes it, as for `info_nce_loss`: "dense", "tiled" or "auto".
        axis_name: axis of the devices that share the batch, as for `fmicl_loss`.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        In reverse and forward mode, under `jax.jit` and `jax.vmap` too: of any order with "dense",
        once with "tiled" (a second derivative is an error). ids are constants.

    Raises:
        ValueError: an option or a shape does not fit; the message names it.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fmicl_jax import clip_loss, info_nce_loss
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = jnp.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(clip_loss(x, y, logit_scale=2.0)), 4)
        0.572
        >>> one_way = lambda a, b: info_nce_loss(a, b, logit_scale=2.0, negatives="cross")
        >>> round(float(one_way(x, y) + one_way(y, x)) / 2, 4)
        0.572

    Source: Radford et al. (2021), figure 3.
    """
    tell_of_devices("clip_loss", axis_name)
    pairs = pairs_of("cross", positives, y, None, ids, None, symmetric=True)
    scale = "logit_scale", logit_scale
    how = normalize, implementation, axis_name
    return info_nce_of(pairs, scale, x, y, None, ids, None, *how)


def dcl_loss(
    x: jax.Array,
    y: jax.Array | None = None,
    /,
    *,
    temperature: float | jax.Array = FAMILY_DEFAULTS.dcl_temperature,
    logit_scale: float | jax.Array | None = None,
    negatives: str = FAMILY_DEFAULTS.dcl_negatives,
    positives: str = FAMILY_DEFAULTS.positives,
    bank: jax.Array | None = None,
    ids: jax.Array | None = None,
    bank_ids: jax.Array | None = None,
    normalize: bool = FAMILY_DEFAULTS.normalize,
    implementation: str = "auto",
    axis_name: str | None = None,
) -> jax.Array:
    """Decoupled contrastive loss: mean over anchors of log(sum over negatives of e^s-) - s+.

    s = x . y / temperature. It is InfoNCE without positives in the softmax, so that an anchor near
    its positive still pulls it with full strength.

    With `ids` s+ is the mean over the positives of an anchor, none of which is in its sum.
    `dcl_loss(features, ids=labels)` takes labels, or several views stacked in one array.

    On several devices it is of this device's rows alone; `axis_name=` makes it that of the union of
    their batches.

    Args:
        x: (N, D) features of the first view, or of all rows in a single array; any float dtype.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x. None:
            `ids` say which rows of x belong together.
        temperature: temperature > 0 that scores are divided by; a number, or an array of no
            dimension, which may learn.
        logit_scale: 1 / temperature, in place of it; a number, or an array of no dimension. None:
            the temperature counts.
        negatives: scheme of negatives, as for `info_nce_loss`: "all", "cross", "anchor", "within".
        positives: pairs of rows with equal `ids` that are positive: "ids", all of them; "pair",
            (x_i, y_i) alone, so that other rows with that id are merely no negatives (duplicates).
        bank: (K, D) features that supply all negatives, or None.
        ids: (N,) whole numbers of the rows of x, and of y; rows with equal ids belong together, as
            labels or views of one sample do. None: row i of x and of y are alone with each other.
        bank_ids: (K,) whole numbers of the bank's rows, which are no negatives of rows with the
            same id; None: no row of the bank is.
        normalize: whether rows are scaled to unit length first.
        implementation: form that computes it, as for `info_nce_loss`: "dense", "tiled" or "auto".
        axis_name: axis of the devices that share the batch, as for `fmicl_loss`.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        In reverse and forward mode, under `jax.jit` and `jax.vmap` too: of any order with "dense",
        once with "tiled" (a second derivative is an error). ids are constants.

    Raises:
        ValueError: an option or a shape does not fit, or an anchor has no negative; it is named.

    Examples:
        >>> import math
        >>> import jax.numpy as jnp
        >>> from fmicl_jax import dcl_loss
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = jnp.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(dcl_loss(x, y, temperature=0.5, negatives="cross")), 4)
        -0.2589
        >>> e = lambda product: math.exp(product / 0.5)  # e^s
        >>> round(math.log(e(-0.6) + e(-0.8) + e(0.6)) - 0.8 / 0.5, 4)  # alike for each anchor
        -0.2589

    Source: Yeh et al. (2022), L_DC.
    """
    tell_of_devices("dcl_loss", axis_name)
    scale = one_scale(temperature, logit_scale, FAMILY_DEFAULTS.dcl_temperature)
    pairs = pairs_of(negatives, positives, y, bank, ids, bank_ids, decoupled=True)
    return info_nce_of(
        pairs, scale, x, y, bank, ids, bank_ids, normalize, implementation, axis_name
    )


def dhel_loss(
    x: jax.Array,
    y: jax.Array | None = None,
    /,
    *,
    temperature: float | jax.Array = FAMILY_DEFAULTS.dhel_temperature,
    logit_scale: float | jax.Array | None = None,
    positives: str = FAMILY_DEFAULTS.positives,
    ids: jax.Array | None = None,
    normalize: bool = FAMILY_DEFAULTS.normalize,
    implementation: str = "auto",
    axis_name: str | None = None,
) -> jax.Array:
    """DHEL: mean_i of log(sum over j != i of e^s(x_i, x_j)) - s(x_i, y_i).

    s = x . y / temperature: the decoupled contrastive loss with negatives="anchor". The authors'
    code has by default (`include_augs`) the log-sum of the second view as well, beside one score;
    `dcl_loss(..., negatives="within")` averages the two.

    On several devices it is of this device's rows alone; `axis_name=` makes it that of the union of
    their batches.

    Args:
        x: (N, D) features of the first view, or of all rows in a single array; any float dtype.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x. None:
            `ids` say which rows of x belong together.
        temperature: temperature > 0 that scores are divided by; a number, or an array of no
            dimension, which may learn.
        logit_scale: 1 / temperature, in place of it; a number, or an array of no dimension. None:
            the temperature counts.
        positives: pairs of rows with equal `ids` that are positive: "ids", all of them; "pair",
            (x_i, y_i) alone, so that other rows with that id are merely no negatives (duplicates).
        ids: (N,) whole numbers of the rows of x, and of y; rows with equal ids belong together, as
            labels or views of one sample do. None: row i of x and of y are alone with each other.
        normalize: whether rows are scaled to unit length first.
        implementation: form that computes it, as for `info_nce_loss`: "dense", "tiled" or "auto".
        axis_name: axis of the devices that share the batch, as for `fmicl_loss`.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        In reverse and forward mode, under `jax.jit` and `jax.vmap` too: of any order with "dense",
        once with "tiled" (a second derivative is an error). ids are constants.

    Raises:
        ValueError: an option or a shape does not fit; the message names it.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fmicl_jax import dcl_loss, dhel_loss
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = jnp.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(dhel_loss(x, y)), 4)
        -1.9558
        >>> round(float(dcl_loss(x, y, temperature=0.3, negatives="anchor")), 4)
        -1.9558

    Source: Koromilas et al. (2024).
    """
    tell_of_devices("dhel_loss", axis_name)
    scale = one_scale(temperature, logit_scale, FAMILY_DEFAULTS.dhel_temperature)
    negatives = FAMILY_DEFAULTS.dhel_negatives
    pairs = pairs_of(negatives, positives, y, None, ids, None, decoupled=True)
    how = normalize, implementation, axis_name
    return info_nce_of(pairs, scale, x, y, None, ids, None, *how)
