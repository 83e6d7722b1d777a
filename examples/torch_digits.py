"""Learn handwritten digits without labels in PyTorch, with InfoNCE and then with f-MICL.

python examples/torch_digits.py
"""

from functools import partial

import torch
from digits import PIXELS, compare, knn_accuracy, pairs_of_views
from torch import nn

from fmicl_torch import FMICLLoss, info_nce_loss


def train(criterion, epochs=100):
    """Train an encoder with the criterion; its kNN accuracy before and after."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(PIXELS, 512), nn.ReLU(), nn.Linear(512, 64))
    head = nn.Sequential(nn.ReLU(), nn.Linear(64, 32))
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=2e-3)

    @torch.no_grad()
    def encode(images):
        return encoder(torch.from_numpy(images)).numpy()

    before = knn_accuracy(encode)
    for x, y in pairs_of_views(epochs):
        z1, z2 = (head(encoder(torch.from_numpy(v))) for v in (x, y))
        loss = criterion(z1, z2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, knn_accuracy(encode)


if __name__ == "__main__":
    losses = {
        "InfoNCE": partial(info_nce_loss, temperature=0.5),
        "JS-MICL": FMICLLoss(divergence="js", alpha=5.0, negatives="all"),
    }
    compare(losses, train)
