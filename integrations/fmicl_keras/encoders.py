"""Encoders as Keras models, the same on every backend and as in Lightning.

Layers have the canonical names of `fmicl_recipes.weights`, with "_" in the place of dots.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from fmicl_keras.layers import batch_norm, conv, network_input
from fmicl_keras.vit import vit
from fmicl_recipes.choices import VITS, check_encoder

Shape = tuple[int, int, int]


def conv_norm(x: Any, outputs: int, size: int, stride: int, names: tuple[str, str]) -> Any:
    """A convolution and its batch norm, by these names."""
    return batch_norm(conv(x, outputs, size, stride, name=names[0]), name=names[1])


def basic_block(x: Any, outputs: int, stride: int, name: str) -> Any:
    """Two 3 x 3 convolutions with a shortcut (He et al. 2016, section 3.3)."""
    y = layers.ReLU()(conv_norm(x, outputs, 3, stride, (f"{name}_conv1", f"{name}_bn1")))
    y = conv_norm(y, outputs, 3, 1, (f"{name}_conv2", f"{name}_bn2"))
    if stride != 1 or x.shape[-1] != outputs:
        x = conv_norm(x, outputs, 1, stride, (f"{name}_downsample_0", f"{name}_downsample_1"))
    return layers.ReLU()(layers.Add()([y, x]))


def resnet18(shape: Shape, width: int = 64, stem_stride: int = 1) -> keras.Model:
    """ResNet-18 with the stem for small images: 3 x 3, stride 1, no pooling.

    Args:
        shape: height, width and channels of the images.
        width: channels of the first stage, 64 in the standard; features have 8 * width.
        stem_stride: stride of the first convolution; 2 takes a quarter of the work.

    Source: He et al. (2016), table 1; stem as in Chen et al. (2020), appendix B.9.
    """
    images = network_input(shape)
    x = layers.ReLU()(conv_norm(images, width, 3, stem_stride, ("conv1", "bn1")))
    for stage in range(4):
        name = f"layer{stage + 1}"
        x = basic_block(x, width * 2**stage, 1 if stage == 0 else 2, f"{name}_0")
        x = basic_block(x, width * 2**stage, 1, f"{name}_1")
    return keras.Model(images, layers.GlobalAveragePooling2D()(x), name="resnet18")


def bottleneck(x: Any, width: int, stride: int, name: str) -> Any:
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1 with a shortcut; outputs have 4 * width channels.

    The stride is that of the second convolution, as in torchvision.
    """
    y = layers.ReLU()(conv_norm(x, width, 1, 1, (f"{name}_conv1", f"{name}_bn1")))
    y = layers.ReLU()(conv_norm(y, width, 3, stride, (f"{name}_conv2", f"{name}_bn2")))
    y = conv_norm(y, 4 * width, 1, 1, (f"{name}_conv3", f"{name}_bn3"))
    if stride != 1 or x.shape[-1] != 4 * width:
        x = conv_norm(x, 4 * width, 1, stride, (f"{name}_downsample_0", f"{name}_downsample_1"))
    return layers.ReLU()(layers.Add()([y, x]))


def resnet50(shape: Shape, width: int = 64) -> keras.Model:
    """ResNet-50 with ImageNet's stem: 7 x 7 and 3 x 3 max pooling, both of stride 2.

    Args:
        shape: height, width and channels of the images.
        width: channels of the first stage, 64 in the standard; features have 32 * width.

    Source: He et al. (2016), table 1.
    """
    images = network_input(shape)
    x = layers.ReLU()(conv_norm(images, width, 7, 2, ("conv1", "bn1")))
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))  # after the ReLU no zero wins
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            step = 2 if stage > 0 == block else 1
            x = bottleneck(x, width * 2**stage, step, f"layer{stage + 1}_{block}")
    return keras.Model(images, layers.GlobalAveragePooling2D()(x), name="resnet50")


def smallconv(shape: Shape, width: int = 32, stem_stride: int = 1) -> keras.Model:
    """Four convolutions for images of about 8 x 8 pixels; features have 8 * width."""
    x = images = network_input(shape)
    steps = (width, stem_stride), (width, 1), (2 * width, 2), (2 * width, 1)
    for i, (outputs, stride) in enumerate(steps, start=1):
        x = layers.ReLU()(conv_norm(x, outputs, 3, stride, (f"conv{i}", f"bn{i}")))
    x = layers.AdaptiveAveragePooling2D(2)(x)
    # The features stand in PyTorch's order, channel by channel, so that weights carry over.
    features = layers.Flatten()(layers.Permute((3, 1, 2))(x))
    return keras.Model(images, features, name="smallconv")


STEMS = {"resnet18": resnet18, "smallconv": smallconv}


def build_encoder(
    name: str, shape: Shape, width: int, *, stem_stride: int = 1, patch_size: int = 4
) -> keras.Model:
    """The encoder of that name, from images (N, H, W, C) to features (N, F).

    Args:
        name: "resnet18", "resnet50", "smallconv", "vit-s6" or "vit-s12".
        shape: height, width and channels of the images.
        width: channels of the first stage or, of a ViT, per head.
        stem_stride: stride of the first convolution; that of ResNet-50 is 2.
        patch_size: pixels a side of a ViT's patches.

    Raises:
        ValueError: the name is unknown, or the patches do not tile the images.
    """
    check_encoder(name, "tensorflow")
    if name in VITS:
        return vit(shape, width, VITS[name], patch_size)
    if name == "resnet50":
        return resnet50(shape, width)
    return STEMS[name](shape, width, stem_stride)
