"""A step or more of a method on one and on two CPU processes, for the tests of DDP.

They call `train`, or run it: lightning_ddp.py SETTINGS_AS_JSON FOLDER. Alone that writes
FOLDER/1.pt, of one machine; as one of the processes of a launcher, the first, FOLDER/machines.pt.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import torch

from fmicl_core import forms
from fmicl_lightning import MethodTrainer
from fmicl_recipes import RunFolder, TrainSettings
from fmicl_recipes.data import load_images

# In every process: batches as small as these go round the ring, too.
forms.DENSE_PAIRS, forms.TILE["cpu"] = 0, 16


class Exact(torch.nn.Module):
    """In place of the augmentation: the image as it is, in float64."""

    def forward(self, images):
        return images.double()


def without_batch_norm(module):
    """Batch norms removed: only a GPU has them synchronised."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            setattr(module, name, torch.nn.Identity())
        without_batch_norm(child)


def vector(module):
    """Encoder and heads as one vector."""
    weights = [p.detach().flatten() for p in module.parameters() if p.requires_grad]
    return torch.cat(weights).clone()


def train(settings, folder, called):
    MethodTrainer.join(settings)
    trainer = MethodTrainer(settings, load_images("digits", limit=settings.limit))
    module = trainer.module.double()
    module.augment = Exact()
    if settings.method != "moco":
        without_batch_norm(module)
    torch.manual_seed(0)
    with torch.no_grad():  # a key network that differs, as later in a run
        for name, weight in module.named_parameters():
            weight.add_(0.05 * torch.randn_like(weight) * name.startswith("key_"))
    before = vector(module)
    run = RunFolder(folder / f"run-{called}")
    if trainer.process.index == 0:
        RunFolder.create(run.path, settings)
    trainer.fit(run, resume=False, progress=False)
    times = ("images_per_second", "data_wait")
    if trainer.process.index:
        return
    row = {name: value for name, value in trainer.history[-1].items() if name not in times}
    found = {"step": vector(module) - before, "row": row}
    queue = {name: getattr(module, name, None) for name in ("queue", "queue_labels")}
    torch.save(found | queue, folder / f"{called}.pt")


if __name__ == "__main__":
    chosen = TrainSettings.from_dict(json.loads(sys.argv[1]))
    if "RANK" in os.environ:
        train(chosen, Path(sys.argv[2]), "machines")
    else:
        train(dataclasses.replace(chosen, machines=1), Path(sys.argv[2]), "1")
