"""TrainSettings: everything that determines a run, with each option's default, help and choices.

The command line and the error messages are made from these fields, so that an option is written
down once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fmicl_core import DIVERGENCES, SIMILARITIES
from fmicl_core.checks import check_at_least, check_number, check_positive, invalid
from fmicl_core.objective import DEFAULTS, NEGATIVES
from fmicl_core.related import RELATED_DEFAULTS
from fmicl_recipes.augmentation import PHOTO, VIEWS, Photo, chosen_augmentation
from fmicl_recipes.options import Settings, check_seed, option

#: Training methods, and the negatives each takes by default. MoCo's come from its queue, whatever
#: the scheme; MoCo v3 contrasts a prediction with the keys of the batch.
METHODS = {"simclr": "all", "moco": "cross", "moco-v3": "cross"}
#: Weight of the negative term by default. Where keys come from another network, all queries can
#: move opposite all keys. One score f'(1/alpha) for every pair then has a lower loss than features
#: that tell samples apart, if alpha is large: above 33 for KL. For any divergence the latter lead
#: most at alpha = 1/E[G], which is e^2 = 7.4 for uniform features and the default kernel.
ALPHAS = {"simclr": DEFAULTS.alpha, "moco": 8.0, "moco-v3": 8.0}
#: Frameworks that train, and by what: Lightning, Flax, Keras.
FRAMEWORKS = ("torch", "jax", "tensorflow")
KERAS_BACKENDS = ("tensorflow", "jax", "torch")
LOSSES = ("fmicl", "info-nce", "alignment-uniformity", "spectral")
#: Losses that can take all negatives from a queue.
QUEUE_LOSSES = ("fmicl", "info-nce")
OPTIMIZERS = ("sgd", "adamw", "lars")
PRECISIONS = ("32", "bf16")
DEVICES = ("auto", "cpu", "gpu")
AUGMENTATIONS = ("auto", *VIEWS)
#: Our own encoders, in every framework: convolutional ones, and vision transformers with the
#: number of their blocks.
CONVOLUTIONAL = ("resnet18", "smallconv")
VITS = {"vit-s6": 6, "vit-s12": 12}
#: Libraries whose encoders go by LIBRARY:NAME, with PyTorch.
ENCODER_LIBRARIES = ("timm", "torchvision")
PATCH_PROJECTIONS = ("frozen", "learned")
#: How MoCo's head ends; "batch" is a batch norm without scale and shift.
HEAD_NORMS = ("batch", "none")
#: Needs of options, see `option`.
_FMICL = {"loss": ("fmicl",)}
_MOCO = {"method": ("moco",)}
_PHOTO = {"augmentation": ("auto", "photo")}
#: The least value of whole numbers.
AT_LEAST = {
    "width": 1, "stem_stride": 1, "projection_hidden": 1, "projection_dim": 1, "patch_size": 1,
    "queue_size": 1, "bn_splits": 1, "epochs": 1, "devices": 1, "knn_k": 1, "warmup_epochs": 0,
    "knn_every": 0, "batch_size": 2, "image_size": 2, "limit": 2,
}  # fmt: skip


def _listed(by_method: Mapping[str, object]) -> str:
    return ", ".join(f"{value} for {method}" for method, value in by_method.items())


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


@dataclass(frozen=True)
class TrainSettings(Settings):
    """Settings of one training run; frozen, validated, and stored with the run.

    Raises:
        ValueError: an option is unknown or out of range; the message names it.
    """

    method: str = option("simclr", "Training method.", "Task", tuple(METHODS))
    framework: str = option(
        "torch",
        "Framework that trains: PyTorch by Lightning, JAX by Flax, TensorFlow by Keras.",
        "Task",
        FRAMEWORKS,
    )
    keras_backend: str = option(
        "tensorflow",
        "Backend of the Keras trainer, which --framework tensorflow chooses.",
        "Task",
        KERAS_BACKENDS,
        ({"framework": ("tensorflow",)},),
    )
    data: str = option(
        "digits",
        "digits (built in), cifar10, a hub name OWNER/NAME, an image folder (labels, if there are "
        "any, by one sub-folder per class), a folder of parquet files, or a parquet file.",
        "Data",
    )
    image_size: int | None = option(None, "Resize images to this many pixels a side.", "Data")
    limit: int | None = option(None, "Use at most this many training images.", "Data")
    image_column: str | None = option(
        None, "Column of the images; the first that holds images by default.", "Data"
    )
    label_column: str | None = option(
        None,
        "Column of the labels, or none; one with a usual name, such as label, by default.",
        "Data",
    )

    loss: str = option("fmicl", "Loss.", "Loss", LOSSES)
    divergence: str = option(
        DEFAULTS.divergence, "f-divergence.", "Loss", tuple(DIVERGENCES), (_FMICL,)
    )
    order: float = option(
        1.5,
        "Order of the Tsallis divergence.",
        "Loss",
        only=(_FMICL | {"divergence": ("tsallis",)},),
    )
    similarity: str = option(
        DEFAULTS.similarity, "Similarity.", "Loss", tuple(SIMILARITIES), (_FMICL,)
    )
    sigma2: float = option(
        0.5, "Variance of the Gaussian similarity; 0.5 is 1/(2s^2) = 1.", "Loss",
        only=(_FMICL | {"similarity": ("gaussian",)},),
    )  # fmt: skip
    mu: float = option(
        1.0, "Height of the kernel.", "Loss",
        only=(_FMICL | {"similarity": tuple(n for n in SIMILARITIES if n != "cosine")},),
    )  # fmt: skip
    scale: float = option(
        1.0, "Scale of the Laplace and Cauchy kernels.", "Loss",
        only=(_FMICL | {"similarity": ("laplace", "cauchy")},),
    )  # fmt: skip
    temperature: float = option(
        RELATED_DEFAULTS.temperature, "Temperature of InfoNCE and of the cosine.", "Loss",
        only=({"loss": ("info-nce",)}, _FMICL | {"similarity": ("cosine",)}),
    )  # fmt: skip
    alpha: float | None = option(
        None,
        "Weight of the negative term; the method's own by default: " + _listed(ALPHAS) + ".",
        "Loss",
        only=(_FMICL,),
    )
    negatives: str | None = option(
        None,
        "Which pairs are negatives; the method's own by default: " + _listed(METHODS) + ".",
        "Loss",
        tuple(NEGATIVES),
        ({"loss": QUEUE_LOSSES},),
    )

    encoder: str = option(
        "resnet18",
        "resnet18 (small-image stem), smallconv, vit-s6 or vit-s12 (ViT-S of 6 or 12 blocks); with "
        "PyTorch also timm:NAME or torchvision:NAME.",
        "Model",
    )
    width: int = option(
        64,
        "Channels of the encoder's first stage; of a ViT, per head (6 heads).",
        "Model",
        only=({"encoder": (*CONVOLUTIONAL, *VITS)},),
    )
    patch_size: int = option(
        4, "Pixels a side of a ViT's patches.", "Model", only=({"encoder": tuple(VITS)},)
    )
    patch_projection: str = option(
        "frozen", "Whether MoCo v3 trains a ViT's patch projection.", "Model", PATCH_PROJECTIONS,
        ({"method": ("moco-v3",), "encoder": tuple(VITS)},),
    )  # fmt: skip
    stem_stride: int = option(
        1, "Stride of the first convolution; 2 costs a quarter.", "Model",
        only=({"encoder": CONVOLUTIONAL},),
    )  # fmt: skip
    projection_hidden: int = option(512, "Width of the projection head's hidden layers.", "Model")
    projection_dim: int = option(512, "Width d of the features the loss sees.", "Model")
    queue_size: int = option(4096, "Keys in MoCo's queue.", "Model", only=(_MOCO,))
    ema: float = option(
        0.99, "Momentum of the key encoder in [0, 1); MoCo v3 raises it to 1 by a cosine.", "Model",
        only=({"method": ("moco", "moco-v3")},),
    )  # fmt: skip
    bn_splits: int = option(
        4, "Parts of a batch with statistics of their own in MoCo; keys are shuffled.", "Model",
        only=(_MOCO,),
    )  # fmt: skip
    head_norm: str = option(
        "batch",
        "End of MoCo's head: a batch norm, without which f-MICL and a queue run away from each "
        "other, or none, as in MoCo v2 with InfoNCE.",
        "Model",
        HEAD_NORMS,
        (_MOCO,),
    )

    augmentation: str = option(
        "auto",
        "Random views. photo: crop, flip, colour jitter and grey scale, for pictures of any kind, "
        "grey ones, too; digits: small turns, shifts and noise, for handwritten characters alone, "
        "which a flip or a crop would make others; auto: digits for the data set digits, photo "
        "for all else.",
        "Augmentation",
        AUGMENTATIONS,
    )
    crop_scale: float = option(
        PHOTO.crop_scale, "Least share of the area that photo's random crop keeps, in (0, 1].",
        "Augmentation", only=(_PHOTO,),
    )  # fmt: skip
    jitter: float = option(
        PHOTO.jitter,
        "Strength s of photo's colour jitter in [0, 1]: brightness, contrast and saturation by up "
        "to 0.8 s, hue by up to 0.2 s of a turn; without colour the first two alone.",
        "Augmentation",
        only=(_PHOTO,),
    )
    blur: float = option(
        PHOTO.blur, "Probability of photo's Gaussian blur; SimCLR has 0.5 for ImageNet.",
        "Augmentation", only=(_PHOTO,),
    )  # fmt: skip
    grayscale: float = option(
        PHOTO.grayscale, "Probability of grey in the place of photo's colours.",
        "Augmentation", only=(_PHOTO,),
    )  # fmt: skip
    flip: float = option(
        PHOTO.flip, "Probability of photo's mirror image, left to right.",
        "Augmentation", only=(_PHOTO,),
    )  # fmt: skip

    optimizer: str = option("sgd", "Optimiser.", "Training", OPTIMIZERS)
    lr: float = option(0.1, "Peak learning rate.", "Training")
    momentum: float = option(
        0.9, "Momentum of SGD and LARS.", "Training", only=({"optimizer": ("sgd", "lars")},)
    )
    weight_decay: float = option(5e-4, "Weight decay; none on norms and biases.", "Training")
    warmup_epochs: int = option(0, "Epochs of linear warm-up before the cosine.", "Training")
    batch_size: int = option(512, "Samples per step on all devices together, N.", "Training")
    epochs: int = option(200, "Passes over the training images.", "Training")
    seed: int = option(0, "Seed of weights, order and augmentation.", "Training")
    precision: str = option("32", "Arithmetic of the encoder.", "Training", PRECISIONS)
    device: str = option("auto", "Where to train.", "Training", DEVICES)
    devices: int = option(1, "Devices to train on, by the framework's own engine.", "Training")
    knn_k: int | None = option(
        None,
        "Neighbours of the kNN evaluation; by default the square root of the number of training "
        "images, at most 200.",
        "Evaluation",
    )
    knn_every: int = option(0, "Epochs between kNN scores while training; 0: none.", "Evaluation")

    def __post_init__(self) -> None:
        self.check_choices()
        object.__setattr__(self, "augmentation", chosen_augmentation(self.augmentation, self.data))
        check_encoder(self.encoder, self.framework)
        self.check_effects()
        for name, by_method in (("negatives", METHODS), ("alpha", ALPHAS)):
            if getattr(self, name) is None and self.applies(name):
                object.__setattr__(self, name, by_method[self.method])
        self._check_numbers()
        if self.batch_size % self.devices:
            raise invalid("batch_size", f"a multiple of devices = {self.devices}", self.batch_size)
        if self.method == "moco":
            self._check_moco()
        if self.warmup_epochs >= self.epochs:
            raise invalid("warmup_epochs", f"fewer than epochs = {self.epochs}", self.warmup_epochs)
        if self.loss == "fmicl":
            self.objective()

    def _check_numbers(self) -> None:
        for name, low in AT_LEAST.items():
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), low)
        check_seed(self.seed)
        for name in ("lr", "temperature", "alpha"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        for name in ("momentum", "weight_decay"):
            if check_number(name, getattr(self, name)) < 0:
                raise invalid(name, "a finite number >= 0", getattr(self, name))
        if not 0.0 <= check_number("ema", self.ema) < 1.0:
            raise invalid("ema", "a number in [0, 1)", self.ema)
        if self.augmentation == "photo":
            self.photo().checked().differing()

    def photo(self) -> Photo:
        """The strengths of the augmentation "photo"."""
        return Photo(*(getattr(self, name) for name in Photo._fields))

    def _check_moco(self) -> None:
        if self.loss not in QUEUE_LOSSES:
            names = " or ".join(repr(name) for name in QUEUE_LOSSES)
            raise invalid("loss", f"{names} for MoCo", self.loss, why="Others know no queue.")
        if self.negatives != METHODS["moco"]:
            raise invalid("negatives", "to be left out for MoCo", self.negatives,
                          why="Its negatives are the keys in the queue.")  # fmt: skip
        if self.batch_size // self.bn_splits < 2:
            raise invalid("bn_splits", "at least two samples in every part", self.bn_splits,
                          why=f"batch_size = {self.batch_size}.")  # fmt: skip
