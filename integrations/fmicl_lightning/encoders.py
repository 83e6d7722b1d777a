"""Encoders for small and large images, and access to those of timm and torchvision."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import nn

from fmicl_core.checks import InvalidArgument, invalid
from fmicl_lightning.vit import ViT
from fmicl_recipes.choices import VITS, check_encoder

#: The module of each library that has encoders by name.
LIBRARIES = {"timm": "timm", "torchvision": "torchvision.models"}


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut (He et al. 2016, section 3.3)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) to (N, outputs, H / stride, W / stride)."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1, with a shortcut (He et al. 2016, figure 5).

    Args:
        inputs: channels of the images.
        width: channels of the 3 x 3 convolution; there are 4 * width at the end.
        stride: stride of the 3 x 3 convolution, as in torchvision.
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(4 * width)
        self.shortcut = shortcut(inputs, 4 * width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) to (N, 4 * width, H / stride, W / stride)."""
        y = torch.relu(self.norm1(self.conv1(x)))
        y = torch.relu(self.norm2(self.conv2(y)))
        return torch.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """What goes past the convolutions of a block: a projection only where shapes differ."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def resnet18(channels: int, width: int = 64, stem_stride: int = 1) -> nn.Sequential:
    """ResNet-18 with the stem for small images: 3 x 3, stride 1, no pooling.

    Args:
        channels: number of channels of the images.
        width: channels of the first stage, 64 in the standard; features have 8 * width.
        stem_stride: stride of the first convolution; 2 takes a quarter of the work.

    Source: He et al. (2016), table 1; stem as in Chen et al. (2020), appendix B.9.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 3, stem_stride, 1, bias=False),
        nn.BatchNorm2d(width), nn.ReLU(),
    ]  # fmt: skip
    inputs = width
    for stage in range(4):
        outputs = width * 2**stage
        layers.append(BasicBlock(inputs, outputs, 1 if stage == 0 else 2))
        layers.append(BasicBlock(outputs, outputs, 1))
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def resnet50(channels: int, width: int = 64) -> nn.Sequential:
    """ResNet-50 with the stem for large images: 7 x 7, stride 2, and a pooling of stride 2.

    Args:
        channels: number of channels of the images.
        width: channels of the first stage, 64 in the standard; features have 32 * width.

    Source: He et al. (2016), table 1.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
    ]  # fmt: skip
    inputs = width
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 0 else 1
            layers.append(Bottleneck(inputs, width * 2**stage, stride))
            inputs = 4 * width * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def smallconv(channels: int, width: int = 32, stem_stride: int = 1) -> nn.Sequential:
    """Four convolutions for images of about 8 x 8 pixels; features have 8 * width."""

    def layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *layer(channels, width, stem_stride), *layer(width, width, 1),
        *layer(width, 2 * width, 2), *layer(2 * width, 2 * width, 1),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(),
    )  # fmt: skip


#: Encoders whose first convolution has the stride `stem_stride`.
STEMS = {"resnet18": resnet18, "smallconv": smallconv}


def build_encoder(
    name: str, channels: int, width: int, *, stem_stride: int = 1, patch_size: int = 4
) -> nn.Module:
    """The encoder of that name, from images (N, C, H, W) to features (N, F).

    Args:
        name: "resnet18", "resnet50", "smallconv", "vit-s6", "vit-s12", "timm:NAME" or
            "torchvision:NAME".
        channels: number of channels of the images.
        width: channels of the first stage or, of a ViT, per head; of our own encoders alone.
        stem_stride: stride of the first convolution of resnet18 and smallconv.
        patch_size: pixels a side of our own ViT's patches.

    Raises:
        ValueError: the name is unknown, or the library that has it is not installed.
    """
    check_encoder(name, "torch")
    if name in STEMS:
        return STEMS[name](channels, width, stem_stride)
    if name == "resnet50":
        return resnet50(channels, width)
    if name in VITS:
        return ViT(channels, width, VITS[name], patch_size)
    library, _, model = name.partition(":")
    make = _functions_of(name)[1]
    options = {"num_classes": 0, "in_chans": channels} if library == "timm" else {"weights": None}
    try:
        network: nn.Module = make(model, **options)
    except (ValueError, RuntimeError) as error:  # of either library, where it knows no such model
        raise _unknown(name, str(error)) from error
    if library == "torchvision":
        head = "fc" if hasattr(network, "fc") else "head" if hasattr(network, "head") else "heads"
        setattr(network, head, nn.Identity())
    return network


def check_library_encoder(name: str) -> None:
    """Check that the library of an encoder "LIBRARY:MODEL" has it, without building it.

    Raises:
        ValueError: it has no such model, or is not installed.
    """
    library, _, model = name.partition(":")
    if library in LIBRARIES and not _functions_of(name)[0](model):
        raise _unknown(name, f"Unknown model {model}")


def _functions_of(name: str) -> tuple[Callable[[str], bool], Callable[..., nn.Module]]:
    """Two functions of the library of "LIBRARY:MODEL": whether it has a model, and its maker."""
    library = name.partition(":")[0]
    try:
        module = importlib.import_module(LIBRARIES[library])
    except (ImportError, RuntimeError) as error:
        raise invalid("encoder", f"an encoder whose library works; {library} does not", name,
                      why=f"It said: {error}.") from error  # fmt: skip
    if library == "torchvision":
        return lambda model: model.lower() in module.list_models(), module.get_model
    # Names of timm may begin with a hub, whose models it does not list.
    return lambda model: ":" in model or module.is_model(model), module.create_model


def _unknown(name: str, said: str) -> InvalidArgument:
    library = name.partition(":")[0]
    return invalid("encoder", f"a model that {library} has", name, why=f"It said: {said}.")


@torch.no_grad()
def feature_width(encoder: nn.Module, shape: tuple[int, int, int]) -> int:
    """Width F of an encoder's features, found with one image of shape (C, H, W).

    Raises:
        ValueError: the encoder does not return (N, F).
    """
    mode = encoder.training
    features = encoder.eval()(torch.zeros(1, *shape))
    encoder.train(mode)
    if features.ndim != 2:
        raise invalid("encoder", "a module that returns (N, F)", tuple(features.shape),
                      what="output shape")  # fmt: skip
    return int(features.shape[1])
