"""Train an image tower and a text tower on digits and their names with SigLIP, in PyTorch.

python examples/two_towers_torch.py                       # or --loss clip
torchrun --nproc-per-node 2 examples/two_towers_torch.py  # the batch shared by two processes
"""

import argparse
import os

import torch
import torch.distributed as dist
from digits import PIXELS
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from two_towers import TRIPLES, batches, report

from fmicl_torch import CLIPLoss, SigLIPLoss


class Towers(nn.Module):
    """Images and captions to features of the same width, and the loss with what it learns."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(PIXELS, 256), nn.ReLU(), nn.Linear(256, 32))
        self.text = nn.Sequential(
            nn.EmbeddingBag(TRIPLES, 64, padding_idx=0), nn.ReLU(), nn.Linear(64, 32)
        )
        self.criterion = criterion

    def forward(self, images, captions, ids):
        """The loss of a batch; images and captions with equal ids belong together."""
        return self.criterion(self.image(images), self.text(captions), ids=ids)


def train(towers: nn.Module, epochs: int, rank: int, ranks: int) -> None:
    """Train on this rank's share of every batch."""
    optimizer = torch.optim.Adam(towers.parameters(), lr=2e-3)
    for batch in batches(epochs):
        loss = towers(*(torch.from_numpy(part[rank::ranks]) for part in batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    """Train, print what the towers find before and after, and what the loss learned."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", choices=("siglip", "clip"), default="siglip")
    parser.add_argument("--epochs", type=int, default=100)
    options = parser.parse_args()
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        dist.init_process_group("gloo")
    rank = dist.get_rank() if ranks > 1 else 0
    torch.manual_seed(0)
    if options.loss == "clip" and ranks > 1:
        parser.error("clip_loss knows no ranks yet; take --loss siglip")
    towers = Towers(CLIPLoss() if options.loss == "clip" else SigLIPLoss(distributed=ranks > 1))

    def show(title: str) -> None:
        if rank == 0:
            with torch.no_grad():
                report(
                    title,
                    lambda images: towers.image(torch.from_numpy(images)).numpy(),
                    lambda texts: towers.text(torch.from_numpy(texts)).numpy(),
                )

    show("before")
    train(DistributedDataParallel(towers) if ranks > 1 else towers, options.epochs, rank, ranks)
    show("after")
    if rank == 0:
        learned = {
            name: f"{value.item():.2f}" for name, value in towers.criterion.named_parameters()
        }
        print(f"{type(towers.criterion).__name__} learned {learned}")
    if ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
