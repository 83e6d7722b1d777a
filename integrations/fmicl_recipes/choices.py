"""What options of runs on images can be: names, defaults by method, and encoders."""

from __future__ import annotations

from fmicl_core.checks import invalid
from fmicl_core.objective import DEFAULTS
from fmicl_recipes.augmentation import VIEWS
from fmicl_recipes.shared_settings import PRECISIONS

#: Training methods, with a line each.
METHODS = {
    "simclr": "SimCLR: two views of every image, told apart from those of all other images.",
    "moco": "MoCo: a momentum encoder, and its keys of earlier batches in a queue.",
    "moco-v3": "MoCo v3: a momentum encoder without a queue, for vision transformers.",
}
#: Methods with a key encoder, which follows the query encoder slowly.
MOMENTUM_METHODS = ("moco", "moco-v3")
#: Strength of alpha = "auto" by default (docs/alpha.md has what was measured). Where keys come from
#: another network, all queries can move away from all keys at once, which with KL and a strength
#: above 2 has a lower loss than features that are spread and aligned.
ALPHA_STRENGTHS = {"simclr": DEFAULTS.strength, "moco": 2.0, "moco-v3": 2.0}
#: Negative pairs by default. MoCo's come from its queue, whatever the scheme; MoCo v3 contrasts a
#: prediction with the keys of the batch.
SCHEMES = {"simclr": "all", "moco": "cross", "moco-v3": "cross"}
#: Frameworks that train, and by what: Lightning, Flax, Keras.
FRAMEWORKS = ("torch", "jax", "tensorflow")
KERAS_BACKENDS = ("tensorflow", "jax", "torch")
LOSSES = ("fmicl", "info-nce", "dcl", "siglip", "alignment-uniformity", "spectral")
#: Losses that can take all negatives from a queue, and are told by ids which rows belong together.
QUEUE_LOSSES = ("fmicl", "info-nce", "dcl")
OPTIMIZERS = ("sgd", "adamw", "lars")
AUGMENTATIONS = ("auto", *VIEWS)
#: Precisions of training; "64" is that of weights and head, too.
IMAGE_PRECISIONS = (*PRECISIONS, "64")
#: Our own encoders, in every framework: convolutional ones, and vision transformers with the
#: number of their blocks.
CONVOLUTIONAL = ("resnet18", "resnet50", "smallconv")
#: Convolutional encoders whose first convolution has the stride `stem_stride`.
STEMS = ("resnet18", "smallconv")
VITS = {"vit-s6": 6, "vit-s12": 12}
#: Libraries whose encoders go by LIBRARY:NAME, with PyTorch.
ENCODER_LIBRARIES = ("timm", "torchvision")
#: Most pixels a side of an image.
LARGEST_SIDE = 2**14
#: Where the images stay while training.
CACHES = ("auto", "memory", "disk", "gpu")
PATCH_PROJECTIONS = ("frozen", "learned")
#: How MoCo's head ends; "batch" is a batch norm without scale and shift.
HEAD_NORMS = ("batch", "none")


def check_encoder(name: str, framework: str) -> None:
    """Check the name of an encoder; whether a library has it, only the library knows.

    Raises:
        ValueError: there is no such encoder in that framework.
    """
    library, _, model = name.partition(":")
    elsewhere = library in ENCODER_LIBRARIES and bool(model)
    if name in (*CONVOLUTIONAL, *VITS) or (elsewhere and framework == "torch"):
        return
    libraries = [f"{name}:NAME" for name in ENCODER_LIBRARIES if framework == "torch"]
    raise invalid("encoder", f"one of {', '.join((*CONVOLUTIONAL, *VITS, *libraries))}", name,
                  why="That one needs framework = 'torch'." if elsewhere else None)  # fmt: skip
