"""Fine-tune an encoder of any framework on the labels of one image in ten, in PyTorch.

python examples/finetune_torch.py RUN     # without RUN, Flax trains an encoder on digits first
"""

import torch
from finetune import Few, few_labels
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from fmicl_lightning import build_encoder, features, load_encoder
from fmicl_lightning.loading import Encoder
from fmicl_recipes.weights import open_model


def fine_tune(encoder: nn.Module, few: Few, epochs: int = 30) -> float:
    """Train encoder and classifier together; their test accuracy."""
    model = nn.Sequential(encoder, nn.Linear(encoder.num_features, few.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, nesterov=True)
    rows = TensorDataset(channels_first(few.images), torch.from_numpy(few.labels))
    model.train()  # batch norms use the statistics of each batch, and learn running ones
    for _ in range(epochs):
        for images, labels in DataLoader(rows, batch_size=32, shuffle=True, drop_last=True):
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        found = model(channels_first(few.test_images)).argmax(dim=1)
    return (found == torch.from_numpy(few.test_labels)).float().mean().item()


def channels_first(images):
    """Images (N, C, H, W) of NumPy's (N, H, W, C), still uint8."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def untrained(run) -> nn.Module:
    """The same network with random weights."""
    model = open_model(run)
    own = model.architecture
    return Encoder(build_encoder(own.name, **own.options), model.image_shape, own.num_features)


if __name__ == "__main__":
    few = few_labels(framework="jax")
    torch.manual_seed(few.seed)
    few.show(
        frozen=few.probe(features),
        fine_tuned=fine_tune(load_encoder(few.run), few),
        random_weights=fine_tune(untrained(few.run), few),
    )
