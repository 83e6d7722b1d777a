"""`python -m benchmarks.peers_distributed`: is a loss on several ranks that of the union batch?

A linear encoder is trained one step on two and four CPU processes (gloo), in float64, its gradients
averaged as DistributedDataParallel does, and compared with one process that has the whole batch.
A loss that is exact has ratio and cosine 1, and reports the global loss on every rank.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

from benchmarks.__main__ import show, write
from benchmarks.contestants import TEMPERATURE, without_torchvision
from benchmarks.timing import Row

SAMPLES, WIDTH = 48, 12


def ours(shared: bool, divergence: str = "kl") -> Callable[..., torch.Tensor]:
    """f-MICL; `distributed=True` is what its documentation says to write."""
    from fmicl_torch import FMICLLoss

    return FMICLLoss(divergence=divergence, negatives="all", distributed=shared)


def lightly(shared: bool, **options: Any) -> Callable[..., torch.Tensor]:
    """NTXentLoss of lightly."""
    without_torchvision()
    from lightly.loss.ntx_ent_loss import NTXentLoss

    return NTXentLoss(temperature=TEMPERATURE, **(options if shared else {}))  # type: ignore[no-any-return]


def metric_learning(shared: bool, wrapped: bool) -> Callable[..., torch.Tensor]:
    """NTXentLoss of pytorch-metric-learning, and in its wrapper for several processes."""
    from pytorch_metric_learning import losses
    from pytorch_metric_learning.utils.distributed import DistributedLossWrapper

    loss = losses.NTXentLoss(temperature=TEMPERATURE)
    if shared and wrapped:
        loss = DistributedLossWrapper(loss)

    def of_views(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        first = distributed.get_rank() * len(x) if shared else 0
        labels = first + torch.arange(len(x)).repeat(2)
        return loss(torch.cat([x, y]), labels)  # type: ignore[no-any-return]

    return of_views


#: Makes the loss; True on several ranks.
CASES: dict[str, Callable[[bool], Callable[..., torch.Tensor]]] = {
    "fmicl, distributed=True": ours,
    "lightly, defaults": lightly,
    "lightly, gather_distributed=True": partial(lightly, gather_distributed=True),
    "metric-learning, NTXentLoss": partial(metric_learning, wrapped=False),
    "metric-learning, DistributedLossWrapper": partial(metric_learning, wrapped=True),
}


def step(loss: Callable[..., torch.Tensor], rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient of the encoder for these samples."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(WIDTH, WIDTH, dtype=torch.float64, generator=draw).requires_grad_()
    x = torch.randn(SAMPLES, WIDTH, dtype=torch.float64, generator=draw)
    y = x + 0.5 * torch.randn(SAMPLES, WIDTH, dtype=torch.float64, generator=draw)
    value = loss(x[rows] @ weight, y[rows] @ weight)
    value.backward()
    return value.detach(), weight.grad  # type: ignore[return-value]


def rank(index: int, world: int, name: str, store: str, out: str) -> None:
    """One rank: the averaged gradient and this rank's loss."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=index, world_size=world
    )
    share = SAMPLES // world
    value, gradient = step(CASES[name](True), slice(index * share, (index + 1) * share))
    distributed.all_reduce(gradient)
    values = [torch.zeros_like(value) for _ in range(world)]
    distributed.all_gather(values, value)
    if index == 0:
        torch.save((torch.stack(values), gradient / world), out)
    distributed.barrier()  # none may leave while another still gathers
    distributed.destroy_process_group()


def compare(name: str, world: int) -> Row:
    """Ratio and cosine of the gradients, and how far the reported losses are from the global."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out.pt")
        multiprocessing.spawn(rank, (world, name, str(Path(folder) / "store"), out), nprocs=world)  # type: ignore[attr-defined, no-untyped-call]
        values, got = torch.load(out)
    value, want = step(CASES[name](False), slice(None))
    return {
        "loss": name,
        "ranks": world,
        "gradient_ratio": f"{(got.norm() / want.norm()).item():.6f}",
        "gradient_cosine": f"{torch.cosine_similarity(got.ravel(), want.ravel(), dim=0):.6f}",
        "loss_error": f"{((values - value).abs().max() / value.abs()).item():.1e}",
    }


def main() -> None:
    """Compare, print, and write benchmarks/results/peers_distributed.csv."""
    rows = [show(compare(name, world)) for name in CASES for world in (2, 4)]
    write("peers_distributed.csv", rows, ("torch", "lightly", "pytorch_metric_learning"))


if __name__ == "__main__":
    main()
