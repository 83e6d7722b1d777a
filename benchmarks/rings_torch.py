"""`python -m benchmarks.rings_torch WORLD N D LOSS FORM`: memory and time of a loss over ranks.

WORLD processes (gloo) share N rows of width D in float32. LOSS is a name of
`benchmarks.rings.LOSSES`, FORM "tiled" or "dense". Prints a line of JSON: the memory of one rank's
process beyond inputs and gradients at the peak of the loss with its gradient, in MiB, and the
milliseconds of a step of all ranks.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

import fmicl_torch
from benchmarks.memory import peak_of_second_run
from benchmarks.rings import LOSSES
from benchmarks.steps import views

#: Parameter of `mallopt`: bytes from which memory is taken of the system and given back to it.
M_MMAP_THRESHOLD = -3


def measure(
    rank: int, world: int, n: int, d: int, name: str, form: str, store: str, out: str
) -> None:
    """One rank: the loss of its share of the rows; the first one writes what it measured."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world
    )
    function, options = LOSSES[name]
    loss = partial(getattr(fmicl_torch, function), implementation=form, distributed=True, **options)
    share = n // world
    own = [v[rank * share : (rank + 1) * share].copy() for v in views(n, d)]
    x, y = (torch.from_numpy(v).requires_grad_() for v in own)

    def together() -> tuple[Any, Any]:
        x.grad = y.grad = None
        distributed.barrier()
        loss(x, y).backward()  # type: ignore[no-untyped-call]
        return x.grad, y.grad

    # What is freed goes back to the system, so that the peak is of what is needed at a time.
    ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 2**18)
    rise, seconds = peak_of_second_run(together)
    extra = rise - 2 * share * d * 4  # the gradients; the inputs were there before
    if rank == 0:
        found = {"mib_per_rank": round(extra / 2**20, 1), "ms": round(1e3 * seconds, 1)}
        Path(out).write_text(json.dumps(found), encoding="utf-8")
    distributed.barrier()  # none may leave while another still talks to it
    os._exit(0)  # gloo's threads can end a process that the interpreter is leaving


def main(world: int, n: int, d: int, name: str, form: str) -> None:
    """Measure, and print the line."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        options = world, n, d, name, form, str(Path(folder) / "store"), str(out)
        multiprocessing.spawn(measure, options, nprocs=world)  # type: ignore[attr-defined, no-untyped-call]
        found = json.loads(out.read_text(encoding="utf-8"))
    print(json.dumps({"world": world, "n": n, "d": d, "loss": name, "form": form} | found))


if __name__ == "__main__":
    main(*(int(number) for number in sys.argv[1:4]), *sys.argv[4:6])
