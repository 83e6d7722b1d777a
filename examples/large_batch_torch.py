"""Learn handwritten digits from all 1,437 in one batch, embedded 128 at a time, in PyTorch.

python examples/large_batch_torch.py
"""

import numpy as np
import torch
from digits import FRAME, TRAIN, knn_accuracy, view
from torch import nn

from fmicl_torch import cached_loss, fmicl_loss


def make_encoder() -> nn.Module:
    """Two convolutions and a head; group norm, since batch norm would see the mini-batch alone."""
    return nn.Sequential(
        nn.Unflatten(1, (1, FRAME, FRAME)),
        nn.Conv2d(1, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2), nn.GroupNorm(4, 32), nn.ReLU(),
        nn.Flatten(), nn.Linear(288, 64),
    )  # fmt: skip


def main(steps: int = 40) -> None:
    """Train, and print the kNN accuracy before and after."""
    torch.manual_seed(0)
    encoder, rng = make_encoder(), np.random.default_rng(0)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=5e-3)

    @torch.no_grad()
    def encode(images):
        return encoder(torch.from_numpy(images)).numpy()

    before = knn_accuracy(encode)
    for _ in range(steps):
        x, y = (torch.from_numpy(view(TRAIN, rng)) for _ in range(2))
        loss = cached_loss(
            fmicl_loss, encoder, x, y, mini_batch_size=128,
            divergence="js", alpha=5.0, negatives="all",
        )  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"JS-MICL of {len(TRAIN)}: kNN {before:.3f} before, {knn_accuracy(encode):.3f} after")


if __name__ == "__main__":
    main()
