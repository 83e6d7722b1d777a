"""SigLIP and CLIP as modules: losses of two towers that own their scale, and learn it."""

from __future__ import annotations

import math
from typing import Any

import torch

from fmicl_core.checks import check_bool, check_choice, check_scalar
from fmicl_core.family import FAMILY_DEFAULTS, check_clip_scale
from fmicl_core.forms import IMPLEMENTATIONS, WITH_FUSED, check_implementation
from fmicl_core.pairs import POSITIVES
from fmicl_torch.distributed import Distributed
from fmicl_torch.family import siglip_loss
from fmicl_torch.softmax_family import clip_loss


class _TwoTowers(torch.nn.Module):
    """A loss with the logarithm of its scale as a parameter, `log_scale`."""

    #: Forms that it has.
    forms: tuple[str, ...] = IMPLEMENTATIONS

    def __init__(
        self,
        logit_scale: float,
        positives: str,
        normalize: bool,
        implementation: str,
        distributed: Distributed | None,
    ) -> None:
        super().__init__()
        scale = check_scalar("logit_scale", logit_scale, None)
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(scale)))
        self.positives = check_choice("positives", positives, POSITIVES)
        self.normalize = check_bool("normalize", normalize)
        self.implementation = check_implementation(implementation, self.forms)
        self.distributed = distributed

    @property
    def logit_scale(self) -> torch.Tensor:
        """Factor of x . y, a scalar with gradient."""
        return self.log_scale.exp()

    def _options(self) -> dict[str, Any]:
        """The options, by name, as they are now; those that learn to six digits."""
        fixed = self._fixed()
        if self.distributed is None:
            del fixed["distributed"]
        return {"logit_scale": float(f"{self.logit_scale.item():.6g}")} | fixed

    def _fixed(self) -> dict[str, Any]:
        names = "positives", "normalize", "implementation", "distributed"
        return {name: getattr(self, name) for name in names}

    def extra_repr(self) -> str:
        """The options, as they would be pasted."""
        return ", ".join(f"{name}={value!r}" for name, value in self._options().items())


class SigLIPLoss(_TwoTowers):
    """`siglip_loss` with parameters: `log_scale`, the logarithm of its scale, and `logit_bias`.

    Give them to the optimiser with those of the towers, and leave them out of the weight decay.

    Args:
        logit_scale: scale > 0 at first; 10, as in the paper.
        logit_bias: bias at first; -10, as in the paper, with which the many negatives of a fresh
            network cost little.
        positives: as for `siglip_loss`.
        normalize: as for `siglip_loss`.
        implementation: as for `siglip_loss`.
        check_finite: as for `siglip_loss`.
        distributed: as for `siglip_loss`; DistributedDataParallel has to average the gradients of
            the parameters, too, as it does where the loss is part of its module.

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        By autograd and `torch.func`, in reverse and forward mode: of any order with "dense", once
        with "tiled" and "fused" (a second derivative is an error). ids are constants.

    Raises:
        ValueError: an option is unknown or out of range.

    Examples:
        >>> import torch
        >>> from fmicl_torch import SigLIPLoss
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = torch.tensor([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> loss = SigLIPLoss()
        >>> round(loss(x, y).item(), 4)
        2.1451
        >>> {name: round(p.item(), 4) for name, p in loss.named_parameters()}
        {'log_scale': 2.3026, 'logit_bias': -10.0}
    """

    forms = WITH_FUSED

    def __init__(
        self,
        *,
        logit_scale: float = FAMILY_DEFAULTS.siglip_scale,
        logit_bias: float = FAMILY_DEFAULTS.siglip_bias,
        positives: str = FAMILY_DEFAULTS.positives,
        normalize: bool = FAMILY_DEFAULTS.normalize,
        implementation: str = "auto",
        check_finite: bool = True,
        distributed: Distributed | None = None,
    ) -> None:
        super().__init__(logit_scale, positives, normalize, implementation, distributed)
        bias = check_scalar("logit_bias", logit_bias, None)
        self.logit_bias = torch.nn.Parameter(torch.tensor(bias))
        self.check_finite = check_bool("check_finite", check_finite)

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, *, ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of x (N, D) and y (N, D), with ids; scalar."""
        scale, bias = self.logit_scale, self.logit_bias
        return siglip_loss(x, y, ids=ids, logit_scale=scale, logit_bias=bias, **self._fixed())

    def _fixed(self) -> dict[str, Any]:
        return super()._fixed() | {"check_finite": self.check_finite}

    def _options(self) -> dict[str, Any]:
        options = super()._options()
        bias = {"logit_bias": float(f"{self.logit_bias.item():.6g}")}
        return {"logit_scale": options.pop("logit_scale")} | bias | options


class CLIPLoss(_TwoTowers):
    """`clip_loss` with a parameter, `log_scale`, the logarithm of its scale, which stays <= 100.

    Give it to the optimiser with those of the towers, and leave it out of the weight decay.

    The scale is held at 100 as by the paper's authors: where a step has moved the parameter
    further, the next forward pass in training mode puts it back to log 100, without gradient, and
    the scale that is used never exceeds 100. It learns at the limit, too, and may leave it again.

    Args:
        logit_scale: scale at first, > 0 and <= 100; 1/0.07, as in the paper.
        positives: as for `clip_loss`.
        normalize: as for `clip_loss`.
        implementation: as for `clip_loss`.
        distributed: as for `clip_loss`; the gradient of the parameter has to be averaged, too.

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        By autograd and `torch.func`, in reverse and forward mode: of any order with "dense", once
        with "tiled" (a second derivative is an error). ids are constants.

    Raises:
        ValueError: an option is unknown or out of range.

    Examples:
        >>> import torch
        >>> from fmicl_torch import CLIPLoss
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = torch.tensor([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> loss = CLIPLoss(logit_scale=2.0)
        >>> round(loss(x, y).item(), 4)
        0.572
        >>> {name: round(p.item(), 4) for name, p in loss.named_parameters()}
        {'log_scale': 0.6931}
    """

    def __init__(
        self,
        *,
        logit_scale: float = FAMILY_DEFAULTS.clip_scale,
        positives: str = FAMILY_DEFAULTS.positives,
        normalize: bool = FAMILY_DEFAULTS.normalize,
        implementation: str = "auto",
        distributed: Distributed | None = None,
    ) -> None:
        scale = check_clip_scale(logit_scale)
        super().__init__(scale, positives, normalize, implementation, distributed)

    @property
    def logit_scale(self) -> torch.Tensor:
        """Factor of x . y, a scalar with gradient, 100 at most."""
        # Of a copy: `forward` may change the parameter before an earlier loss is differentiated.
        return self.log_scale.clone().clamp(max=_LOG_LIMIT).exp()

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, *, ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of x (N, D) and y (N, D), with ids; scalar."""
        if self.training:
            with torch.no_grad():
                self.log_scale.clamp_(max=_LOG_LIMIT)
        return clip_loss(x, y, ids=ids, logit_scale=self.logit_scale, **self._fixed())


_LOG_LIMIT = math.log(FAMILY_DEFAULTS.clip_scale_limit)
