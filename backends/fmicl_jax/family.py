"""Well-known losses by their names: f-MICL or InfoNCE with the settings of their papers, in JAX."""

from __future__ import annotations

import jax

from fmicl_core import Similarity
from fmicl_core.family import FAMILY_DEFAULTS, KernelContrast, Sigmoid
from fmicl_core.pairs import pairs_of
from fmicl_core.related import one_scale
from fmicl_jax.distributed import tell_of_devices
from fmicl_jax.info_nce import info_nce_of
from fmicl_jax.inputs import checked_scalar
from fmicl_jax.loss import fmicl_loss
from fmicl_jax.plan import Scalars
from fmicl_jax.terms import settings_of, terms_of


def siglip_loss(
    x: jax.Array,
    y: jax.Array | None = None,
    /,
    *,
    logit_scale: float | jax.Array = FAMILY_DEFAULTS.siglip_scale,
    logit_bias: float | jax.Array = FAMILY_DEFAULTS.siglip_bias,
    positives: str = FAMILY_DEFAULTS.positives,
    ids: jax.Array | None = None,
    normalize: bool = FAMILY_DEFAULTS.normalize,
    implementation: str = "auto",
    check_finite: bool = True,
    axis_name: str | None = None,
) -> jax.Array:
    """SigLIP: -(1/N) (sum over i of log sigmoid(L_ii) + over i != j of log sigmoid(-L_ij)).

    L_ij = logit_scale (x_i . y_j) + logit_bias, which may be arrays that learn. It is
    Jensen-Shannon f-MICL with the alpha N - 1, negatives="cross", plus N log 2.

    With `ids` every pair (x_i, y_j) of rows with equal ids is positive:
    `siglip_loss(captions, images[of], ids=of)` takes several captions an image, where of (N,) says
    which image a caption is of.

    Args:
        x: (N, D) features of the first view, as of captions; any float dtype.
        y: (N, D) features of the second view, as of images; row i belongs to row i of x.
        logit_scale: factor > 0 of x . y; a number, or an array of no dimension, which may learn.
        logit_bias: constant of L; a number, or an array of no dimension, which may learn.
        positives: pairs of rows with equal `ids` that are positive: "ids", all of them; "pair",
            (x_i, y_i) alone, so that other rows with that id are merely no negatives (duplicates).
        ids: (N,) whole numbers of the rows of x, and of y; rows with equal ids belong together, as
            captions of one image do. None: row i of x and of y are alone with each other.
        normalize: whether rows are scaled to unit length first.
        implementation: form that computes the loss, as for `fmicl_loss`: "dense", "tiled", "fused"
            or "auto".
        check_finite: whether to raise when the loss is not finite, which costs one read of a
            scalar. Skipped while tracing, where NaN shows in the loss.
        axis_name: axis of the `jax.shard_map` or `jax.pmap` around the call, as for `fmicl_loss`.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option, a shape or a dtype does not fit, or features are not
            finite; the message names the argument.

    Source: Zhai et al. (2023), algorithm 1.
    """
    scale = checked_scalar("logit_scale", logit_scale)  # here None is none of the similarity's
    bias = checked_scalar("logit_bias", logit_bias)
    given = Scalars(1.0, scale, bias)  # alpha is known after the features are checked
    fixed = "cross", positives, normalize
    settings, scalars = settings_of(Sigmoid(), "gaussian", given, *fixed)
    arrays = x, y, None, ids, None
    how = implementation, check_finite, axis_name
    return terms_of(settings, scalars, *arrays, *how, each_pair=True).loss


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
) -> jax.Array:
    """CLIP: mean over i of log(sum over j of e^s_ij) - s_ii, averaged with that of the columns.

    s = logit_scale (x . y). It is InfoNCE with negatives="cross" in both directions. CLIP learns
    the logarithm of the scale, and holds the scale below 100.

    With `ids` an anchor has several positives, as for `info_nce_loss`:
    `clip_loss(captions, images[of], ids=of)` takes several captions an image, where of (N,) says
    which image a caption is of.

    The rows that it is given are the whole batch. Among several ranks, devices or replicas gather
    their features first; `siglip_loss` does that itself.

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

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option or a shape does not fit; the message names it.

    Source: Radford et al. (2021), figure 3.
    """
    tell_of_devices("clip_loss")
    pairs = pairs_of("cross", positives, y, None, ids, None, symmetric=True)
    scale = "logit_scale", logit_scale
    return info_nce_of(pairs, scale, x, y, None, ids, None, normalize, implementation)


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
) -> jax.Array:
    """Decoupled contrastive loss: mean over anchors of log(sum over negatives of e^s-) - s+.

    s = x . y / temperature. It is InfoNCE without positives in the softmax, so that an anchor near
    its positive still pulls it with full strength.

    With `ids` s+ is the mean over the positives of an anchor, none of which is in its sum.
    `dcl_loss(features, ids=labels)` takes labels, or several views stacked in one array.

    The rows that it is given are the whole batch. Among several ranks, devices or replicas gather
    their features first; `fmicl_loss` does that itself.

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

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option or a shape does not fit, or an anchor has no negative; it is named.

    Source: Yeh et al. (2022), L_DC.
    """
    tell_of_devices("dcl_loss")
    scale = one_scale(temperature, logit_scale, FAMILY_DEFAULTS.dcl_temperature)
    pairs = pairs_of(negatives, positives, y, bank, ids, bank_ids, decoupled=True)
    return info_nce_of(pairs, scale, x, y, bank, ids, bank_ids, normalize, implementation)


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
) -> jax.Array:
    """DHEL: mean_i of log(sum over j != i of e^s(x_i, x_j)) - s(x_i, y_i).

    s = x . y / temperature: the decoupled contrastive loss with negatives="anchor". The authors'
    code has by default (`include_augs`) the log-sum of the second view as well, beside one score;
    `dcl_loss(..., negatives="within")` averages the two.

    The rows that it is given are the whole batch. Among several ranks, devices or replicas gather
    their features first; `fmicl_loss` does that itself.

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

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option or a shape does not fit; the message names it.

    Source: Koromilas et al. (2024).
    """
    tell_of_devices("dhel_loss")
    scale = one_scale(temperature, logit_scale, FAMILY_DEFAULTS.dhel_temperature)
    negatives = FAMILY_DEFAULTS.dhel_negatives
    pairs = pairs_of(negatives, positives, y, None, ids, None, decoupled=True)
    return info_nce_of(pairs, scale, x, y, None, ids, None, normalize, implementation)


