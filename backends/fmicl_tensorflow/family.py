"""SigLIP and KCL: f-MICL with a divergence of their own."""

from __future__ import annotations

import tensorflow as tf

from fmicl_core import Similarity
from fmicl_core.family import FAMILY_DEFAULTS, KernelContrast, Sigmoid
from fmicl_core.objective import DEFAULTS
from fmicl_tensorflow.loss import fmicl_loss
from fmicl_tensorflow.scalars import Scalars, checked_scalar
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

    On several replicas of a `tf.distribute` strategy it is of the union of their batches;
    `distributed=False` makes it that of this replica's rows alone. (PyTorch and JAX have to be
    told, TensorFlow's strategy says who the replicas are.)

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
        ValueError: an option, a shape or a dtype does not fit, or features are not
            finite; the message names the argument.

    Examples:
        >>> import math
        >>> import tensorflow as tf
        >>> from fmicl_tensorflow import fmicl_loss, siglip_loss
        >>> x = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = tf.constant([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(siglip_loss(x, y)), 4)
        2.1451
        >>> logits = {"logit_scale": 10.0, "logit_bias": -10.0}  # the defaults of SigLIP
        >>> js = fmicl_loss(x, y, divergence="js", alpha=3.0, negatives="cross", **logits)
        >>> round(float(js) + 4 * math.log(2), 4)  # alpha is N - 1, of N = 4
        2.1451

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

    On several replicas of a `tf.distribute` strategy it is of the union of their batches;
    `distributed=False` makes it that of this replica's rows alone. (PyTorch and JAX have to be
    told, TensorFlow's strategy says who the replicas are.)

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
        ValueError: an option, a shape or a dtype does not fit, or features are not
            finite; the message names the argument.

    Examples:
        >>> import math
        >>> import tensorflow as tf
        >>> from fmicl_tensorflow import kcl_loss
        >>> x = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = tf.constant([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(kcl_loss(x, y)), 4)
        -0.2522
        >>> near, far = 0.4, (2, 2, 4)  # squared distances from x_i to y_i, to other rows of x
        >>> round(-math.exp(-2 * near) + 16 * sum(math.exp(-2 * d2) for d2 in far) / 3, 4)
        -0.2522

    Source: Koromilas et al. (2024); alpha is their gamma, Gaussian(0.25) their exp(-2 |x - y|^2).
    """
    alpha = checked_scalar("alpha", alpha)  # no "auto": u of this critic is no ratio of densities
    return fmicl_loss(
        x, y, divergence=KernelContrast(), similarity=similarity, alpha=alpha,
        logit_scale=logit_scale, logit_bias=logit_bias, negatives=negatives, positives=positives,
        bank=bank, ids=ids, bank_ids=bank_ids, normalize=normalize, implementation=implementation,
        check_finite=check_finite, distributed=distributed,
    )  # fmt: skip
