"""What every network consists of: the names and shapes of its arrays, in every framework.

ResNets have the names of torchvision's, vision transformers those of timm's; a "smallconv" and the
heads are ours alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fmicl_recipes.choices import CONVOLUTIONAL, STEMS, VITS
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.vit import token_dim
from fmicl_recipes.weights.layouts import Entry, attention, linear, norm, plain, token

#: Blocks of each stage of a ResNet.
STAGES = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
#: Width of the features, in multiples of the width of the encoder.
FEATURES = {"resnet18": 8, "resnet50": 32, "smallconv": 8}

#: Networks beside the encoder that a method can have.
PARTS = ("head", "key_head", "predictor", "key_encoder")
#: Arrays of MoCo's queue, which belong together, and to the head that made its keys.
QUEUE = ("queue", "queue_labels", "pointer")


@dataclass(frozen=True)
class Architecture:
    """An encoder of ours: its name, and the options that decide over its arrays.

    Args:
        name: "resnet18", "resnet50", "smallconv", "vit-s6" or "vit-s12"; or LIBRARY:MODEL, of which
            only its library knows the arrays.
        channels: number of channels of the images.
        width: channels of the first stage; of a ViT, per head.
        stem_stride: stride of the first convolution of a resnet18 and a smallconv.
        patch_size: pixels a side of a ViT's patches.
    """

    name: str
    channels: int
    width: int = TrainSettings.width
    stem_stride: int = TrainSettings.stem_stride
    patch_size: int = TrainSettings.patch_size

    @classmethod
    def of(cls, settings: TrainSettings, channels: int) -> Architecture:
        """The encoder that settings name, for images of so many channels."""
        return cls(settings.encoder, channels, settings.width, settings.stem_stride,
                   settings.patch_size)  # fmt: skip

    @property
    def ours(self) -> bool:
        """Whether it is an encoder of ours, which every framework has."""
        return self.name in (*CONVOLUTIONAL, *VITS)

    @property
    def options(self) -> dict[str, int]:
        """The options that have a meaning for this encoder, by name."""
        found = {"channels": self.channels}
        if self.ours:
            found["width"] = self.width
        if self.name in STEMS:
            found["stem_stride"] = self.stem_stride
        if self.name in VITS:
            found["patch_size"] = self.patch_size
        return found

    @property
    def num_features(self) -> int:
        """Width F of the features."""
        return token_dim(self.width) if self.name in VITS else FEATURES[self.name] * self.width

    def entries(self) -> list[Entry]:
        """The arrays of the encoder."""
        if self.name in VITS:
            return _vit(self.channels, self.width, VITS[self.name], self.patch_size)
        if self.name == "smallconv":
            return _smallconv(self.channels, self.width)
        return _resnet(self.channels, self.width, STAGES[self.name], deep=self.name == "resnet50")


def _resnet(channels: int, width: int, stages: Sequence[int], *, deep: bool) -> list[Entry]:
    """A ResNet of basic blocks or, if `deep`, of bottlenecks behind ImageNet's stem."""
    side, first = (7, 4) if deep else (3, 3)
    found = linear("conv1", "0", "stem.conv", (width, channels, side, side), bias=False)
    found += norm("bn1", "1", "stem.norm", width)
    inputs, number = width, 0
    for stage, count in enumerate(stages):
        inner = width * 2**stage
        outputs = 4 * inner if deep else inner
        for block in range(count):
            name, torch, jax = f"layer{stage + 1}.{block}", str(first + number), f"blocks.{number}"
            shapes = [(inner, inputs, 3, 3), (inner, inner, 3, 3)]
            own = ["first", "second"]
            if deep:
                shapes = [(inner, inputs, 1, 1), (inner, inner, 3, 3), (outputs, inner, 1, 1)]
                own = ["narrow", "middle", "widen"]
            for i, (shape, part) in enumerate(zip(shapes, own, strict=True), start=1):
                found += linear(f"{name}.conv{i}", f"{torch}.conv{i}", f"{jax}.{part}.conv", shape,
                                bias=False)  # fmt: skip
                found += norm(f"{name}.bn{i}", f"{torch}.norm{i}", f"{jax}.{part}.norm", shape[0])
            if block == 0 and (stage > 0 or inputs != outputs):
                found += linear(f"{name}.downsample.0", f"{torch}.shortcut.0",
                                f"{jax}.shortcut.conv", (outputs, inputs, 1, 1),
                                bias=False)  # fmt: skip
                found += norm(f"{name}.downsample.1", f"{torch}.shortcut.1",
                              f"{jax}.shortcut.norm", outputs)  # fmt: skip
            inputs, number = outputs, number + 1
    return found


