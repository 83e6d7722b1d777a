"""Presets for runs on images: options that go together, by name.

Explicit options win over the preset, the preset over the defaults of `TrainSettings`.
"""

from __future__ import annotations

from typing import Any

from fmicl_recipes.options import preset_options
from fmicl_recipes.settings import TrainSettings

#: Lu et al. (2023), setup table: encoder, N, d, lr, mu, 1/(2 sigma^2), alpha, epochs and k are the
#: paper's. It does not state projector width, momentum, weight decay, warm-up or augmentation
#: strength: those are the defaults of TrainSettings, our choice.
_PAPER: dict[str, Any] = {"sigma2": 0.5, "mu": 1.0, "alpha": 40.0, "lr": 0.1, "projection_dim": 512}

#: Options that go together, by name; what is not named there has its default.
PRESETS: dict[str, dict[str, Any]] = {
    "paper-cifar10": _PAPER | {"data": "cifar10", "encoder": "resnet18", "batch_size": 512,
                               "epochs": 800, "knn_k": 200},
    "paper-stl10": _PAPER | {"data": "tanganke/stl10", "encoder": "resnet50",
                             "batch_size": 64, "epochs": 800, "knn_k": 200},
    "paper-tinyimagenet": _PAPER | {"data": "zh-plus/tiny-imagenet", "batch_size": 256,
                                    "encoder": "resnet50", "epochs": 800, "knn_k": 200},
    # For moco-v3. The table's lr of 0.1 is no rate for AdamW: rate, decay, warm-up, temperature and
    # hidden width are MoCo v3's own (Chen et al. 2021: 1.5e-4 N/256). The paper's rate falls
    # linearly, ours by a cosine.
    "paper-imagenet": _PAPER | {"data": "ILSVRC/imagenet-1k", "image_size": 224,
                                "encoder": "vit-s6", "width": 64, "patch_size": 16,
                                "batch_size": 1024, "epochs": 1000, "optimizer": "adamw",
                                "lr": 6e-4, "weight_decay": 0.1, "warmup_epochs": 40,
                                "temperature": 0.2, "projection_hidden": 4096,
                                "precision": "bf16"},
    # The demo: 1,437 images of 8 x 8 pixels, seconds on a laptop. The same for every loss
    # and method.
    "digits": {"data": "digits", "encoder": "smallconv", "width": 32,
               "projection_hidden": 128, "projection_dim": 64, "batch_size": 128, "epochs": 60,
               "optimizer": "adamw", "lr": 3e-3, "weight_decay": 1e-4, "warmup_epochs": 3,
               "queue_size": 512, "knn_k": 10},
    # A narrow ResNet-18 for about 20 minutes on two cores.
    "cifar10-cpu": {"data": "cifar10", "encoder": "resnet18", "width": 16, "stem_stride": 2,
                    "batch_size": 256, "epochs": 12, "lr": 0.2, "warmup_epochs": 1,
                    "weight_decay": 1e-4, "projection_hidden": 256, "projection_dim": 128,
                    "knn_k": 200},
    # ResNet-18 of full width on one GPU, at the rate, decay and grey scale that are usual for
    # SimCLR on CIFAR-10 (0.03 N / 256).
    "cifar10-gpu": {"data": "cifar10", "encoder": "resnet18", "batch_size": 512, "epochs": 100,
                    "lr": 0.06, "weight_decay": 5e-4, "grayscale": 0.1, "projection_dim": 128,
                    "precision": "bf16", "cache": "gpu", "compile": True, "knn_k": 200},
}  # fmt: skip


def resolve(preset: str | None, overrides: dict[str, Any]) -> TrainSettings:
    """Settings from explicit options, then the preset, then the defaults.

    Args:
        preset: name in `PRESETS`; None takes the preset named like the data set, if there is one.
        overrides: explicit options by name.

    Raises:
        ValueError: a name is unknown (the message lists the names) or a value does not fit.
    """
    if preset is None:
        data = overrides.get("data", TrainSettings.data)
        preset = data if data in PRESETS else None
    return TrainSettings.from_preset(preset_options(preset, PRESETS), overrides)
