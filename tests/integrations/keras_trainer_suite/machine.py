"""Train on the digits without augmentation, on one of several machines: METHOD MACHINES OUT."""

import sys

import keras

from fmicl_keras import MethodTrainer, build
from fmicl_recipes import resolve
from fmicl_recipes.run import train_run

method, machines, out = sys.argv[1:]
# Random views are drawn alike on every machine, for its own images.
build.build_augmentation = lambda *_: keras.Sequential(
    [keras.Input((8, 8, 1)), keras.layers.Identity()]
)
options = {"moco": {"encoder": "vit-s6", "head_norm": "none", "queue_size": 100}}.get(method, {})
settings = resolve("digits", {
    "method": method, "machines": int(machines), "framework": "tensorflow", "device": "cpu",
    "width": 4, "batch_size": 64, "limit": 256, "epochs": 2, "optimizer": "sgd", "lr": 1e-4,
    "warmup_epochs": 0, "projection_hidden": 16, "projection_dim": 8, "precision": "64", **options,
})  # fmt: skip
train_run(MethodTrainer, settings, out, progress=False)
