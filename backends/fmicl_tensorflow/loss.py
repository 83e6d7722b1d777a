"""The f-MICL loss in TensorFlow: two functions and a module, all of one specification."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import tensorflow as tf

from fmicl_core import FMICL, Divergence, Similarity
from fmicl_core.checks import (
    ALPHA,
    check_bool,
    check_choice,
    fixed_option,
    invalid,
    overflowed,
)
from fmicl_core.objective import DEFAULTS, FIXED, IMPLEMENTATIONS, choose_implementation
from fmicl_tensorflow.dense import dense_block_mean, dense_excess, positive_scores
from fmicl_tensorflow.distributed import Replicas, replica_context, shared_excess
from fmicl_tensorflow.inputs import explain_non_finite, prepare, weight_of
from fmicl_tensorflow.tiled import tiled_block_mean, tiled_excess


class FMICLTerms(NamedTuple):
    """loss = -alignment + alpha * uniformity, three scalars."""

    loss: tf.Tensor
    alignment: tf.Tensor
    uniformity: tf.Tensor


def fmicl_loss(
    x: tf.Tensor,
    y: tf.Tensor,
    /,
    *,
    divergence: Divergence | str = DEFAULTS.divergence,
    similarity: Similarity | str = DEFAULTS.similarity,
    alpha: float | tf.Tensor = DEFAULTS.alpha,
    negatives: str = DEFAULTS.negatives,
    bank: tf.Tensor | None = None,
    normalize: bool = DEFAULTS.normalize,
    implementation: str = "auto",
    check_finite: bool = True,
    distributed: bool = True,
) -> tf.Tensor:
    """f-MICL loss: - mean_i s(x_i, y_i) + alpha * mean over negative pairs of f*(s).

    s = f'(G(|x - y|^2)) is the f-Gaussian similarity, f* the convex conjugate of f.

    Args:
        x: (N, D) features of the first view; float16, bfloat16, float32 or float64. Where y or
            the bank have another dtype, all are promoted.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x.
        divergence: name or `fmicl_core.Divergence`: "kl", "js", "pearson", "squared_hellinger",
            "tsallis", "vlc", "jeffreys" (and "reverse_kl", "neyman", which collapse).
        similarity: name or `fmicl_core.Similarity`: "gaussian", "cosine", "laplace", "cauchy".
        alpha: weight of the negative term, > 0; a number, or a tensor or a variable of no
            dimension, which may change from step to step in a `tf.function`.
        negatives: "anchor" {(x_i, x_j), i != j}, the paper's; "within", "anchor" averaged with its
            twin on y; "cross" {(x_i, y_j), i != j}; "all" pairs of different samples of both views.
        bank: (K, D) features that supply all negatives, {(x_i, bank_k)}, or None.
        normalize: scale every row to unit length first; a zero row stays zero and counts as
            orthogonal to every other.
        implementation: "dense" (any-order derivatives, O(N^2) memory), "tiled" (one pass, O(N D)
            memory, differentiable once), or "auto", by size.
        check_finite: raise when the loss is not finite, which costs one read of a scalar. Skipped
            while tracing, where NaN shows in the loss.
        distributed: in the replica context of a `tf.distribute` strategy, the loss of the union of
            the replicas' batches, on every replica; exact after averaging the gradients over the
            replicas. A bank must be the same on every replica. False: of this replica's rows alone.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option, a shape or a dtype does not fit, or features are not
            finite; the message names the argument.

    Source: the objective of Lu et al. (2023); `fmicl_core.fmicl_reference` is it in float64 NumPy.
    """
    settings = FMICL(divergence, similarity, DEFAULTS.alpha, negatives, normalize)
    return _terms(settings, alpha, x, y, bank, implementation, check_finite, distributed).loss


def fmicl_terms(
    x: tf.Tensor,
    y: tf.Tensor,
    /,
    *,
    divergence: Divergence | str = DEFAULTS.divergence,
    similarity: Similarity | str = DEFAULTS.similarity,
    alpha: float | tf.Tensor = DEFAULTS.alpha,
    negatives: str = DEFAULTS.negatives,
    bank: tf.Tensor | None = None,
    normalize: bool = DEFAULTS.normalize,
    implementation: str = "auto",
    check_finite: bool = True,
    distributed: bool = True,
) -> FMICLTerms:
    """The loss of `fmicl_loss` with its two terms, for logging.

    loss = -alignment + alpha * uniformity, where alignment = mean_i s(x_i, y_i) and uniformity =
    mean over negative pairs of f*(s). Arguments, errors and source as for `fmicl_loss`.

    Returns:
        Named tuple (loss, alignment, uniformity) of scalars, each differentiable.
    """
    settings = FMICL(divergence, similarity, DEFAULTS.alpha, negatives, normalize)
    return _terms(settings, alpha, x, y, bank, implementation, check_finite, distributed)


def _terms(
    settings: FMICL,  # but for its alpha
    alpha: float | tf.Tensor,
    x: tf.Tensor,
    y: tf.Tensor,
    bank: tf.Tensor | None,
    implementation: str,
    check_finite: bool,
    distributed: bool,
) -> FMICLTerms:
    check_bool("check_finite", check_finite)
    check_bool("distributed", distributed)
    check_choice("implementation", implementation, IMPLEMENTATIONS)
    weight, pairwise = weight_of(alpha), settings.pairwise
    blocks = settings.blocks(bank is not None)
    context = replica_context() if distributed else None
    rows = prepare(x, y, bank, pairwise.normalize, least=2 if context is None else 1)
    replicas = None if context is None else Replicas(context, rows["x"])
    n, k = rows["x"].shape[0], rows.get("bank", rows["x"]).shape[0]
    if context is not None:
        n = None if n is None else n * context.num_replicas_in_sync
        k = n if bank is None else k
    dense = choose_implementation(implementation, n, k) == "dense"
    scores = positive_scores(rows, pairwise)
    if replicas is None:
        alignment = tf.reduce_mean(scores)
        excess = (dense_excess if dense else tiled_excess)(rows, pairwise, blocks)
    else:
        alignment = replicas.mean(scores)
        block_mean = dense_block_mean if dense else tiled_block_mean
        excess = shared_excess(rows, pairwise, blocks, block_mean, replicas)
    uniformity = pairwise.limit + excess
    if not isinstance(weight, float):  # a number stays one, which tf.cast would take for float32
        weight = tf.cast(weight, excess.dtype)
    loss = weight * uniformity - alignment
    if check_finite and tf.executing_eagerly():
        if not weight > 0:
            raise invalid("alpha", ALPHA, float(weight))
        if not tf.math.is_finite(loss):
            objective = replace(settings, alpha=float(weight))
            raise explain_non_finite(x, y, bank) or overflowed(objective, float(loss))
    return FMICLTerms(loss, alignment, uniformity)


class FMICLLoss(tf.Module):
    """`fmicl_loss` as a module: the same options, no variables and no state.

    What it was made with does not change, since a `tf.function` that has been traced would not
    learn of it. For an alpha that changes give a `tf.Variable`, and call `alpha.assign`.

    Args:
        divergence, similarity, alpha, negatives, normalize, implementation, check_finite: as for
            `fmicl_loss`.
        distributed: as for `fmicl_loss`.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    def __init__(
        self,
        *,
        divergence: Divergence | str = DEFAULTS.divergence,
        similarity: Similarity | str = DEFAULTS.similarity,
        alpha: float | tf.Tensor = DEFAULTS.alpha,
        negatives: str = DEFAULTS.negatives,
        normalize: bool = DEFAULTS.normalize,
        implementation: str = "auto",
        check_finite: bool = True,
        distributed: bool = True,
    ) -> None:
        super().__init__()
        self._alpha = weight_of(alpha)
        number = self._alpha if isinstance(self._alpha, float) else DEFAULTS.alpha
        self._made_with = FMICL(divergence, similarity, number, negatives, normalize)
        self.implementation = check_choice("implementation", implementation, IMPLEMENTATIONS)
        self.check_finite = check_bool("check_finite", check_finite)
        self.distributed = check_bool("distributed", distributed)

    def __call__(self, x: tf.Tensor, y: tf.Tensor, bank: tf.Tensor | None = None) -> tf.Tensor:
        """The loss of x (N, D), y (N, D) and, if given, bank (K, D); scalar."""
        return self.terms(x, y, bank).loss

    def terms(self, x: tf.Tensor, y: tf.Tensor, bank: tf.Tensor | None = None) -> FMICLTerms:
        """The loss with its alignment and uniformity, as `fmicl_terms`."""
        options = self.implementation, self.check_finite, self.distributed
        return _terms(self._made_with, self._alpha, x, y, bank, *options)

    @property
    def alpha(self) -> float | tf.Tensor:
        """Weight of the negative term, as it was given."""
        return self._alpha

    @property
    def objective(self) -> FMICL:
        """The settings, with alpha as it is now."""
        return replace(self._made_with, alpha=float(self._alpha))

    def __setattr__(self, name: str, value: object) -> None:
        if name in (*FIXED, "alpha"):
            raise fixed_option(name, value)
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        """The options, as they would be pasted."""
        more = {"implementation": self.implementation, "check_finite": self.check_finite}
        more |= {} if self.distributed else {"distributed": False}
        return f"FMICLLoss({self._made_with.listed(alpha=float(self._alpha), **more)})"
