"""Learn handwritten digits without labels in PyTorch, with InfoNCE and then with f-MICL.

python examples/torch_digits.py
"""

from functools import partial

import torch
from digits import knn_accuracy, pairs_of_views
from torch import nn

from fmicl_torch import FMICLLoss, info_nce_loss


def train(criterion, epochs=30):
    """Train an encoder with the criterion; its kNN accuracy before and after."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
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
        "KL-MICL": FMICLLoss(divergence="kl", negatives="all"),
        "JS-MICL": FMICLLoss(divergence="js", negatives="all"),
    }
    print(f"raw pixels: kNN {knn_accuracy(lambda images: images):.3f}")
    for name, criterion in losses.items():
        print("{}: kNN {:.3f} before, {:.3f} after".format(name, *train(criterion)))