def _smallconv(channels: int, width: int) -> list[Entry]:
    found: list[Entry] = []
    for i, (inputs, outputs) in enumerate(pairwise((channels, width, width, 2 * width, 2 * width))):
        found += linear(f"conv{i + 1}", str(3 * i), f"layers.{i}.conv", (outputs, inputs, 3, 3),
                        bias=False)  # fmt: skip
        found += norm(f"bn{i + 1}", str(3 * i + 1), f"layers.{i}.norm", outputs)
    return found


def _vit(channels: int, width: int, depth: int, patch_size: int) -> list[Entry]:
    dim = token_dim(width)
    found = token("cls_token", "token", "token", dim)
    found += linear(
        "patch_embed.proj", "patches", "patches", (dim, channels, patch_size, patch_size)
    )
    for i in range(depth):
        b = f"blocks.{i}"
        found += norm(f"{b}.norm1", f"{b}.norm1", f"{b}.norm1", dim, batch=False)
        found += attention(f"{b}.attn", f"{b}.self_attn", f"{b}.attention", dim)
        found += norm(f"{b}.norm2", f"{b}.norm2", f"{b}.norm2", dim, batch=False)
        found += linear(f"{b}.mlp.fc1", f"{b}.linear1", f"{b}.widen", (4 * dim, dim))
        found += linear(f"{b}.mlp.fc2", f"{b}.linear2", f"{b}.narrow", (dim, 4 * dim))
    return found + norm("norm", "norm", "norm", dim, batch=False)


def _mlp(*layers: tuple[int, int, bool, str]) -> list[Entry]:
    """Linear layers fc1, fc2, ... in a row, each of inputs, outputs, a bias or not, and a norm.

    The norm is "affine", "plain" (without scale and shift) or none, "". A ReLU stands between two.
    """
    found, place = [], 0
    for i, (inputs, outputs, bias, kind) in enumerate(layers, start=1):
        found += linear(f"fc{i}", str(place), f"layers.{place}", (outputs, inputs), bias=bias)
        if kind:
            place += 1
            found += norm(f"bn{i}", str(place), f"layers.{place}", outputs, affine=kind == "affine")
        place += 2
    return found


def _networks(settings: TrainSettings, features: int) -> dict[str, list[Entry]]:
    """The arrays of each network of a method beside the encoders, by the network's name."""
    hidden, dim = settings.projection_hidden, settings.projection_dim
    if settings.method == "simclr":
        head = _mlp((features, hidden, False, "affine"), (hidden, hidden, False, "affine"),
                    (hidden, dim, True, ""))  # fmt: skip
        return {"head": head}
    if settings.method == "moco":
        last = "plain" if settings.head_norm == "batch" else ""
        head = _mlp((features, hidden, True, ""), (hidden, dim, True, last))
        return {"head": head, "key_head": head}
    head = _mlp((features, hidden, False, "affine"), (hidden, hidden, False, "affine"),
                (hidden, dim, False, "plain"))  # fmt: skip
    predictor = _mlp((dim, hidden, False, "affine"), (hidden, dim, False, "plain"))
    return {"head": head, "key_head": head, "predictor": predictor}


def method_arrays(settings: TrainSettings, encoder: Architecture) -> list[Entry]:
    """All arrays of a method: of the encoder, `encoder.`, and of what stands beside it.

    Args:
        settings: settings of the run.
        encoder: its encoder, which is one of ours.
    """
    networks = {"encoder": encoder.entries()} | _networks(settings, encoder.num_features)
    if settings.method != "simclr":
        networks["key_encoder"] = networks["encoder"]
    found = [entry.within(part) for part, entries in networks.items() for entry in entries]
    if settings.method == "moco":
        found.append(plain("queue", (settings.queue_size, settings.projection_dim)))
        if settings.supervised:
            found.append(plain("queue_labels", (settings.queue_size,)))
        found.append(plain("pointer", (), "oldest"))
    return found


def count_numbers(entries: Sequence[Entry]) -> int:
    """How many numbers the arrays hold."""
    total = 0
    for entry in entries:
        size: Any = 1
        for side in entry.shape:
            size *= side
        total += size
    return int(total)
