"""`python -m benchmarks.peers_distributed`: is a loss on several ranks that of the union batch?

A linear encoder is trained one step on two and four CPU processes (gloo), in float64, its gradients
averaged as DistributedDataParallel does, and compared with one process that has the whole batch.
A loss that is exact has ratio and cosine 1, and reports the global loss on every rank. Losses of
packages that are not installed are left out.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import distributed, multiprocessing

from benchmarks.__main__ import show, write
from benchmarks.contestants import TEMPERATURE, without_torchvision
from benchmarks.timing import Row
from benchmarks.towers import open_clip
from fmicl_core.family import FAMILY_DEFAULTS

SAMPLES, WIDTH = 48, 12
PACKAGES = ("torch", "lightly", "pytorch_metric_learning", "open_clip", "sentence_transformers")


#: Which rows belong together, on whatever rank, where a loss is given ids.
IDS = torch.arange(SAMPLES) * 7 % 20


def ours(
    shared: bool, name: str = "fmicl_loss", with_ids: bool = False, **options: Any
) -> Callable[..., torch.Tensor]:
    """A loss of fmicl_torch; `distributed=True` is what its documentation says to write."""
    import fmicl_torch

    def of_views(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        first = distributed.get_rank() * len(x) if shared else 0
        ids = {"ids": IDS[first : first + len(x)]} if with_ids else {}
        return getattr(fmicl_torch, name)(x, y, distributed=shared, **ids, **options)  # type: ignore[no-any-return]

    return of_views


def open_clip_clip(shared: bool, **options: bool) -> Callable[..., torch.Tensor]:
    """ClipLoss of open_clip, of rows of unit length as its models make them."""
    loss = of_open_clip("ClipLoss", shared, **options)
    return lambda x, y: loss(F.normalize(x), F.normalize(y), FAMILY_DEFAULTS.clip_scale)  # type: ignore[no-any-return]


def open_clip_siglip(shared: bool, **options: str) -> Callable[..., torch.Tensor]:
    """SigLipLoss of open_clip; by default neighbours exchange rows in both directions."""
    loss = of_open_clip("SigLipLoss", shared, **options)
    scalars = FAMILY_DEFAULTS.siglip_scale, FAMILY_DEFAULTS.siglip_bias
    return lambda x, y: loss(F.normalize(x), F.normalize(y), *scalars)  # type: ignore[no-any-return]


def of_open_clip(name: str, shared: bool, **options: Any) -> Any:
    """A loss of open_clip with these options, which is told this rank and their number."""
    loss = open_clip(name)
    if shared:
        options |= {"rank": distributed.get_rank(), "world_size": distributed.get_world_size()}
    for option, value in options.items():
        setattr(loss, option, value)
    return loss


def sentence_transformers(
    shared: bool, name: str, gathers: bool = True
) -> Callable[..., torch.Tensor]:
    """A loss of sentence-transformers, from embeddings."""
    # Transformers would import a torchvision that was built for another PyTorch.
    with patch.dict(sys.modules, torchvision=None):
        from sentence_transformers.sentence_transformer import losses

    loss = getattr(losses, name)(torch.nn.Identity(), gather_across_devices=shared and gathers)
    return lambda x, y: loss.compute_loss_from_embeddings([x, y], None)  # type: ignore[no-any-return]


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


#: Ours by name: a function and its options.
OURS: dict[str, dict[str, Any]] = {
    "fmicl KL": {"negatives": "all"},
    "fmicl JS": {"divergence": "js", "negatives": "all"},
    "fmicl InfoNCE all": {"name": "info_nce_loss"},
    "fmicl InfoNCE cross": {"name": "info_nce_loss", "negatives": "cross"},
    "fmicl CLIP": {"name": "clip_loss"},
    "fmicl SigLIP": {"name": "siglip_loss"},
}
RANKING, SYMMETRIC = "MultipleNegativesRankingLoss", "MultipleNegativesSymmetricRankingLoss"
ACROSS = "gather_across_devices=True"
#: Makes the loss; True on several ranks. "tiled" is the ring, "dense" gathers the union.
CASES: dict[str, Callable[[bool], Callable[..., torch.Tensor]]] = {
    f"{name}{', ids' * with_ids}, distributed=True, {form}": partial(
        ours, with_ids=with_ids, implementation=form, **options
    )
    for name, options in OURS.items()
    for with_ids in (False, True)
    for form in ("tiled", "dense")
} | {
    # Before lightly, beside which torchvision is a stand-in that they would take for the package.
    f"sentence-transformers {RANKING}, defaults": partial(
        sentence_transformers, name=RANKING, gathers=False
    ),
    f"sentence-transformers {RANKING}, {ACROSS}": partial(sentence_transformers, name=RANKING),
    f"sentence-transformers {SYMMETRIC}, {ACROSS}": partial(sentence_transformers, name=SYMMETRIC),
    "lightly, defaults": lightly,
    "lightly, gather_distributed=True": partial(lightly, gather_distributed=True),
    "metric-learning, NTXentLoss": partial(metric_learning, wrapped=False),
    "metric-learning, DistributedLossWrapper": partial(metric_learning, wrapped=True),
    "open_clip ClipLoss, defaults": open_clip_clip,
    "open_clip ClipLoss, gather_with_grad=True": partial(open_clip_clip, gather_with_grad=True),
    "open_clip ClipLoss, local_loss=True, gather_with_grad=True": partial(
        open_clip_clip, local_loss=True, gather_with_grad=True
    ),
    "open_clip SigLipLoss, defaults": open_clip_siglip,
    "open_clip SigLipLoss, dist_impl=gather": partial(open_clip_siglip, dist_impl="gather"),
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


def rank(index: int, world: int, store: str, out: str) -> None:
    """One rank: the averaged gradient and this rank's loss, of every case."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=index, world_size=world
    )
    share = SAMPLES // world
    found = {}
    for name in installed():
        value, gradient = step(CASES[name](True), slice(index * share, (index + 1) * share))
        distributed.all_reduce(gradient)
        values = [torch.zeros_like(value) for _ in range(world)]
        distributed.all_gather(values, value)
        found[name] = torch.stack(values), gradient / world
    if index == 0:
        torch.save(found, out)
    distributed.barrier()  # none may leave while another still gathers
    distributed.destroy_process_group()


def installed() -> list[str]:
    """Names of the cases whose package is there."""
    there = []
    for name, make in CASES.items():
        try:
            make(False)
        except ImportError:
            continue
        there.append(name)
    return there


def compare(world: int) -> list[Row]:
    """Ratio and cosine of the gradients, and how far the reported losses are from the global."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out.pt")
        multiprocessing.spawn(rank, (world, str(Path(folder) / "store"), out), nprocs=world)  # type: ignore[attr-defined, no-untyped-call]
        found = torch.load(out)
    rows: list[Row] = []
    for name, (values, got) in found.items():
        value, want = step(CASES[name](False), slice(None))
        rows.append({
            "loss": name,
            "ranks": world,
            "gradient_ratio": f"{(got.norm() / want.norm()).item():.6f}",
            "gradient_cosine": f"{torch.cosine_similarity(got.ravel(), want.ravel(), dim=0):.6f}",
            "loss_error": f"{((values - value).abs().max() / value.abs()).item():.1e}",
        })  # fmt: skip
    return rows


def main() -> None:
    """Compare, print, and write benchmarks/results/peers_distributed.csv."""
    found = [compare(world) for world in (2, 4)]
    rows = [show(row) for rows in zip(*found, strict=True) for row in rows]
    write("peers_distributed.csv", rows, PACKAGES)


if __name__ == "__main__":
    main()
