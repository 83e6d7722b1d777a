"""SigLIP and KCL, in PyTorch: f-MICL with a divergence of their own.

`fmicl_torch.softmax_family` has CLIP, DCL and DHEL, `fmicl_torch.towers` SigLIP and CLIP as
modules, whose scale learns.
"""

from __future__ import annotations

import torch

from fmicl_core import Similarity
from fmicl_core.family import FAMILY_DEFAULTS, KernelContrast, Sigmoid
from fmicl_torch.distributed import Distributed
from fmicl_torch.registry import register_options
from fmicl_torch.terms import terms_of

_SIGMOID, _KERNEL_CONTRAST = Sigmoid(), KernelContrast()


def siglip_loss(
    x: torch.Tensor,
    y: torch.Tensor | None = None,
    /,
    *,
    logit_scale: float | torch.Tensor = FAMILY_DEFAULTS.siglip_scale,
    logit_bias: float | torch.Tensor = FAMILY_DEFAULTS.siglip_bias,
    positives: str = FAMILY_DEFAULTS.positives,
    ids: torch.Tensor | None = None,
    normalize: bool = FAMILY_DEFAULTS.normalize,
    implementation: str = "auto",
    check_finite: bool = True,
    distributed: Distributed | None = None,
) -> torch.Tensor:
    """SigLIP: -(1/N) (sum over i of log sigmoid(L_ii) + over i != j of log sigmoid(-L_ij)).

    L_ij = logit_scale (x_i . y_j) + logit_bias, which `SigLIPLoss` learns. It is Jensen-Shannon
    f-MICL with the alpha N - 1, negatives="cross", plus N log 2.

    With `ids` every pair (x_i, y_j) of rows with equal ids is positive:
    `siglip_loss(captions, images[of], ids=of)` takes several captions an image, where of (N,) says
    which image a caption is of.

    On several ranks it is of this rank's rows alone; `distributed=True` makes it that of the union
    of their batches.

    Args:
        x: (N, D) features of the first view, as of captions; any float dtype.
        y: (N, D) features of the second view, as of images; row i belongs to row i of x.
        logit_scale: factor > 0 of x . y; a number, or a tensor of no dimension, which may learn.
        logit_bias: constant of L; a number, or a tensor of no dimension, which may learn.
        positives: pairs of rows with equal `ids` that are positive: "ids", all of them; "pair",
            (x_i, y_i) alone, so that other rows with that id are merely no negatives (duplicates).
        ids: (N,) whole numbers of the rows of x, and of y; rows with equal ids belong together, as
            captions of one image do. None: row i of x and of y are alone with each other.
        normalize: whether rows are scaled to unit length first.
        implementation: form that computes the loss, as for `fmicl_loss`: "dense", "tiled", "fused"
            or "auto".
        check_finite: whether to raise when the loss is not finite, which costs one read of a
            scalar. Skipped while compiling, where NaN shows in the loss.
        distributed: ranks that share the batch, as for `fmicl_loss`.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        By autograd and `torch.func`, in reverse and forward mode: of any order with "dense", once
        with "tiled" and "fused" (a second derivative is an error). ids are constants.

    Raises:
        ValueError: an option, a shape, a dtype or a device does not fit, or features are not
            finite; the message names the argument.

    Examples:
        >>> import math
        >>> import torch
        >>> from fmicl_torch import fmicl_loss, siglip_loss
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = torch.tensor([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(siglip_loss(x, y)), 4)
        2.1451
        >>> logits = {"logit_scale": 10.0, "logit_bias": -10.0}  # the defaults of SigLIP
        >>> js = fmicl_loss(x, y, divergence="js", alpha=3.0, negatives="cross", **logits)
        >>> round(float(js) + 4 * math.log(2), 4)  # alpha is N - 1, of N = 4
        2.1451

    Source: Zhai et al. (2023), algorithm 1.
    """
    text = register_options(_SIGMOID, "gaussian", "cross", normalize)
    scalars, inputs = (1.0, logit_scale, logit_bias), (x, y, None, ids, None)
    options = implementation, check_finite
    return terms_of(
        "siglip_loss", distributed, text, "cross", positives, scalars, *inputs, *options,
        each_pair=True,
    ).loss  # fmt: skip


def kcl_loss(
    x: torch.Tensor,
    y: torch.Tensor | None = None,
    /,
    *,
    similarity: Similarity | str = FAMILY_DEFAULTS.kcl_similarity,
    alpha: float | torch.Tensor = FAMILY_DEFAULTS.kcl_alpha,
    logit_scale: float | torch.Tensor | None = None,
    logit_bias: float | torch.Tensor | None = None,
    negatives: str = FAMILY_DEFAULTS.kcl_negatives,
    positives: str = FAMILY_DEFAULTS.positives,
    bank: torch.Tensor | None = None,
    ids: torch.Tensor | None = None,
    bank_ids: torch.Tensor | None = None,
    normalize: bool = FAMILY_DEFAULTS.normalize,
    implementation: str = "auto",
    check_finite: bool = True,
    distributed: Distributed | None = None,
) -> torch.Tensor:
    """Kernel contrastive loss: -mean_i G(x_i, y_i) + alpha * mean over negative pairs of G.

    G is the kernel of the similarity. It is f-MICL of the total variation with the kernel itself as
    critic (`fmicl_core.family.KernelContrast`). The authors' code is twice this with
    negatives="within".

    On several ranks it is of this rank's rows alone; `distributed=True` makes it that of the union
    of their batches.

    Args:
        x: (N, D) features of the first view, or of all rows in a single array; any float dtype.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x. None:
            `ids` say which rows of x belong together.
        similarity: name of the kernel, or `fmicl_core.Similarity`: "gaussian", "laplace", "cauchy".
        alpha: weight of the negative term, > 0; a number, or a tensor of no dimension.
        logit_scale: factor > 0 of x . y in log G = logit_scale (x . y) + logit_bias of the
            Gaussian; a number, or a tensor of no dimension, which may learn. None: that of the
            similarity.
        logit_bias: constant of log G; a number, or a tensor of no dimension, which may learn. None:
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
            scalar. Skipped while compiling, where NaN shows in the loss.
        distributed: ranks that share the batch, as for `fmicl_loss`.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        By autograd and `torch.func`, in reverse and forward mode: of any order with "dense", once
        with "tiled" and "fused" (a second derivative is an error). ids are constants.

    Raises:
        ValueError: an option, a shape, a dtype or a device does not fit, or features are not
            finite; the message names the argument.

    Examples:
        >>> import math
        >>> import torch
        >>> from fmicl_torch import kcl_loss
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = torch.tensor([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(kcl_loss(x, y)), 4)
        -0.2522
        >>> near, far = 0.4, (2, 2, 4)  # squared distances from x_i to y_i, to other rows of x
        >>> round(-math.exp(-2 * near) + 16 * sum(math.exp(-2 * d2) for d2 in far) / 3, 4)
        -0.2522

    Source: Koromilas et al. (2024); alpha is their gamma, Gaussian(0.25) their exp(-2 |x - y|^2).
    """
    text = register_options(_KERNEL_CONTRAST, similarity, negatives, normalize)
    scalars, inputs = (alpha, logit_scale, logit_bias), (x, y, bank, ids, bank_ids)
    options = implementation, check_finite
    given = distributed, text, negatives, positives, scalars
    return terms_of("kcl_loss", *given, *inputs, *options).loss
