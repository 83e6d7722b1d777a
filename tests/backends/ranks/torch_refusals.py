"""Run by test_distributed.py: what two ranks say where one cannot go on; prints JSON.

Also second derivatives of the dense form over ranks, and which losses warn that they see one rank.
"""

import datetime
import time
import warnings

import torch
import torch.distributed as dist
from common import views
from gloo import start

import fmicl_torch
from fmicl_core import KL
from fmicl_core.ranks import KNOW_NO_RANKS
from fmicl_torch import FMICLLoss, fmicl_loss, info_nce_loss

RANKS = 2
LOSSES = tuple(
    name for name in fmicl_torch.__all__
    if name.endswith(("_loss", "_terms")) and name != "cached_loss"  # which takes any of them
)  # fmt: skip
#: A rank that waits for one that has left ends in another error than ours after this long.
TIMEOUT = datetime.timedelta(seconds=20)


def one_sided(rank, x, bank):
    """By name: features of this rank, of which rank 1's are at fault, and options."""
    one = rank == 1
    broken = torch.cat([x[:2], torch.full_like(x[:1], torch.nan)])
    return {
        "no rows": ((x[:0] if one else x,) * 2, {}),
        "whole numbers": ((x.long() if one else x,) * 2, {}),
        "a list": ((x.tolist() if one else x,) * 2, {}),
        "another width": ((x[:, :2] if one else x,) * 2, {}),
        "another dtype": ((x.float() if one else x,) * 2, {}),
        "not finite, dense": ((broken if one else x,) * 2, {"implementation": "dense"}),
        "not finite, tiled": ((broken if one else x,) * 2, {"implementation": "tiled"}),
        "another alpha's sign": ((x, x), {"alpha": -2.0 if one else 2.0}),
        "the same of an array": ((x, x), {"alpha": torch.tensor(-2.0 if one else 2.0)}),
        "alpha of one rank": ((x, x), {"alpha": "auto" if one else 2.0}),
        "other settings": ((x, x), {"divergence": "js" if one else "kl"}),
        "another form": ((x, x), {"implementation": "dense" if one else "tiled"}),
        "a scale of one rank": ((x, x), {"logit_scale": 2.0 if one else None}),
        "another scale's sign": ((x, x), {"logit_scale": -2.0 if one else 2.0}),
        "ids of one rank": ((x, x), {"ids": torch.arange(len(x)) if one else None}),
        "ids of another length": ((x, x), {"ids": torch.arange(len(x) - one)}),
        "another bank": ((x, x), {"bank": bank[:3] if one else bank}),
        "no gradient wanted": ((x.clone().requires_grad_(not one), x), {"implementation": "tiled"}),
    }


def softmaxes(rank, x, bank):
    """The same for InfoNCE, which is made of other calls."""
    one, alone = rank == 1, len(bank) * rank + torch.arange(len(x))
    return {
        "softmax, no rows": ((x[:0] if one else x,) * 2, {}),
        "softmax, another width": ((x[:, :2] if one else x,) * 2, {"implementation": "tiled"}),
        "softmax, another temperature's sign": ((x, x), {"temperature": -1.0 if one else 1.0}),
        "softmax, other negatives": ((x, x), {"negatives": "cross" if one else "all"}),
        "softmax, a scale of one rank": ((x, x), {"logit_scale": 2.0} if one else {}),
        "softmax, another form": ((x, x), {"implementation": "dense" if one else "tiled"}),
        "softmax, one row": ((x[:1] if one else x[:0],) * 2, {}),
        "no positives, dense": ((x,), {"ids": alone, "implementation": "dense"}),
        "no positives, tiled": ((x,), {"ids": alone, "implementation": "tiled"}),
        "no negatives, tiled": ((x, x), {"ids": 0 * alone, "implementation": "tiled"}),
    }


class Own(KL):
    """A divergence of one's own that every process prints otherwise."""

    def __repr__(self):
        return object.__repr__(self)


def refusals(rank, x, bank):
    """What this rank raised, and after how many seconds, by name."""
    said = {}
    calls = [(fmicl_loss, *call) for call in one_sided(rank, x, bank).items()]
    calls += [(info_nce_loss, *call) for call in softmaxes(rank, x, bank).items()]
    for loss, name, (features, options) in calls:
        start = time.monotonic()
        try:
            loss(*features, distributed=True, **options)
            said[name] = ["nothing", "", 0.0]
        except Exception as error:
            said[name] = [type(error).__name__, str(error), time.monotonic() - start]
        dist.barrier()
    return said


def second_derivative(x, y, distributed, count):
    """Of the squared length of the gradient that a rank has, which is W times its part of it."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    loss = FMICLLoss(divergence="js", negatives="all", implementation="dense",
                     distributed=distributed)(x, y).exp()  # fmt: skip
    gradients = torch.autograd.grad(count * loss, (x, y), create_graph=True)
    length = sum(g.square().sum() for g in gradients)
    return torch.autograd.grad(length, (x, y))


def incoming_gradient_changes(x):
    """How much the backward pass of a gathered loss changes the gradient that comes in."""
    from fmicl_torch.distributed import ranks_of

    ranks = ranks_of(True, x, "fmicl_loss")
    ranks.sizes = [len(x)] * RANKS
    gathered = ranks.gather(x.clone().requires_grad_())
    incoming = torch.ones_like(gathered)
    gathered.backward(incoming)
    return (incoming - 1.0).abs().max().item()


def warned(name, x, y):
    """The warnings of a loss that is told to stay alone, and of one that is told nothing, twice."""
    loss = getattr(fmicl_torch, name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        silent = {} if name in KNOW_NO_RANKS else {"distributed": False}
        for options in (silent, {}, {}):
            loss(x, y, **options)
    return [str(w.message) for w in caught if "ranks" in str(w.message)]


def run(rank, count):
    x, y, bank, _ = (torch.from_numpy(v) for v in views(rows=7))
    mine = slice(0, 4) if rank == 0 else slice(4, 7)
    results = {"refusals": refusals(rank, x[mine], bank)}
    want = [g[mine] for g in second_derivative(x, y, False, count)]
    got = second_derivative(x[mine], y[mine], True, 1)
    results["second derivative"] = max(
        ((a - b).abs().max() / b.abs().max()).item() for a, b in zip(got, want, strict=True)
    )
    results["own"] = fmicl_loss(x, y, divergence=Own(), distributed=True).item()
    results["incoming"] = incoming_gradient_changes(x)
    results["warned"] = {name: warned(name, x, y) for name in LOSSES}
    everyone = [None] * count
    dist.all_gather_object(everyone, results)
    return everyone


if __name__ == "__main__":
    start(run, RANKS, timeout=TIMEOUT)
