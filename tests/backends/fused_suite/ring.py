"""Run by test_fused.py: the fused form on shards of two ranks against one process; prints JSON."""

import json
import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from fmicl_torch import FMICLLoss, fused


def run(rank, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    fused.tiles_for = lambda *_: fused.Tiles(16, 16, 16, 4, 1)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(27, 5, generator=generator).requires_grad_() for _ in range(2))
    mine = slice(0, 17) if rank == 0 else slice(17, 27)
    errors = {}
    numbers = torch.randint(9, (27,), generator=generator)
    bias = torch.tensor(-1.0, requires_grad=True)
    for name, negatives, ids, learned in (
        ("cross", "cross", None, {}), ("all", "all", None, {}), ("ids", "all", numbers, {}),
        ("learned", "all", numbers, {"logit_scale": 1.5, "logit_bias": bias}),
    ):  # fmt: skip
        options = {"divergence": "js", "negatives": negatives, "implementation": "fused"} | learned
        leaves = (x, y, bias) if learned else (x, y)
        whole, part = FMICLLoss(**options), FMICLLoss(distributed=True, **options)
        own = None if ids is None else ids[mine]
        wanted, got = whole(x, y, ids=ids), part(x[mine], y[mine], ids=own)
        grads = [torch.autograd.grad(loss, leaves) for loss in (wanted, got)]
        for grad in grads[1]:
            dist.all_reduce(grad)
        apart = [(g / 2.0 - w).abs().max().item() for w, g in zip(*grads, strict=True)]
        errors[name] = max(abs(got.item() - wanted.item()), *apart)
    if rank == 0:
        print(json.dumps(errors), flush=True)
    dist.barrier()  # no rank may leave while another still talks to it
    os._exit(0)  # gloo's threads can end a process that the interpreter is leaving (SIGABRT)


if __name__ == "__main__":
    mp.spawn(run, args=(int(sys.argv[1]),), nprocs=2)
