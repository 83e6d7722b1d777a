"""SigLIP and KCL: f-MICL with the settings of their papers, in JAX."""

from __future__ import annotations

import jax

from fmicl_core import Similarity
from fmicl_core.family import FAMILY_DEFAULTS, KernelContrast, Sigmoid
from fmicl_jax.inputs import checked_scalar
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

    On several devices it is of this device's rows alone; `axis_name=` makes it that of the union of
    their batches.

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
        axis_name: axis of the devices that share the batch, as for `fmicl_loss`.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        In reverse and forward mode, under `jax.jit` and `jax.vmap` too: of any order with "dense",
        once with "tiled" and "fused" (a second derivative is an error). ids are constants.

    Raises:
        ValueError: an option, a shape or a dtype does not fit, or features are not
            finite; the message names the argument.

    Examples:
        >>> import math
        >>> import jax.numpy as jnp
        >>> from fmicl_jax import fmicl_loss, siglip_loss
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = jnp.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(siglip_loss(x, y)), 4)
        2.1451
        >>> logits = {"logit_scale": 10.0, "logit_bias": -10.0}  # the defaults of SigLIP
        >>> js = fmicl_loss(x, y, divergence="js", alpha=3.0, negatives="cross", **logits)
        >>> round(float(js) + 4 * math.log(2), 4)  # alpha is N - 1, of N = 4
        2.1451

    Source: Zhai et al. (2023), algorithm 1.
    """
    scale = checked_scalar("logit_scale", logit_scale)  # here None is none of the similarity's
    bias = checked_scalar("logit_bias", logit_bias)
    given = Scalars(1.0, scale, bias)  # alpha is known after the features are checked
    fixed = "cross", positives, normalize
    settings, scalars = settings_of(Sigmoid(), "gaussian", given, *fixed)
    arrays = x, y, None, ids, None
    how = implementation, check_finite, axis_name
    return terms_of(settings, scalars, *arrays, *how, each_pair=True, loss_name="siglip_loss").loss


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

    On several devices it is of this device's rows alone; `axis_name=` makes it that of the union of
    their batches.

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
        axis_name: axis of the devices that share the batch, as for `fmicl_loss`.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        In reverse and forward mode, under `jax.jit` and `jax.vmap` too: of any order with "dense",
        once with "tiled" and "fused" (a second derivative is an error). ids are constants.

    Raises:
        ValueError: an option, a shape or a dtype does not fit, or features are not
            finite; the message names the argument.

    Examples:
        >>> import math
        >>> import jax.numpy as jnp
        >>> from fmicl_jax import kcl_loss
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = jnp.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(kcl_loss(x, y)), 4)
        -0.2522
        >>> near, far = 0.4, (2, 2, 4)  # squared distances from x_i to y_i, to other rows of x
        >>> round(-math.exp(-2 * near) + 16 * sum(math.exp(-2 * d2) for d2 in far) / 3, 4)
        -0.2522

    Source: Koromilas et al. (2024); alpha is their gamma, Gaussian(0.25) their exp(-2 |x - y|^2).
    """
    alpha = checked_scalar("alpha", alpha)  # no "auto": u of this critic is no ratio of densities
    given = Scalars(alpha, logit_scale, logit_bias)
    fixed = negatives, positives, normalize
    settings, scalars = settings_of(KernelContrast(), similarity, given, *fixed)
    arrays = x, y, bank, ids, bank_ids
    how = implementation, check_finite, axis_name
    return terms_of(settings, scalars, *arrays, *how, loss_name="kcl_loss").loss
