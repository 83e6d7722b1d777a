"""InfoNCE and the other losses that f-MICL generalises, in JAX."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fmicl_core.checks import check_positive
from fmicl_core.pairs import pairs_of
from fmicl_core.related import INFO_NCE_OPTIONS, RELATED_DEFAULTS, check_info_nce, one_scale
from fmicl_jax.distributed import tell_of_devices
from fmicl_jax.info_nce import info_nce_of
from fmicl_jax.inputs import prepare
from fmicl_jax.ops import off_diagonal, product, square_lengths


def info_nce_loss(
    x: jax.Array,
    y: jax.Array | None = None,
    /,
    *,
    temperature: float | jax.Array = RELATED_DEFAULTS.temperature,
    logit_scale: float | jax.Array | None = None,
    negatives: str = RELATED_DEFAULTS.negatives,
    positives: str = RELATED_DEFAULTS.positives,
    bank: jax.Array | None = None,
    ids: jax.Array | None = None,
    bank_ids: jax.Array | None = None,
    normalize: bool = RELATED_DEFAULTS.normalize,
    implementation: str = "auto",
    axis_name: str | None = None,
) -> jax.Array:
    """InfoNCE: mean over anchors of log(e^s+ + sum over negatives of e^s-) - s+.

    Negatives are by default all other samples of both views, `negatives="all"`, as in NT-Xent.
    `fmicl_loss` takes "anchor" by default, the paper's printed equation, and the cheapest.

    s = x . y / temperature; s+ is the score of the anchor's other view.

    With `ids` an anchor has several positives: all of them stand in the softmax beside the
    negatives, s+ is their mean, and rows with equal ids are no negatives.
    `info_nce_loss(features, ids=labels)` is the supervised contrastive loss (Khosla et al. 2020,
    L_out).

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
        >>> from jax.nn import logsumexp
        >>> from fmicl_jax import info_nce_loss
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = jnp.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(info_nce_loss(x, y, temperature=0.5, negatives="cross")), 4)
        0.572
        >>> s = x @ y.T / 0.5  # scores, those of positive pairs on the diagonal
        >>> each = logsumexp(s, axis=1) - s.diagonal()
        >>> round(float(each.mean()), 4)
        0.572
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> round(float(info_nce_loss(x, ids=labels)), 4)  # supervised contrastive
        0.7586

    Source: Oord et al. (2018), eq. 4; Chen et al. (2020), eq. 1; He et al. (2020), eq. 1; with ids
    Khosla et al. (2020), eq. 2.
    """
    tell_of_devices("info_nce_loss", axis_name)
    scale = one_scale(temperature, logit_scale)
    pairs = pairs_of(negatives, positives, y, bank, ids, bank_ids)
    return info_nce_of(
        pairs, scale, x, y, bank, ids, bank_ids, normalize, implementation, axis_name
    )


@jax.tree_util.register_static
@dataclass(frozen=True, kw_only=True)
class InfoNCELoss:
    """`info_nce_loss` as an object: the same options, no parameters and no state.

    Negatives are by default all other samples of both views, `negatives="all"`, as in NT-Xent.
    `FMICLLoss` takes "anchor" by default, the paper's printed equation, and the cheapest.

    It is callable, frozen and hashable: equal ones are one static argument of `jax.jit`. As a
    pytree it has no leaves.

    Args:
        temperature: as for `info_nce_loss`.
        negatives: as for `info_nce_loss`.
        positives: as for `info_nce_loss`.
        normalize: as for `info_nce_loss`.
        implementation: as for `info_nce_loss`.
        axis_name: as for `info_nce_loss`.

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        In reverse and forward mode, under `jax.jit` and `jax.vmap` too: of any order with "dense",
        once with "tiled" (a second derivative is an error). ids are constants.

    Raises:
        ValueError: an option is unknown or out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fmicl_jax import InfoNCELoss
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = jnp.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> loss = InfoNCELoss(temperature=0.2)
        >>> round(float(loss(x, y)), 4)
        0.3407
        >>> queue = jnp.array([[0.6, 0.8], [-0.8, 0.6]])  # MoCo: supplies all negatives
        >>> round(float(loss(x, y, queue)), 4)
        0.4676
    """

    temperature: float = RELATED_DEFAULTS.temperature
    negatives: str = RELATED_DEFAULTS.negatives
    positives: str = RELATED_DEFAULTS.positives
    normalize: bool = RELATED_DEFAULTS.normalize
    implementation: str = "auto"
    axis_name: str | None = None

    def __post_init__(self) -> None:
        checked = check_info_nce(**{name: getattr(self, name) for name in INFO_NCE_OPTIONS})
        object.__setattr__(self, "temperature", checked["temperature"])

    def __call__(
        self,
        x: jax.Array,
        y: jax.Array | None = None,
        bank: jax.Array | None = None,
        *,
        ids: jax.Array | None = None,
        bank_ids: jax.Array | None = None,
    ) -> jax.Array:
        """The loss of x (N, D) and, if given, y (N, D), bank (K, D), ids (N,), bank_ids (K,)."""
        options = {name: getattr(self, name) for name in (*INFO_NCE_OPTIONS, "axis_name")}
        return info_nce_loss(x, y, bank=bank, ids=ids, bank_ids=bank_ids, **options)


def alignment_uniformity_loss(
    x: jax.Array,
    y: jax.Array | None = None,
    /,
    *,
    exponent: float = RELATED_DEFAULTS.exponent,
    t: float = RELATED_DEFAULTS.t,
    uniformity_weight: float = RELATED_DEFAULTS.uniformity_weight,
    normalize: bool = RELATED_DEFAULTS.normalize,
) -> jax.Array:
    """Alignment and uniformity: mean |x_i - y_i|^exponent + uniformity_weight (u(x) + u(y)) / 2.

    u(x) = log mean over i != j of exp(-t |x_i - x_j|^2).

    The rows that it is given are the whole batch. Among several ranks, devices or replicas gather
    their features first; `fmicl_loss` does that itself.

    Args:
        x: (N, D) features of the first view, any float dtype.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x.
            Two views in one array are split first, `z1, z2 = jnp.split(features, 2)`.
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
        In reverse and forward mode, under `jax.jit` and `jax.vmap` too: of any order.

    Raises:
        ValueError: an option or a shape does not fit; the message names it.

    Examples:
        >>> import math
        >>> import jax.numpy as jnp
        >>> from fmicl_jax import alignment_uniformity_loss
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = jnp.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(alignment_uniformity_loss(x, y)), 4)
        -3.9963
        >>> near, far = 0.4, (2, 2, 4)  # squared distances from x_i to y_i, to other rows of x
        >>> round(near + math.log(sum(math.exp(-2 * d2) for d2 in far) / 3), 4)
        -3.9963

    Source: Wang and Isola (2020), section 4.1.
    """
    tell_of_devices("alignment_uniformity_loss", knows=False)
    for name, value in (("exponent", exponent), ("t", t), ("uniformity_weight", uniformity_weight)):
        check_positive(name, value)
    rows = prepare(x, y, None, normalize)
    square = square_lengths(rows["x"] - rows["y"])
    spread = [_log_potential(rows[name], t) for name in ("x", "y")]
    return _power(square, exponent).mean() + uniformity_weight * jnp.stack(spread).mean()


def _power(square: jax.Array, exponent: float) -> jax.Array:
    """Distances to the exponent, of their squares."""
    if exponent >= 2.0:
        return square ** (exponent / 2.0)
    # The slope of a power below 1 is infinite at 0. A pair that coincides has the slope 0.
    apart = jnp.where(square == 0, 1.0, square) ** (exponent / 2.0)
    return jnp.where(square == 0, 0.0, apart)


def _log_potential(x: jax.Array, t: float) -> jax.Array:
    lengths = square_lengths(x)
    d2 = off_diagonal(lengths[:, None] + lengths[None, :] - 2.0 * product(x, x.T))
    return jax.nn.logsumexp(-t * d2.ravel()) - math.log(d2.size)


def spectral_contrastive_loss(
    x: jax.Array, y: jax.Array | None = None, /, *, normalize: bool = RELATED_DEFAULTS.normalize
) -> jax.Array:
    """Spectral contrastive loss: -2 mean_i x_i . y_i + mean over i != j of (x_i . y_j)^2.

    The rows that it is given are the whole batch. Among several ranks, devices or replicas gather
    their features first; `fmicl_loss` does that itself.

    Args:
        x: (N, D) features of the first view, any float dtype.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x.
            Two views in one array are split first, `z1, z2 = jnp.split(features, 2)`.
        normalize: whether rows are scaled to unit length first.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        In reverse and forward mode, under `jax.jit` and `jax.vmap` too: of any order.

    Raises:
        ValueError: a shape does not fit; the message names it.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fmicl_jax import spectral_contrastive_loss
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = jnp.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(spectral_contrastive_loss(x, y)), 4)
        -1.1467
        >>> round(-2 * 0.8 + (0.6**2 + 0.8**2 + 0.6**2) / 3, 4)  # x_i . y_i, x_i . y_j
        -1.1467

    Source: HaoChen et al. (2021).
    """
    tell_of_devices("spectral_contrastive_loss", knows=False)
    rows = prepare(x, y, None, normalize)
    s = product(rows["x"], rows["y"].T)
    return -2.0 * s.diagonal().mean() + jnp.square(off_diagonal(s)).mean()
