"""The f-MICL loss in JAX: two functions and a callable object, all of one specification."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import jax

from fmicl_core import FMICL, Divergence, Similarity
from fmicl_core.checks import check_bool
from fmicl_core.forms import WITH_FUSED, check_implementation
from fmicl_core.objective import DEFAULTS, SCALARS
from fmicl_jax.inputs import is_array
from fmicl_jax.plan import Scalars
from fmicl_jax.terms import FMICLTerms, settings_of, terms_of, with_scalars


def fmicl_loss(
    x: jax.Array,
    y: jax.Array | None = None,
    /,
    *,
    divergence: Divergence | str = DEFAULTS.divergence,
    similarity: Similarity | str = DEFAULTS.similarity,
    alpha: float | jax.Array | str = DEFAULTS.alpha,
    strength: float | None = None,
    logit_scale: float | jax.Array | None = None,
    logit_bias: float | jax.Array | None = None,
    negatives: str = DEFAULTS.negatives,
    positives: str = DEFAULTS.positives,
    bank: jax.Array | None = None,
    ids: jax.Array | None = None,
    bank_ids: jax.Array | None = None,
    normalize: bool = DEFAULTS.normalize,
    implementation: str = "auto",
    check_finite: bool = True,
    axis_name: str | None = None,
) -> jax.Array:
    """f-MICL loss: - mean_i s(x_i, y_i) + alpha * mean over negative pairs of f*(s).

    Negatives are by default the other samples of x, `negatives="anchor"`: the paper's printed
    equation, and the cheapest. `info_nce_loss` takes "all" by default, as NT-Xent does.

    s = f'(G(|x - y|^2)) is the f-Gaussian similarity, f* the convex conjugate of f.

    With `ids` rows with equal ids belong together: they are positives, and no negatives. The score
    of an anchor then is the mean over its positives. `fmicl_loss(features, ids=labels)` takes
    labels, or several views stacked in one array.

    On several devices it is of this device's rows alone; `axis_name=` makes it that of the union of
    their batches.

    Args:
        x: (N, D) features of the first view, or of all rows in a single array; float16, bfloat16,
            float32 or, under x64, float64. Where y or the bank have another dtype, all are
            promoted.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x. None:
            `ids` say which rows of x belong together.
        divergence: name or `fmicl_core.Divergence`: "kl", "js", "pearson", "squared_hellinger",
            "tsallis", "vlc", "jeffreys" (and "reverse_kl", "neyman", which collapse).
        similarity: name or `fmicl_core.Similarity`: "gaussian", "cosine", "laplace", "cauchy".
        alpha: weight of the negative term, > 0; a number, or an array of no dimension, which may
            change from step to step in compiled code; or "auto", strength / mean of u over the
            negative pairs, where u = e^L (of a cosine f*'(s)) is the model of p(x, y) / (p(x)
            p(y)), whose mean over independent pairs is 1. It is found from every batch, and not
            differentiated.
        strength: factor > 0 of alpha="auto"; None: 5, or with a number alpha nothing.
        logit_scale: factor > 0 of x . y in z = logit_scale (x . y) + logit_bias, where z is L = log
            G of the Gaussian, or the score of the cosine; a number, or an array of no dimension,
            which may learn. None: that of the similarity.
        logit_bias: constant of z; a number, or an array of no dimension, which may learn. None:
            that of the similarity. With a scale or a bias lengths of rows do not count.
        negatives: scheme of negatives: "anchor" {(x_i, x_j), i != j}, the paper's; "within",
            "anchor" averaged with its twin on y; "cross" {(x_i, y_j), i != j}; "all" pairs of
            different samples of both views.
        positives: pairs of rows with equal `ids` that are positive: "ids", all of them; "pair",
            (x_i, y_i) alone, so that other rows with that id are merely no negatives (duplicates).
        bank: (K, D) features that supply all negatives, {(x_i, bank_k)}, or None.
        ids: (N,) whole numbers of the rows of x, and of y; rows with equal ids belong together, as
            labels or views of one sample do. None: row i of x and of y are alone with each other.
        bank_ids: (K,) whole numbers of the bank's rows, which are no negatives of rows with the
            same id; None: no row of the bank is.
        normalize: whether rows are scaled to unit length first; a zero row stays zero and counts as
            orthogonal to every other.
        implementation: form that computes the loss: "dense" (any-order derivatives, O(N^2) memory),
            "tiled" (one pass, O(N D) memory, differentiable once), "fused" (as tiled, fused on an
            NVIDIA GPU by Pallas; products in the dtype of the features), or "auto", by size, device
            and dtype.
        check_finite: whether to raise when the loss is not finite, which costs one read of a
            scalar. Skipped while tracing, where NaN shows in the loss.
        axis_name: axis of the `jax.shard_map` or `jax.pmap` around the call, for the loss of the
            union of its devices' batches, on every device; its gradient is exact outside the map,
            or inside it after `jax.lax.pmean`. A bank must be the same on every device.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        In reverse and forward mode, under `jax.jit` and `jax.vmap` too: of any order with "dense",
        once with "tiled" and "fused" (a second derivative is an error). ids are constants, and so
        is alpha="auto".

    Raises:
        ValueError: an option, a shape or a dtype does not fit, or features are not
            finite; the message names the argument.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fmicl_jax import fmicl_loss
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = jnp.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(fmicl_loss(x, y)), 4)  # -score + alpha * penalty = -0.6 + 40 * 0.0963
        3.2531
        >>> labels = jnp.array([0, 0, 1, 1])  # rows with equal labels are positives
        >>> round(float(fmicl_loss(x, ids=labels, divergence="js")), 2)
        -23.39

    Source: the objective of Lu et al. (2023); `fmicl_core.fmicl_reference` is it in float64 NumPy.
    """
    given = Scalars(alpha, logit_scale, logit_bias)
    fixed = negatives, positives, normalize
    settings, scalars = settings_of(divergence, similarity, given, *fixed, strength)
    arrays = x, y, bank, ids, bank_ids
    return terms_of(settings, scalars, *arrays, implementation, check_finite, axis_name).loss


def fmicl_terms(
    x: jax.Array,
    y: jax.Array | None = None,
    /,
    *,
    divergence: Divergence | str = DEFAULTS.divergence,
    similarity: Similarity | str = DEFAULTS.similarity,
    alpha: float | jax.Array | str = DEFAULTS.alpha,
    strength: float | None = None,
    logit_scale: float | jax.Array | None = None,
    logit_bias: float | jax.Array | None = None,
    negatives: str = DEFAULTS.negatives,
    positives: str = DEFAULTS.positives,
    bank: jax.Array | None = None,
    ids: jax.Array | None = None,
    bank_ids: jax.Array | None = None,
    normalize: bool = DEFAULTS.normalize,
    implementation: str = "auto",
    check_finite: bool = True,
    axis_name: str | None = None,
) -> FMICLTerms:
    """The loss of `fmicl_loss` with its two terms, for logging.

    loss = -score + alpha * penalty, where score = mean_i s(x_i, y_i) over the positive pairs and
    penalty = mean of f*(s) over the negative pairs. These three can be differentiated; the alpha
    that is returned is a constant.

    Arguments, errors and source as for `fmicl_loss`.

    Returns:
        Named tuple (loss, score, penalty, alpha) of scalars; alpha is the weight that was used.

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        In reverse and forward mode, under `jax.jit` and `jax.vmap` too: of any order with "dense",
        once with "tiled" and "fused" (a second derivative is an error). ids are constants, and so
        is alpha="auto".

    Examples:
        >>> import jax.numpy as jnp
        >>> from fmicl_jax import fmicl_terms
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = jnp.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> terms = fmicl_terms(x, y, alpha="auto", strength=5.0)
        >>> [round(float(term), 4) for term in terms]  # loss, score, penalty, alpha
        [4.4, 0.6, 0.0963, 51.9056]
        >>> round(float(terms.alpha * terms.penalty), 4)  # of KL the penalty is the mean of u
        5.0
    """
    given = Scalars(alpha, logit_scale, logit_bias)
    fixed = negatives, positives, normalize
    settings, scalars = settings_of(divergence, similarity, given, *fixed, strength)
    arrays = x, y, bank, ids, bank_ids
    return terms_of(settings, scalars, *arrays, implementation, check_finite, axis_name)


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, kw_only=True, repr=False)
class FMICLLoss:
    """`fmicl_loss` as an object: the same options, no parameters and no state.

    Negatives are by default the other samples of x, `negatives="anchor"`: the paper's printed
    equation, and the cheapest. `InfoNCELoss` takes "all" by default, as NT-Xent does.

    It is callable, frozen and hashable: equal ones are one static argument of `jax.jit`. Its leaves
    as a pytree are those of alpha, logit_scale and logit_bias that are arrays.

    Args:
        divergence: as for `fmicl_loss`.
        similarity: as for `fmicl_loss`.
        alpha: as for `fmicl_loss`.
        strength: as for `fmicl_loss`.
        logit_scale: as for `fmicl_loss`.
        logit_bias: as for `fmicl_loss`.
        negatives: as for `fmicl_loss`.
        positives: as for `fmicl_loss`.
        normalize: as for `fmicl_loss`.
        implementation: as for `fmicl_loss`.
        check_finite: as for `fmicl_loss`.
        axis_name: as for `fmicl_loss`.

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        In reverse and forward mode, under `jax.jit` and `jax.vmap` too: of any order with "dense",
        once with "tiled" and "fused" (a second derivative is an error). ids are constants, and so
        is alpha="auto".

    Raises:
        ValueError: an option is unknown or out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fmicl_jax import FMICLLoss
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = jnp.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> loss = FMICLLoss(divergence="js", negatives="all")
        >>> round(float(loss(x, y)), 3)
        -22.773
        >>> bank = jnp.array([[0.6, 0.8], [-0.8, 0.6]])  # supplies all negatives
        >>> round(float(loss(x, y, bank)), 3)
        -17.996
    """

    divergence: Divergence | str = DEFAULTS.divergence
    similarity: Similarity | str = DEFAULTS.similarity
    alpha: float | jax.Array | str = DEFAULTS.alpha
    strength: float | None = None
    logit_scale: float | jax.Array | None = None
    logit_bias: float | jax.Array | None = None
    negatives: str = DEFAULTS.negatives
    positives: str = DEFAULTS.positives
    normalize: bool = DEFAULTS.normalize
    implementation: str = "auto"
    check_finite: bool = True
    axis_name: str | None = None

    def __post_init__(self) -> None:
        fixed = self.negatives, self.positives, self.normalize
        given = self.divergence, self.similarity, self._scalars, *fixed, self.strength
        o, scalars = settings_of(*given)
        for name in ("divergence", "similarity", "strength"):
            object.__setattr__(self, name, getattr(o, name))
        for name, value in ({"_made_with": o} | scalars._asdict()).items():
            object.__setattr__(self, name, value)
        form = check_implementation(self.implementation, WITH_FUSED)
        object.__setattr__(self, "implementation", form)
        check_bool("check_finite", self.check_finite)

    @property
    def objective(self) -> FMICL:
        """The settings."""
        made_with: FMICL = self._made_with  # type: ignore[attr-defined]
        return with_scalars(made_with, self._scalars) if self._arrays else made_with

    @property
    def _scalars(self) -> Scalars:
        return Scalars(*(getattr(self, name) for name in SCALARS))

    @property
    def _arrays(self) -> dict[str, jax.Array]:
        """Those of the scalars that are arrays, by name."""
        return {name: v for name, v in self._scalars._asdict().items() if is_array(v)}

    def __repr__(self) -> str:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        may_be_none = *SCALARS, "strength"
        shown = [f"{k}={v!r}" for k, v in given.items() if k not in may_be_none or v is not None]
        return f"{type(self).__qualname__}({', '.join(shown)})"

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
        return self.terms(x, y, bank, ids=ids, bank_ids=bank_ids).loss

    def terms(
        self,
        x: jax.Array,
        y: jax.Array | None = None,
        bank: jax.Array | None = None,
        *,
        ids: jax.Array | None = None,
        bank_ids: jax.Array | None = None,
    ) -> FMICLTerms:
        """The loss, mean score, mean penalty and alpha, as `fmicl_terms`."""
        options = self.implementation, self.check_finite, self.axis_name
        settings: FMICL = self._made_with  # type: ignore[attr-defined]
        return terms_of(settings, self._scalars, x, y, bank, ids, bank_ids, *options)

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The leaves of the pytree; their names, and all that is no leaf."""
        arrays = self._arrays
        rest = {name: value for name, value in vars(self).items() if name not in arrays}
        return tuple(arrays.values()), (tuple(arrays), tuple(rest.items()))

    @classmethod
    def tree_unflatten(cls, rest: tuple[Any, ...], leaves: tuple[Any, ...]) -> Self:
        """The object with these leaves, which may be whatever JAX puts in their place."""
        loss, (names, others) = object.__new__(cls), rest
        for name, value in (*others, *zip(names, leaves, strict=True)):
            object.__setattr__(loss, name, value)
        return loss
