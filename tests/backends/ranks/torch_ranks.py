"""Run by test_distributed.py: the loss over W gloo processes against one; prints JSON."""

import json
import os
import socket
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common import cases, report, views

from fmicl_torch import FMICLLoss, tiled

#: Rows of each rank, uneven.
SIZES = {1: (11,), 2: (7, 4), 4: (5, 1, 3, 2)}


def gradient(rows, options, encoder, distributed):
    """Values, and the gradient in the encoder, which DDP would average over the ranks."""
    encoder.grad = None
    loss = FMICLLoss(divergence="js", distributed=distributed, **options)
    terms = loss.terms(*(None if v is None else v @ encoder for v in rows))
    terms.loss.backward()
    return [t.item() for t in terms], encoder.grad.clone()


def run(rank, count, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=count)
    tiled.TILE["cpu"] = 4
    torch.set_num_threads(1)
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
    if rank == 0:
        print(json.dumps(results), flush=True)
    dist.barrier()  # no rank may leave while another still talks to it
    os._exit(0)  # gloo's threads can end a process that the interpreter is leaving (SIGABRT)


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(run, args=(int(sys.argv[1]), port), nprocs=int(sys.argv[1]))
