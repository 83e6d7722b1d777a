"""Well-known losses by their names: settings of f-MICL or InfoNCE."""

from __future__ import annotations

import tensorflow as tf

from fmicl_core import Similarity
from fmicl_core.family import FAMILY_DEFAULTS, KernelContrast, Sigmoid
from fmicl_core.objective import DEFAULTS
from fmicl_core.pairs import pairs_of
from fmicl_tensorflow.distributed import tell_of_replicas
from fmicl_tensorflow.info_nce import info_nce_of
from fmicl_tensorflow.loss import fmicl_loss
from fmicl_tensorflow.scalars import Scalars, checked_scalar, scale_of
from fmicl_tensorflow.terms import terms_of


def siglip_loss(
    x: tf.Tensor,
    y: tf.Tensor | None = None,
    /,
    *,
    logit_scale: float | tf.Tensor = FAMILY_DEFAULTS.siglip_scale,
    logit_bias: float | tf.Tensor = FAMILY_DEFAULTS.siglip_bias,
    positives: str = FAMILY_DEFAULTS.positives,
    ids: tf.Tensor | None = None,
    normalize: bool = FAMILY_DEFAULTS.normalize,
    implementation: str = "auto",
    check_finite: bool = True,
    distributed: bool = True,
) -> tf.Tensor:
    """SigLIP: -(1/N) (sum over i of log sigmoid(L_ii) + over i != j of log sigmoid(-L_ij)).

    L_ij = logit_scale (x_i . y_j) + logit_bias, which may be tensors that learn. It is
    Jensen-Shannon f-MICL with the alpha N - 1, negatives="cross", plus N log 2. With `ids` every
    pair (x_i, y_j) of rows with equal ids is positive: `siglip_loss(captions, images[of], ids=of)`
    takes several captions an image, where of (N,) says which image a caption is of.

    Args:
        x: (N, D) features of the first view or tower; any float dtype.
        y: (N, D) features of the second view or tower; row i belongs to row i of x.
        logit_scale: factor > 0 of x . y in L; a number, or a tensor of no dimension, which may
            learn.
        logit_bias: constant of L; a number, or a tensor of no dimension, which may learn.
        positives: pairs of rows with equal `ids` that are positive: "ids", all of them; "pair",
            (x_i, y_i) alone, so that other rows with that id are merely no negatives (duplicates).
        ids: (N,) whole numbers of the rows of x, and of y; rows with equal ids belong together, as
            captions of one image do. None: row i of x and of y are alone with each other.
        normalize: whether rows are scaled to unit length first.
        implementation: form that computes the loss: "dense" (any-order derivatives, O(N^2) memory),
            "tiled" (one pass, O(N D) memory, differentiable once), or "auto", by size.
        check_finite: whether to raise when the loss is not finite; see `fmicl_loss`.
        distributed: whether the loss, in the replica context of a `tf.distribute` strategy, is that
            of the union of the replicas' batches; see `fmicl_loss`.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option, a shape or a dtype does not fit, or features are not
            finite; the message names the argument.

    Source: Zhai et al. (2023), algorithm 1.
    """
    scale, bias = (
        checked_scalar(name, value)
        for name, value in (("logit_scale", logit_scale), ("logit_bias", logit_bias))
    )
    scalars = Scalars(DEFAULTS.alpha, scale, bias)  # N - 1 takes the place of alpha
    settings = scalars.settings(Sigmoid(), DEFAULTS.similarity, "cross", normalize, positives)
    options = implementation, check_finite, distributed
    return terms_of(settings, scalars, x, y, None, ids, None, *options, each_pair=True).loss


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
) -> tf.Tensor:
    """CLIP: mean over i of log(sum over j of e^s_ij) - s_ii, averaged with that of the columns.

    s_ij = logit_scale (x_i . y_j): `info_nce_loss(x, y, negatives="cross")` in both directions.

    The rows that it is given are the whole batch. Among several ranks, devices or replicas gather
    their features first; `siglip_loss` does that itself.

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

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option or a shape does not fit; the message names it.

    Source: Radford et al. (2021), figure 3.
    """
    tell_of_replicas("clip_loss")
    scale = "logit_scale", checked_scalar("logit_scale", logit_scale)
    pairs = pairs_of("cross", positives, y, None, ids, None, symmetric=True)
    return info_nce_of(pairs, scale, x, y, None, ids, None, normalize, implementation)


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
) -> tf.Tensor:
    """Decoupled contrastive loss: mean over anchors of log(sum over negatives of e^s-) - s+.

    s = x . y / temperature: `info_nce_loss` without the positives in its softmaxes.

    The rows that it is given are the whole batch. Among several ranks, devices or replicas gather
    their features first; `fmicl_loss` does that itself.

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

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option or a shape does not fit, or an anchor has no negative; the message
            names it.

    Source: Yeh et al. (2022), L_DC.
    """
    tell_of_replicas("dcl_loss")
    scale = scale_of(temperature, logit_scale, FAMILY_DEFAULTS.dcl_temperature)
    pairs = pairs_of(negatives, positives, y, bank, ids, bank_ids, decoupled=True)
    return info_nce_of(pairs, scale, x, y, bank, ids, bank_ids, normalize, implementation)


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
) -> tf.Tensor:
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

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option or a shape does not fit; the message names it.

    Source: Koromilas et al. (2024).
    """
    tell_of_replicas("dhel_loss")
    scale = scale_of(temperature, logit_scale, FAMILY_DEFAULTS.dhel_temperature)
    pairs = pairs_of(FAMILY_DEFAULTS.dhel_negatives, positives, y, None, ids, None, decoupled=True)
    return info_nce_of(pairs, scale, x, y, None, ids, None, normalize, implementation)


def kcl_loss(
    x: tf.Tensor,
    y: tf.Tensor | None = None,
    /,
    *,
    similarity: Similarity | str = FAMILY_DEFAULTS.kcl_similarity,
    alpha: float | tf.Tensor = FAMILY_DEFAULTS.kcl_alpha,
    logit_scale: float | tf.Tensor | None = None,
    logit_bias: float | tf.Tensor | None = None,
    negatives: str = FAMILY_DEFAULTS.kcl_negatives,
    positives: str = FAMILY_DEFAULTS.positives,
    bank: tf.Tensor | None = None,
    ids: tf.Tensor | None = None,
    bank_ids: tf.Tensor | None = None,
    normalize: bool = FAMILY_DEFAULTS.normalize,
    implementation: str = "auto",
    check_finite: bool = True,
    distributed: bool = True,
) -> tf.Tensor:
    """Kernel contrastive loss: -mean_i G(x_i, y_i) + alpha * mean over negative pairs of G.

    G is the kernel of the similarity. It is f-MICL of the total variation with the kernel itself as
    critic (`fmicl_core.family.KernelContrast`). The authors' code is twice this with
    negatives="within".

    Args:
        x: (N, D) features of the first view, or of all rows in a single array; any float dtype.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x. None:
            `ids` say which rows of x belong together.
        similarity: name or `fmicl_core.Similarity` of a kernel: "gaussian", "laplace", "cauchy".
        alpha: weight of the negative term, > 0; a number, or a tensor or a variable of no
            dimension, which may change from step to step in a `tf.function`.
        logit_scale: factor > 0 of x . y in z = logit_scale (x . y) + logit_bias, where z is L = log
            G of the Gaussian; a number, or a tensor of no dimension, which may learn. None: that of
            the similarity.
        logit_bias: constant of z; a number, or a tensor of no dimension, which may learn. None:
            that of the similarity. With a scale or a bias lengths of rows do not count.
        negatives: scheme of negatives, as for `fmicl_loss`.
        positives: pairs of rows with equal `ids` that are positive: "ids", all of them; "pair",
            (x_i, y_i) alone, so that other rows with that id are merely no negatives (duplicates).
        bank: (K, D) features that supply all negatives, {(x_i, bank_k)}, or None.
        ids: (N,) whole numbers of the rows of x, and of y; rows with equal ids belong together, as
            labels or views of one sample do. None: row i of x and of y are alone with each other.
        bank_ids: (K,) whole numbers of the bank's rows, which are no negatives of rows with the
            same id; None: no row of the bank is.
        normalize: whether rows are scaled to unit length first.
        implementation: form that computes the loss: "dense" (any-order derivatives, O(N^2) memory),
            "tiled" (one pass, O(N D) memory, differentiable once), or "auto", by size.
        check_finite: whether to raise when the loss is not finite; see `fmicl_loss`.
        distributed: whether the loss, in the replica context of a `tf.distribute` strategy, is that
            of the union of the replicas' batches; see `fmicl_loss`.

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
        check_finite=check_finite, distributed=distributed,
    )  # fmt: skip
