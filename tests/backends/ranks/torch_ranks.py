"""Run by test_distributed.py: the loss over W gloo processes against one; prints JSON."""

import itertools
import sys

import numpy as np
import torch
import torch.distributed as dist
from common import cases, report, views
from gloo import start

from fmicl_core import forms
from fmicl_torch import FMICLLoss

#: Rows of each rank, uneven.
SIZES = {1: (11,), 2: (7, 4), 4: (5, 1, 3, 2)}


#: Ids of the rows, of which equal ones are on several ranks, and of the bank's rows.
IDS = {"labels": [3, 1, 1, 3, 2, 1, 2, 3, 1, 1, 2], "views": [5, -1, 7, 0, 9, 5, -1, 7, 0, 9, 6]}
BANK_IDS = np.array([5, 3, 8, -1, 1, 5])


def gradient(rows, ids, options, encoder, distributed):
    """Values, and the gradient in the encoder, which DDP would average over the ranks."""
    encoder.grad = None
    loss = FMICLLoss(divergence="js", distributed=distributed, **options)
    terms = loss.terms(*(None if v is None else v @ encoder for v in rows), **ids)
    terms.loss.backward()
    return [t.item() for t in terms], encoder.grad.clone()


def all_cases():
    """Name, options of the loss, names of the features that it is given, and of the ids."""
    for name, options, has_bank in cases():
        given = ("x", "y", "bank") if has_bank else ("x", "y")
        yield name, options, given, None
        more = {"positives": "pair"} if name.startswith("within") else {}
        yield f"labels-{name}", options | more, given, "labels"
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
    return results


if __name__ == "__main__":
    start(run, int(sys.argv[1]))
