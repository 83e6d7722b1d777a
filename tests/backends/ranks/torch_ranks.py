"""Run by test_distributed.py: the loss over W gloo processes against one; prints JSON."""

import sys

import torch
import torch.distributed as dist
from common import cases, report, views
from gloo import start

from fmicl_core import forms
from fmicl_torch import FMICLLoss

#: Rows of each rank, uneven.
SIZES = {1: (11,), 2: (7, 4), 4: (5, 1, 3, 2)}


def gradient(rows, options, encoder, distributed):
    """Values, and the gradient in the encoder, which DDP would average over the ranks."""
    encoder.grad = None
    loss = FMICLLoss(divergence="js", distributed=distributed, **options)
    terms = loss.terms(*(None if v is None else v @ encoder for v in rows))
    terms.loss.backward()
    return [t.item() for t in terms], encoder.grad.clone()


def run(rank, count):
    forms.TILE["cpu"] = 4
    x, y, bank, encoder = (torch.from_numpy(v) for v in views(rows=11))
    encoder.requires_grad_()
    start = sum(SIZES[count][:rank])
    mine = slice(start, start + SIZES[count][rank])
    results = {}
    for name, options, has_bank in cases():
        negatives = bank if has_bank else None
        want, whole = gradient((x, y, negatives), options, encoder, False)
        got, part = gradient((x[mine], y[mine], negatives), options, encoder, True)
        dist.all_reduce(part)
        results[name] = report(got, part / count, want, whole)
    return results


if __name__ == "__main__":
    start(run, int(sys.argv[1]))
