"""Run by test_distributed.py: the loss over W gloo processes against one; prints JSON."""

import itertools
import sys

import numpy as np
import torch
import torch.distributed as dist
from common import cases, learned_cases, report, softmax_cases, views
from gloo import start

import fmicl_torch
from fmicl_core import forms
from fmicl_torch import FMICLLoss

#: Rows of each rank, uneven.
SIZES = {1: (11,), 2: (7, 4), 4: (5, 1, 3, 2)}


#: Ids of the rows, of which equal ones are on several ranks, and of the bank's rows.
IDS = {"labels": [3, 1, 1, 3, 2, 1, 2, 3, 1, 1, 2], "views": [5, -1, 7, 0, 9, 5, -1, 7, 0, 9, 6]}
#: alpha = "auto" is found from the union.
AUTO = {"alpha": "auto", "strength": 2.0}
BANK_IDS = np.array([5, 3, 8, -1, 1, 5])


def gradient(rows, ids, options, encoder, distributed):
    """Values, and the gradient in the encoder, which DDP would average over the ranks."""
    encoder.grad = None
    loss = FMICLLoss(divergence="js", distributed=distributed, **options)
    terms = loss.terms(*(None if v is None else v @ encoder for v in rows), **ids)
    terms.loss.backward()
    return [t.item() for t in terms], encoder.grad.clone()


def learned(rows, function, options, scalars, encoder, distributed, **ids):
    """The value, and the gradients in the encoder and in the scalars, one after the other."""
    leaves = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True)
              for k, v in scalars.items()}  # fmt: skip
    x, y, bank = (None if v is None else v @ encoder for v in rows)
    given = {} if bank is None else {"bank": bank}
    loss = getattr(fmicl_torch, function)(
        x, y, distributed=distributed, **given, **options, **leaves, **ids
    )
    parts = torch.autograd.grad(loss, [encoder, *leaves.values()])
    return [loss.item()], torch.cat([part.flatten() for part in parts])


def all_cases():
    """Name, options of the loss, names of the features that it is given, and of the ids."""
    for name, options, has_bank in cases():
        given = ("x", "y", "bank") if has_bank else ("x", "y")
        yield name, options, given, None
        more = {"positives": "pair"} if name.startswith("within") else {}
        yield f"labels-{name}", options | more, given, "labels"
    auto = itertools.product(("all", "cross"), ("dense", "tiled"), (None, "labels"))
    for scheme, kind, which in auto:
        options = AUTO | {"negatives": scheme, "implementation": kind}
        yield f"auto-{scheme}-{kind}-{which}", options, ("x", "y"), which
    yield "auto-bank", AUTO | {"implementation": "tiled"}, ("x", "y", "bank"), None
    single = itertools.product(IDS, ("dense", "tiled"), (("x",), ("x", "bank")))
    for ids, kind, given in single:
        yield f"{ids}-{kind}-{'-'.join(given)}", {"implementation": kind}, given, ids


def run(rank, count):
    forms.TILE["cpu"] = 4
    *arrays, encoder = (torch.from_numpy(v) for v in views(rows=11))
    arrays = dict(zip(("x", "y", "bank"), arrays, strict=True))
    encoder.requires_grad_()
    start = sum(SIZES[count][:rank])
    mine = slice(start, start + SIZES[count][rank])
    results = {}
    for name, options, given, which in all_cases():
        rows = [arrays[k] if k in given else None for k in arrays]
        own = [v if v is None or v is arrays["bank"] else v[mine] for v in rows]
        ids, own_ids = {}, {}
        if which:
            more = {"bank_ids": BANK_IDS} if "bank" in given else {}
            every = torch.tensor(IDS[which])
            ids, own_ids = {"ids": every, **more}, {"ids": every[mine], **more}
        want, whole = gradient(rows, ids, options, encoder, False)
        got, part = gradient(own, own_ids, options, encoder, True)
        dist.all_reduce(part)
        results[name] = report(got, part / count, want, whole)
    for name, function, options, has_bank, scalars in learned_cases():
        rows = [v if has_bank or k != "bank" else None for k, v in arrays.items()]
        own = [v if v is None or v is arrays["bank"] else v[mine] for v in rows]
        want, whole = learned(rows, function, options, scalars, encoder, False)
        got, part = learned(own, function, options, scalars, encoder, True)
        dist.all_reduce(part)
        results[name] = report(got, part / count, want, whole)
    for name, function, options, others, ids, scalars in softmax_cases(rows=11):
        rows = [v if k == "x" or k in others else None for k, v in arrays.items()]
        own = [v if v is None or v is arrays["bank"] else v[mine] for v in rows]
        own_ids = {k: v if k == "bank_ids" else v[mine] for k, v in ids.items()}
        want, whole = learned(rows, function, options, scalars, encoder, False, **ids)
        got, part = learned(own, function, options, scalars, encoder, True, **own_ids)
        dist.all_reduce(part)
        results[name] = report(got, part / count, want, whole)
    # SigLIP with ids over ranks, and its module under DistributedDataParallel.
    ids = torch.tensor(IDS["labels"])
    for kind in ("dense", "tiled"):
        rows, options = [arrays["x"], arrays["y"], None], {"implementation": kind}
        own, scalars = [v if v is None else v[mine] for v in rows], {"logit_bias": -2.0}
        want, whole = learned(rows, "siglip_loss", options | {"ids": ids}, scalars, encoder, False)
        more = options | {"ids": ids[mine]}
        got, part = learned(own, "siglip_loss", more, scalars, encoder, True)
        dist.all_reduce(part)
        results[f"siglip-ids-{kind}"] = report(got, part / count, want, whole)
        results[f"towers-{kind}"] = of_module(kind, arrays, mine)
    return results


class Towers(torch.nn.Module):
    """A tower, and the loss with its parameters."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.tower = torch.nn.Linear(5, 3)
        self.loss = fmicl_torch.SigLIPLoss(**options)

    def forward(self, x, y):
        return self.loss(self.tower(x), self.tower(y))


def of_module(kind, arrays, mine):
    """The report of a module under DistributedDataParallel, which averages all its gradients."""
    whole, part = (Towers(implementation=kind, distributed=d).double() for d in (False, True))
    averaged = torch.nn.parallel.DistributedDataParallel(part)
    want = whole(arrays["x"], arrays["y"])
    got = averaged(arrays["x"][mine], arrays["y"][mine])
    for loss in (want, got):
        loss.backward()
    grads = [torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (part, whole)]
    return report([got.item()], grads[0], [want.item()], grads[1])


if __name__ == "__main__":
    start(run, int(sys.argv[1]))
