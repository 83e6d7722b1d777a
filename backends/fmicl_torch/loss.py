"""The f-MICL loss in PyTorch: two functions and a module, all of one specification."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from fmicl_core import FMICL, Divergence, Pairwise, Similarity
from fmicl_core.checks import check_bool, fixed_option
from fmicl_core.forms import WITH_FUSED, check_implementation
from fmicl_core.objective import DEFAULTS, FIXED, SCALARS, check_auto, number_for
from fmicl_torch.distributed import Distributed
from fmicl_torch.inputs import Auto, Scalar, scalar_of, weight_of
from fmicl_torch.registry import ratio, register, register_options
from fmicl_torch.terms import FMICLTerms, terms_of


def fmicl_loss(
    x: torch.Tensor,
    y: torch.Tensor | None = None,
    /,
    *,
    divergence: Divergence | str = DEFAULTS.divergence,
    similarity: Similarity | str = DEFAULTS.similarity,
    alpha: float | torch.Tensor | str = DEFAULTS.alpha,
    strength: float | None = None,
    logit_scale: float | torch.Tensor | None = None,
    logit_bias: float | torch.Tensor | None = None,
    negatives: str = DEFAULTS.negatives,
    positives: str = DEFAULTS.positives,
    bank: torch.Tensor | None = None,
    ids: torch.Tensor | None = None,
    bank_ids: torch.Tensor | None = None,
    normalize: bool = DEFAULTS.normalize,
    implementation: str = "auto",
    check_finite: bool = True,
    distributed: Distributed | None = None,
) -> torch.Tensor:
    """f-MICL loss: - mean_i s(x_i, y_i) + alpha * mean over negative pairs of f*(s).

    Negatives are by default the other samples of x, `negatives="anchor"`: the paper's printed
    equation, and the cheapest. `info_nce_loss` takes "all" by default, as NT-Xent does.

    s = f'(G(|x - y|^2)) is the f-Gaussian similarity, f* the convex conjugate of f.

    With `ids` rows with equal ids belong together: they are positives, and no negatives. The score
    of an anchor then is the mean over its positives. `fmicl_loss(features, ids=labels)` takes
    labels, or several views stacked in one array.

    On several ranks it is of this rank's rows alone; `distributed=True` makes it that of the union
    of their batches.

    Args:
        x: (N, D) features of the first view, or of all rows in a single array; float16, bfloat16,
            float32 or float64. Where y or the bank have another dtype, all are promoted.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x. None:
            `ids` say which rows of x belong together.
        divergence: name or `fmicl_core.Divergence`: "kl", "js", "pearson", "squared_hellinger",
            "tsallis", "vlc", "jeffreys" (and "reverse_kl", "neyman", which collapse).
        similarity: name or `fmicl_core.Similarity`: "gaussian", "cosine", "laplace", "cauchy".
        alpha: weight of the negative term, > 0; a number, or a tensor of no dimension. Either may
            change from step to step in compiled code. "auto": found from each batch, as strength /
            mean of u over the negative pairs, where u = G (of a cosine f*'(s)) models the ratio
            p(x, y) / (p(x) p(y)), whose mean over independent pairs is 1. It is a constant to
            derivatives.
        strength: factor > 0 of alpha="auto"; None: 5, or with a number alpha nothing.
        logit_scale: factor > 0 of x . y in z = logit_scale (x . y) + logit_bias, where z is L = log
            G of the Gaussian, or the score of the cosine; a number, or a tensor of no dimension,
            which may learn. None: that of the similarity.
        logit_bias: constant of z; a number, or a tensor of no dimension, which may learn. None:
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
            NVIDIA GPU by Triton; products in the dtype of the features), or "auto", by size, device
            and dtype.
        check_finite: whether to raise when the loss is not finite, which costs one read of a
            scalar. Skipped while compiling, where NaN shows in the loss.
        distributed: ranks that share the batch: True, or a process group of `torch.distributed`.
            The loss is that of the union of their batches, on every rank; exact after the gradient
            averaging of DistributedDataParallel. A bank must be the same on every rank. "dense"
            gathers the union, "tiled" passes shards round a ring. False is this rank's rows alone;
            None the same, with a warning where there are several ranks.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        By autograd and `torch.func`, in reverse and forward mode: of any order with "dense", once
        with "tiled" and "fused" (a second derivative is an error). ids are constants, and so is
        alpha="auto".

    Raises:
        ValueError: an option, a shape, a dtype or a device does not fit, or features are not
            finite; the message names the argument.

    Examples:
        >>> import torch
        >>> from fmicl_torch import fmicl_loss
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = torch.tensor([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(fmicl_loss(x, y)), 4)  # -score + alpha * penalty = -0.6 + 40 * 0.0963
        3.2531
        >>> labels = torch.tensor([0, 0, 1, 1])  # rows with equal labels are positives
        >>> round(float(fmicl_loss(x, ids=labels, divergence="js")), 2)
        -23.39

    Source: the objective of Lu et al. (2023); `fmicl_core.fmicl_reference` is it in float64 NumPy.
    """
    text = register_options(divergence, similarity, negatives, normalize)
    scalars = weight_of(alpha, strength), logit_scale, logit_bias
    inputs = x, y, bank, ids, bank_ids
    options = implementation, check_finite
    given = distributed, text, negatives, positives, scalars
    return terms_of("fmicl_loss", *given, *inputs, *options).loss


def fmicl_terms(
    x: torch.Tensor,
    y: torch.Tensor | None = None,
    /,
    *,
    divergence: Divergence | str = DEFAULTS.divergence,
    similarity: Similarity | str = DEFAULTS.similarity,
    alpha: float | torch.Tensor | str = DEFAULTS.alpha,
    strength: float | None = None,
    logit_scale: float | torch.Tensor | None = None,
    logit_bias: float | torch.Tensor | None = None,
    negatives: str = DEFAULTS.negatives,
    positives: str = DEFAULTS.positives,
    bank: torch.Tensor | None = None,
    ids: torch.Tensor | None = None,
    bank_ids: torch.Tensor | None = None,
    normalize: bool = DEFAULTS.normalize,
    implementation: str = "auto",
    check_finite: bool = True,
    distributed: Distributed | None = None,
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
        By autograd and `torch.func`, in reverse and forward mode: of any order with "dense", once
        with "tiled" and "fused" (a second derivative is an error). ids are constants, and so is
        alpha="auto".

    Examples:
        >>> import torch
        >>> from fmicl_torch import fmicl_terms
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = torch.tensor([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> terms = fmicl_terms(x, y, alpha="auto", strength=5.0)
        >>> [round(float(term), 4) for term in terms]  # loss, score, penalty, alpha
        [4.4, 0.6, 0.0963, 51.9056]
        >>> round(float(terms.alpha * terms.penalty), 4)  # of KL the penalty is the mean of u
        5.0
    """
    text = register_options(divergence, similarity, negatives, normalize)
    scalars = weight_of(alpha, strength), logit_scale, logit_bias
    inputs = x, y, bank, ids, bank_ids
    options = implementation, check_finite
    given = distributed, text, negatives, positives, scalars
    return terms_of("fmicl_terms", *given, *inputs, *options)


class FMICLLoss(torch.nn.Module):
    """`fmicl_loss` as a module: the same options, no parameters of its own and no state.

    Negatives are by default the other samples of x, `negatives="anchor"`: the paper's printed
    equation, and the cheapest. `InfoNCELoss` takes "all" by default, as NT-Xent does.

    `alpha`, `logit_scale` and `logit_bias` may be assigned at any time, and an `nn.Parameter` is a
    parameter of the module; so may `strength` while alpha is "auto". The other options are those
    that the loss was made with.

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
        distributed: as for `fmicl_loss`.

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        By autograd and `torch.func`, in reverse and forward mode: of any order with "dense", once
        with "tiled" and "fused" (a second derivative is an error). ids are constants, and so is
        alpha="auto".

    Raises:
        ValueError: an option is unknown or out of range.

    Examples:
        >>> import torch
        >>> from fmicl_torch import FMICLLoss
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = torch.tensor([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> loss = FMICLLoss(divergence="js", negatives="all")
        >>> round(float(loss(x, y)), 3)
        -22.773
        >>> bank = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])  # supplies all negatives
        >>> round(float(loss(x, y, bank)), 3)
        -17.996
    """

    alpha: Scalar | str
    strength: float | None
    logit_scale: Scalar | None
    logit_bias: Scalar | None

    def __init__(
        self,
        *,
        divergence: Divergence | str = DEFAULTS.divergence,
        similarity: Similarity | str = DEFAULTS.similarity,
        alpha: float | torch.Tensor | str = DEFAULTS.alpha,
        strength: float | None = None,
        logit_scale: float | torch.Tensor | None = None,
        logit_bias: float | torch.Tensor | None = None,
        negatives: str = DEFAULTS.negatives,
        positives: str = DEFAULTS.positives,
        normalize: bool = DEFAULTS.normalize,
        implementation: str = "auto",
        check_finite: bool = True,
        distributed: Distributed | None = None,
    ) -> None:
        super().__init__()
        given = {"alpha": alpha, "logit_scale": logit_scale, "logit_bias": logit_bias}
        numbers = {k: number_for(k, v, isinstance(v, torch.Tensor)) for k, v in given.items()}
        options = divergence, similarity, numbers.pop("alpha"), negatives, normalize, positives
        self._made_with = FMICL(*options, **numbers, strength=strength)
        self._text = _text_of(self._made_with)
        for name, value in given.items():
            setattr(self, name, value)
        self.strength = self._made_with.strength
        self.implementation = check_implementation(implementation, WITH_FUSED)
        self.check_finite = check_bool("check_finite", check_finite)
        self.distributed = distributed

    def forward(
        self,
        x: torch.Tensor,
        y: torch.Tensor | None = None,
        bank: torch.Tensor | None = None,
        *,
        ids: torch.Tensor | None = None,
        bank_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of x (N, D), y (N, D) and, if given, bank (K, D), with ids; scalar."""
        return self.terms(x, y, bank, ids=ids, bank_ids=bank_ids).loss

    def terms(
        self,
        x: torch.Tensor,
        y: torch.Tensor | None = None,
        bank: torch.Tensor | None = None,
        *,
        ids: torch.Tensor | None = None,
        bank_ids: torch.Tensor | None = None,
    ) -> FMICLTerms:
        """The loss, mean score and mean penalty, as `fmicl_terms`."""
        made, inputs = self._made_with, (x, y, bank, ids, bank_ids)
        scalars = weight_of(self.alpha, self.strength), self.logit_scale, self.logit_bias
        options = self.implementation, self.check_finite
        given = self.distributed, self._text, made.negatives, made.positives, scalars
        return terms_of("fmicl_loss", *given, *inputs, *options)

    @property
    def objective(self) -> FMICL:
        """The settings, with the scalars as they are now."""
        made, now = self._made_with, self._scalars()
        same = all(getattr(made, name) == value for name, value in now.items())
        return made if same else replace(made, **now)

    def _scalars(self) -> dict[str, Any]:
        """What alpha, strength, logit_scale and logit_bias are now, or None, by name."""
        values = {name: getattr(self, name) for name in (*SCALARS, "strength")}
        return {k: v.item() if isinstance(v, torch.Tensor) else v for k, v in values.items()}

    def __setattr__(self, name: str, value: Any) -> None:
        if name in FIXED:
            raise fixed_option(name, value)
        if name == "strength":
            weight = weight_of(self.alpha, value)
            value = weight.strength if isinstance(weight, Auto) else None
        if name in SCALARS:
            auto = name == "alpha" and check_auto(value, None)
            if name == "alpha":
                kept = vars(self).get("strength") or DEFAULTS.strength
                vars(self)["strength"] = kept if auto else None
            if not auto and (name == "alpha" or value is not None):
                value = scalar_of(name, value)
            for kept in (self.__dict__, self._buffers, self._parameters):
                kept.pop(name, None)
            if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
                self.register_buffer(name, value, persistent=False)  # moves with the module
                return
        super().__setattr__(name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._text = _text_of(self._made_with)  # a copy may come from another process

    def extra_repr(self) -> str:
        """The options, as they would be pasted."""
        more = {"implementation": self.implementation, "check_finite": self.check_finite}
        more |= {} if self.distributed is None else {"distributed": self.distributed}
        return self._made_with.listed(**self._scalars(), **more)


def _text_of(made: FMICL) -> str:
    """The text of the settings in the registry, as it is without a learned scale."""
    plain = made.logits is None
    text = register(
        made.pairwise if plain else Pairwise(made.generator, made.critic, made.normalize)
    )
    ratio(text)  # for exported programs, where what makes it is a user's
    return text