def kcl_loss(
    x: jax.Array,
    y: jax.Array | None = None,
    /,
    *,
    similarity: Similarity | str = FAMILY_DEFAULTS.kcl_similarity,
    alpha: float | jax.Array = FAMILY_DEFAULTS.kcl_alpha,
    logit_scale: float | jax.Array | None = None,
    logit_bias: float | jax.Array | None = None,
    negatives: str = FAMILY_DEFAULTS.kcl_negatives,
    positives: str = FAMILY_DEFAULTS.positives,
    bank: jax.Array | None = None,
    ids: jax.Array | None = None,
    bank_ids: jax.Array | None = None,
    normalize: bool = FAMILY_DEFAULTS.normalize,
    implementation: str = "auto",
    check_finite: bool = True,
    axis_name: str | None = None,
) -> jax.Array:
    """Kernel contrastive loss: -mean_i G(x_i, y_i) + alpha * mean over negative pairs of G.

    G is the kernel of the similarity. It is f-MICL of the total variation with the kernel itself as
    critic (`fmicl_core.family.KernelContrast`). The authors' code is twice this with
    negatives="within".

    Args:
        x: (N, D) features of the first view, or of all rows in a single array; any float dtype.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x. None:
            `ids` say which rows of x belong together.
        similarity: name of the kernel, or `fmicl_core.Similarity`: "gaussian", "laplace", "cauchy".
        alpha: weight of the negative term, > 0; a number, or an array of no dimension.
        logit_scale: factor > 0 of x . y in log G = logit_scale (x . y) + logit_bias of the
            Gaussian; a number, or an array of no dimension, which may learn. None: that of the
            similarity.
        logit_bias: constant of log G; a number, or an array of no dimension, which may learn. None:
            that of the similarity. With a scale or a bias lengths of rows do not count.
        negatives: scheme of negatives, as for `fmicl_loss`: "anchor", "within", "cross", "all".
        positives: pairs of rows with equal `ids` that are positive: "ids", all of them; "pair",
            (x_i, y_i) alone, so that other rows with that id are merely no negatives (duplicates).
        bank: (K, D) features that supply all negatives, or None.
        ids: (N,) whole numbers of the rows of x, and of y; rows with equal ids belong together, as
            labels or views of one sample do. None: row i of x and of y are alone with each other.
        bank_ids: (K,) whole numbers of the bank's rows, which are no negatives of rows with the
            same id; None: no row of the bank is.
        normalize: whether rows are scaled to unit length first.
        implementation: form that computes the loss, as for `fmicl_loss`: "dense", "tiled", "fused"
            or "auto".
        check_finite: whether to raise when the loss is not finite, which costs one read of a
            scalar. Skipped while tracing, where NaN shows in the loss.
        axis_name: axis of the `jax.shard_map` or `jax.pmap` around the call, as for `fmicl_loss`.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option, a shape or a dtype does not fit, or features are not
            finite; the message names the argument.

    Source: Koromilas et al. (2024); alpha is their gamma, Gaussian(0.25) their exp(-2 |x - y|^2).
    """
    return fmicl_loss(
        x, y, divergence=KernelContrast(), similarity=similarity, alpha=alpha,
        logit_scale=logit_scale, logit_bias=logit_bias, negatives=negatives, positives=positives,
        bank=bank, ids=ids, bank_ids=bank_ids, normalize=normalize, implementation=implementation,
        check_finite=check_finite, axis_name=axis_name,
    )  # fmt: skip
