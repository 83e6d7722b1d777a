"""InfoNCE and the other losses that f-MICL generalises, in TensorFlow."""

from __future__ import annotations

import tensorflow as tf

from fmicl_core.checks import check_bool, check_positive, fixed_option
from fmicl_core.pairs import pairs_of
from fmicl_core.related import INFO_NCE_OPTIONS, RELATED_DEFAULTS, check_info_nce
from fmicl_tensorflow.distributed import tell_of_replicas
from fmicl_tensorflow.info_nce import info_nce_of
from fmicl_tensorflow.inputs import prepare
from fmicl_tensorflow.ops import off_diagonal, square_lengths
from fmicl_tensorflow.scalars import scale_of


def info_nce_loss(
    x: tf.Tensor,
    y: tf.Tensor | None = None,
    /,
    *,
    temperature: float | tf.Tensor = RELATED_DEFAULTS.temperature,
    logit_scale: float | tf.Tensor | None = None,
    negatives: str = RELATED_DEFAULTS.negatives,
    positives: str = RELATED_DEFAULTS.positives,
    bank: tf.Tensor | None = None,
    ids: tf.Tensor | None = None,
    bank_ids: tf.Tensor | None = None,
    normalize: bool = RELATED_DEFAULTS.normalize,
    implementation: str = "auto",
    distributed: bool = True,
) -> tf.Tensor:
    """InfoNCE: mean over anchors of log(e^s+ + sum over negatives of e^s-) - s+.

    Negatives are by default all other samples of both views, `negatives="all"`, as in NT-Xent.
    `fmicl_loss` takes "anchor" by default, the paper's printed equation, and the cheapest.

    s = x . y / temperature; s+ is the score of the anchor's other view.

    `info_nce_loss(features, ids=labels)` is the supervised contrastive loss (Khosla et al. 2020,
    L_out).

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
        negatives: scheme of negatives: "all", the NT-Xent of SimCLR: the anchors are both views,
            the negatives all other samples of both; "cross": anchors x, negatives y (CLIP in one
            direction, MoCo v3); "anchor": anchors x, negatives x; "within": "anchor" averaged with
            its twin on y.
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
        ValueError: an option or a shape does not fit; the message names it.

    Examples:
        >>> import tensorflow as tf
        >>> from fmicl_tensorflow import info_nce_loss
        >>> x = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = tf.constant([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(info_nce_loss(x, y, temperature=0.5, negatives="cross")), 4)
        0.572
        >>> s = x @ tf.transpose(y) / 0.5  # scores, those of positive pairs on the diagonal
        >>> each = tf.reduce_logsumexp(s, axis=1) - tf.linalg.diag_part(s)
        >>> round(float(tf.reduce_mean(each)), 4)
        0.572
        >>> labels = tf.constant([0, 0, 1, 1])
        >>> round(float(info_nce_loss(x, ids=labels)), 4)  # supervised contrastive
        0.7586

    Source: Oord et al. (2018), eq. 4; Chen et al. (2020), eq. 1; He et al. (2020), eq. 1; Khosla et
    al. (2020), eq. 2.
    """
    scale = scale_of(temperature, logit_scale)
    pairs = pairs_of(negatives, positives, y, bank, ids, bank_ids)
    return info_nce_of(
        pairs, scale, x, y, bank, ids, bank_ids, normalize, implementation, distributed
    )


