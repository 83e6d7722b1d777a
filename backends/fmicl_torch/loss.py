"""The f-MICL loss in PyTorch: two functions and a module, all of one specification."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from fmicl_core import FMICL, Divergence, Similarity
from fmicl_core.checks import check_bool, check_choice, invalid, overflowed
from fmicl_core.objective import (
    DEFAULTS,
    KERNEL,
    NO_SAMPLE,
    WITH_KERNEL,
    choose_implementation,
)
from fmicl_torch.dense import Rows, dense_uniformity, positive_scores
from fmicl_torch.distributed import Distributed, Ranks, ranks_of, ring_uniformity
from fmicl_torch.inputs import explain_non_finite, prepare
from fmicl_torch.kernel import kernel_dtype
from fmicl_torch.registry import objective_of, register, register_options
from fmicl_torch.tiled import tiled_uniformity


class FMICLTerms(NamedTuple):
    """loss = -alignment + alpha * uniformity, three scalars."""

    loss: torch.Tensor
    alignment: torch.Tensor
    uniformity: torch.Tensor


def fmicl_loss(
    x: torch.Tensor,
    y: torch.Tensor,
    /,
    *,
    divergence: Divergence | str = DEFAULTS.divergence,
    similarity: Similarity | str = DEFAULTS.similarity,
    alpha: float = DEFAULTS.alpha,
    negatives: str = DEFAULTS.negatives,
    bank: torch.Tensor | None = None,
    normalize: bool = DEFAULTS.normalize,
    implementation: str = "auto",
    check_finite: bool = True,
    distributed: Distributed = False,
) -> torch.Tensor:
    """f-MICL loss: - mean_i s(x_i, y_i) + alpha * mean over negative pairs of f*(s).

    s = f'(G(|x - y|^2)) is the f-Gaussian similarity, f* the convex conjugate of f.

    Args:
        x: (N, D) features of the first view; float16, bfloat16, float32 or float64.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x.
        divergence: name or `fmicl_core.Divergence`: "kl", "js", "pearson", "squared_hellinger",
            "tsallis", "vlc", "jeffreys" (and "reverse_kl", "neyman", which collapse).
        similarity: name or `fmicl_core.Similarity`: "gaussian", "cosine", "laplace", "cauchy".
        alpha: weight of the negative term, > 0.
        negatives: "anchor" {(x_i, x_j), i != j}, the paper's; "within", "anchor" averaged with its
            twin on y; "cross" {(x_i, y_j), i != j}; "all" pairs of different samples of both views.
        bank: (K, D) features that supply all negatives, {(x_i, bank_k)}, or None.
        normalize: scale every row to unit length first; a zero row stays zero and counts as
            orthogonal to every other.
        implementation: "dense" (any-order derivatives, O(N^2) memory), "tiled" (one pass, O(N D)
            memory, differentiable once), "kernel" (as tiled, fused on an NVIDIA GPU by Triton;
            products in the dtype of the features), or "auto", by size, device and dtype.
        check_finite: raise when the loss is not finite, which costs one read of a scalar. Skipped
            while compiling, where NaN shows in the loss.
        distributed: True, or a process group of `torch.distributed`, for the loss of the union of
            the ranks' batches, on every rank; exact after the gradient averaging of
            DistributedDataParallel. A bank must be the same on every rank. "dense" gathers the
            union, "tiled" passes shards round a ring.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Raises:
        ValueError: an option, a shape, a dtype or a device does not fit, or features are not
            finite; the message names the argument.

    Source: the objective of Lu et al. (2023); `fmicl_core.fmicl_reference` is it in float64 NumPy.
    """
    number = register_options(divergence, similarity, alpha, negatives, normalize)
    return _terms(number, x, y, bank, implementation, check_finite, distributed).loss


def fmicl_terms(
    x: torch.Tensor,
    y: torch.Tensor,
    /,
    *,
    divergence: Divergence | str = DEFAULTS.divergence,
    similarity: Similarity | str = DEFAULTS.similarity,
    alpha: float = DEFAULTS.alpha,
    negatives: str = DEFAULTS.negatives,
    bank: torch.Tensor | None = None,
    normalize: bool = DEFAULTS.normalize,
    implementation: str = "auto",
    check_finite: bool = True,
    distributed: Distributed = False,
) -> FMICLTerms:
    """The loss of `fmicl_loss` with its two terms, for logging.

    loss = -alignment + alpha * uniformity, where alignment = mean_i s(x_i, y_i) and uniformity =
    mean over negative pairs of f*(s). Arguments, errors and source as for `fmicl_loss`.

    Returns:
        Named tuple (loss, alignment, uniformity) of scalars, each differentiable.
    """
    number = register_options(divergence, similarity, alpha, negatives, normalize)
    return _terms(number, x, y, bank, implementation, check_finite, distributed)


def _terms(
    number: int,
    x: torch.Tensor,
    y: torch.Tensor,
    bank: torch.Tensor | None,
    implementation: str,
    check_finite: bool,
    distributed: Distributed,
    samples: Rows | None = None,
) -> FMICLTerms:
    check_bool("check_finite", check_finite)
    check_choice("implementation", implementation, WITH_KERNEL)
    objective = objective_of(number)
    shared = distributed is not False
    form = implementation if samples is None else "dense"
    least = 1 if shared else 2
    rows = prepare(x, y, bank, objective.normalize, least=least, implementation=form)
    kernel = kernel_dtype(implementation, number, x)
    ranks = ranks_of(distributed, x) if shared else None
    with torch.autocast(x.device.type, enabled=False):
        if ranks is None:
            alignment = positive_scores(rows, objective).mean()
            uniformity = _uniformity(rows, number, implementation, kernel, samples)
        else:
            alignment = ranks.mean(positive_scores(rows, objective))
            uniformity = _shared_uniformity(rows, number, implementation, kernel, ranks)
        loss = objective.alpha * uniformity - alignment
    if check_finite and not torch.compiler.is_compiling() and not loss.isfinite():
        raise explain_non_finite(x, y, bank) or overflowed(objective, loss.item())
    return FMICLTerms(loss, alignment, uniformity)


def _uniformity(
    rows: Rows, number: int, implementation: str, kernel: str, samples: Rows | None = None
) -> torch.Tensor:
    x = rows["x"]
    if samples is not None:
        if implementation in ("tiled", KERNEL):
            raise invalid("implementation", "'auto' or 'dense' with `samples`", implementation)
        return dense_uniformity(rows, objective_of(number), samples)
    k = len(rows.get("bank", x))
    form = choose_implementation(implementation, len(x), k, bool(kernel))
    if form == "dense":
        return dense_uniformity(rows, objective_of(number))
    return tiled_uniformity(rows, number, kernel if form == KERNEL else "")


def _shared_uniformity(
    rows: Rows, number: int, implementation: str, kernel: str, ranks: Ranks
) -> torch.Tensor:
    if "bank" in rows:  # every rank has all negatives of its rows
        own = _uniformity(rows, number, implementation, kernel)
        return ranks.mean(own.expand(len(rows["x"])))
    form = choose_implementation(implementation, ranks.total, ranks.total, bool(kernel))
    if form != "dense":
        return ring_uniformity(rows, number, ranks, kernel if form == KERNEL else "")
    union = {name: ranks.gather(side) for name, side in rows.items()}
    return dense_uniformity(union, objective_of(number))


class FMICLLoss(torch.nn.Module):
    """`fmicl_loss` as a module: the same options, no parameters and no state.

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
        alpha: float = DEFAULTS.alpha,
        negatives: str = DEFAULTS.negatives,
        normalize: bool = DEFAULTS.normalize,
        implementation: str = "auto",
        check_finite: bool = True,
        distributed: Distributed = False,
    ) -> None:
        super().__init__()
        self.objective = FMICL(divergence, similarity, alpha, negatives, normalize)
        self._number = register(self.objective)
        self.implementation = check_choice("implementation", implementation, WITH_KERNEL)
        self.check_finite = check_bool("check_finite", check_finite)
        self.distributed = distributed

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, bank: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of x (N, D), y (N, D) and, if given, bank (K, D); scalar."""
        return self.terms(x, y, bank).loss

    def terms(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        bank: torch.Tensor | None = None,
        samples: torch.Tensor | None = None,
        bank_samples: torch.Tensor | None = None,
    ) -> FMICLTerms:
        """The loss with its alignment and uniformity, as `fmicl_terms`.

        Args:
            x: (N, D).
            y: (N, D).
            bank: (K, D), or None.
            samples: (N,) whole numbers; rows with equal numbers are one sample (the same text twice
                in a batch) and not negatives of each other. Takes the dense form.
            bank_samples: (K,) likewise for the bank; None: of no sample in the batch.

        Raises:
            ValueError: as `fmicl_loss`, and when all rows are of one sample.
        """
        options = self.implementation, self.check_finite, self.distributed
        if samples is None:
            return _terms(self._number, x, y, bank, *options)
        if self.distributed is not False:
            raise invalid("samples", "None with `distributed`", "numbers", what="samples")
        numbers = {"x": samples, "y": samples}
        if bank is not None:
            none = samples.new_full((len(bank),), NO_SAMPLE)
            numbers["bank"] = none if bank_samples is None else bank_samples
        return _terms(self._number, x, y, bank, *options, numbers)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._number = register(self.objective)  # a copy may come from another process

    def extra_repr(self) -> str:
        """The options, as they would be pasted."""
        more = {"implementation": self.implementation, "check_finite": self.check_finite}
        more |= {} if self.distributed is False else {"distributed": self.distributed}
        return self.objective.listed(**more)
