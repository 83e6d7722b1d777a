"""Processes of torch.distributed on this machine, for the programs of PyTorch's ranks."""

import json
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def start(run: Callable[[int, int], Any], count: int, **options: Any) -> None:
    """Print as JSON what run(rank, count) returns on rank 0 of so many processes.

    Args:
        run: a function of a module, so that it pickles.
        count: of ranks.
        options: of `init_process_group`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_rank, args=(count, port, run, options), nprocs=count)


def _rank(rank: int, count: int, port: int, run: Callable[[int, int], Any], options: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=count, **options)
    torch.set_num_threads(1)
    results = run(rank, count)
    if rank == 0:
        print(json.dumps(results), flush=True)
    dist.barrier()  # no rank may leave while another still talks to it
    os._exit(0)  # gloo's threads can end a process that the interpreter is leaving (SIGABRT)