class InfoNCELoss(tf.Module):
    """`info_nce_loss` as a module: the same options, no variables and no state.

    Negatives are by default all other samples of both views, `negatives="all"`, as in NT-Xent.
    `FMICLLoss` takes "anchor" by default, the paper's printed equation, and the cheapest.

    What it was made with does not change, since a `tf.function` that has been traced would not
    learn of it.

    Args:
        temperature: as for `info_nce_loss`.
        negatives: as for `info_nce_loss`.
        positives: as for `info_nce_loss`.
        normalize: as for `info_nce_loss`.
        implementation: as for `info_nce_loss`.
        distributed: as for `info_nce_loss`.

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        By `tf.GradientTape`: of any order with "dense", once with "tiled" (a second derivative is
        an error). By `tf.autodiff.ForwardAccumulator` with "dense" alone. ids are constants.

    Raises:
        ValueError: an option is unknown or out of range.

    Examples:
        >>> import tensorflow as tf
        >>> from fmicl_tensorflow import InfoNCELoss
        >>> x = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = tf.constant([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> loss = InfoNCELoss(temperature=0.2)
        >>> round(float(loss(x, y)), 4)
        0.3407
        >>> queue = tf.constant([[0.6, 0.8], [-0.8, 0.6]])  # MoCo: supplies all negatives
        >>> round(float(loss(x, y, queue)), 4)
        0.4676
    """

    temperature: float
    negatives: str
    positives: str
    normalize: bool
    implementation: str
    distributed: bool

    def __init__(
        self,
        *,
        temperature: float = RELATED_DEFAULTS.temperature,
        negatives: str = RELATED_DEFAULTS.negatives,
        positives: str = RELATED_DEFAULTS.positives,
        normalize: bool = RELATED_DEFAULTS.normalize,
        implementation: str = "auto",
        distributed: bool = True,
    ) -> None:
        super().__init__()
        options = check_info_nce(temperature, negatives, normalize, positives, implementation)
        self.__dict__.update(options, distributed=check_bool("distributed", distributed))

    def __call__(
        self,
        x: tf.Tensor,
        y: tf.Tensor | None = None,
        bank: tf.Tensor | None = None,
        *,
        ids: tf.Tensor | None = None,
        bank_ids: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The loss of x (N, D) and, if given, y (N, D), bank (K, D), ids (N,), bank_ids (K,)."""
        options = {name: getattr(self, name) for name in (*INFO_NCE_OPTIONS, "distributed")}
        return info_nce_loss(x, y, bank=bank, ids=ids, bank_ids=bank_ids, **options)

    def __setattr__(self, name: str, value: object) -> None:
        if name in (*INFO_NCE_OPTIONS, "distributed"):
            raise fixed_option(name, value, but="")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        """The options, as they would be pasted."""
        names = (*INFO_NCE_OPTIONS, *(() if self.distributed else ("distributed",)))
        return f"InfoNCELoss({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


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

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        By `tf.GradientTape`: of any order. By `tf.autodiff.ForwardAccumulator` too.

    Raises:
        ValueError: an option or a shape does not fit; the message names it.

    Examples:
        >>> import math
        >>> import tensorflow as tf
        >>> from fmicl_tensorflow import alignment_uniformity_loss
        >>> x = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = tf.constant([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(alignment_uniformity_loss(x, y)), 4)
        -3.9963
        >>> near, far = 0.4, (2, 2, 4)  # squared distances from x_i to y_i, to other rows of x
        >>> round(near + math.log(sum(math.exp(-2 * d2) for d2 in far) / 3), 4)
        -3.9963

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

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        By `tf.GradientTape`: of any order. By `tf.autodiff.ForwardAccumulator` too.

    Raises:
        ValueError: a shape does not fit; the message names it.

    Examples:
        >>> import tensorflow as tf
        >>> from fmicl_tensorflow import spectral_contrastive_loss
        >>> x = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = tf.constant([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(spectral_contrastive_loss(x, y)), 4)
        -1.1467
        >>> round(-2 * 0.8 + (0.6**2 + 0.8**2 + 0.6**2) / 3, 4)  # x_i . y_i, x_i . y_j
        -1.1467

    Source: HaoChen et al. (2021).
    """
    tell_of_replicas("spectral_contrastive_loss")
    rows = prepare(x, y, None, normalize)
    s = tf.matmul(rows["x"], rows["y"], transpose_b=True)
    aligned = tf.reduce_mean(tf.linalg.diag_part(s))
    return tf.reduce_mean(tf.square(off_diagonal(s))) - 2.0 * aligned
