"""TrainSettings: everything that determines a run on images, with each option's check and help.

The command line and the error messages are made from these fields, so that an option is written
down once.
"""

from __future__ import annotations

from dataclasses import dataclass

from fmicl_core.checks import check_bool, check_number, invalid
from fmicl_core.pairs import NEGATIVES, SINGLE
from fmicl_recipes.augmentation import PHOTO, STRENGTHS, Photo, chosen_augmentation
from fmicl_recipes.checks import at_least, check_not_negative, check_text, unit_interval
from fmicl_recipes.choices import (
    ALPHA_STRENGTHS,
    AUGMENTATIONS,
    CACHES,
    CONVOLUTIONAL,
    FRAMEWORKS,
    HEAD_NORMS,
    IMAGE_PRECISIONS,
    KERAS_BACKENDS,
    LARGEST_SIDE,
    LOSSES,
    METHODS,
    MOMENTUM_METHODS,
    OPTIMIZERS,
    PATCH_PROJECTIONS,
    QUEUE_LOSSES,
    SCHEMES,
    STEMS,
    VITS,
    check_encoder,
)
from fmicl_recipes.options import option
from fmicl_recipes.shared_settings import COSINE_LOSS, SharedSettings

#: What options need to have an effect, see `option`.
_PHOTO = {"augmentation": ("auto", "photo")}
_OWN_ENCODER = {"encoder": (*CONVOLUTIONAL, *VITS)}
_VIT = {"encoder": tuple(VITS)}


@dataclass(frozen=True)
class TrainSettings(SharedSettings):
    """Settings of one training run; frozen, validated, and stored with the run.

    Raises:
        ValueError: an option is unknown or out of range; the message names it.
    """

    method: str = option("simclr", "Training method.", "Task", METHODS)
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
        only=({"framework": ("tensorflow",)},),
    )
    data: str = option(
        "digits",
        "digits (built in), cifar10, a hub name OWNER/NAME, an image folder (labels, if there are "
        "any, by one sub-folder per class), or a file or folder of shards: parquet, arrow, tar.",
        "Data",
        check_text,
    )
    image_size: int | None = option(
        None, "Resize images to this many pixels a side.", "Data", at_least(2, LARGEST_SIDE)
    )
    image_column: str | None = option(
        None, "Column of the images; the first that holds images by default.", "Data", check_text
    )
    label_column: str | None = option(
        None,
        "Column of the labels, or none; one with a usual name, such as label, by default.",
        "Data",
        check_text,
    )

    skip_corrupt: bool = option(
        False,
        "Leave out images that cannot be decoded, and say how many, instead of refusing the data.",
        "Data",
        check_bool,
    )

    loss: str = option(
        "fmicl",
        "Loss. dcl: the decoupled contrastive loss, InfoNCE without the positive in its softmax; "
        "siglip: the sigmoid loss. MoCo takes fmicl, info-nce and dcl.",
        "Loss",
        LOSSES,
    )
    temperature: float = SharedSettings.changed(
        "temperature",
        help="Temperature of InfoNCE, dcl and siglip, and of the cosine.",
        only=({"loss": ("info-nce", "dcl", "siglip")}, COSINE_LOSS),
    )
    logit_bias: float | None = option(
        None,
        "Bias of siglip's logits, x . y / temperature + bias, which stays as it is. By default "
        "-log(N - 1) for batches of N images: each image's negatives then weigh as much as its "
        "positive where all are at right angles. SigLIP's own -10 is that for 22,000 images.",
        "Loss",
        check_number,
        methods=("simclr", "moco-v3"),
        only=({"loss": ("siglip",)},),
    )
    strength: float = SharedSettings.changed("strength", default=None, by_method=ALPHA_STRENGTHS)
    negatives: str = option(
        None, "Which pairs are negatives.", "Loss", NEGATIVES,
        methods=("simclr", "moco-v3"), only=({"loss": QUEUE_LOSSES},), by_method=SCHEMES,
    )  # fmt: skip
    views: int = option(
        2, "Random views of every image, each pair of them positive.", "Loss", at_least(2, 1024),
        methods=("simclr",), only=({"loss": QUEUE_LOSSES},),
    )  # fmt: skip
    supervised: bool = option(
        False, "Train with the labels: images of one class are positives of each other.", "Loss",
        check_bool, methods=("simclr", "moco"), only=({"loss": (*QUEUE_LOSSES, "siglip")},),
    )  # fmt: skip

    encoder: str = option(
        "resnet18",
        "resnet18 (small-image stem), resnet50 (ImageNet's stem), smallconv, vit-s6 or vit-s12 "
        "(ViT-S of 6 or 12 blocks); with PyTorch also timm:NAME or torchvision:NAME.",
        "Model",
        check_text,
    )
    width: int = option(
        64, "Channels of the encoder's first stage; of a ViT, per head (6 heads).", "Model",
        at_least(1), only=(_OWN_ENCODER,),
    )  # fmt: skip
    patch_size: int = option(
        4, "Pixels a side of a ViT's patches.", "Model", at_least(1), only=(_VIT,)
    )
    patch_projection: str = option(
        "frozen", "Whether MoCo v3 trains a ViT's patch projection.", "Model", PATCH_PROJECTIONS,
        methods=("moco-v3",), only=(_VIT,),
    )  # fmt: skip
    stem_stride: int = option(
        1, "Stride of the first convolution; 2 costs a quarter.", "Model", at_least(1),
        only=({"encoder": STEMS},),
    )  # fmt: skip
    init: str | None = option(
        None,
        "Folder of a run, of any framework, whose weights this one begins with: the encoder's and, "
        "of the same method, those of the networks beside it that have the same shapes.",
        "Model",
        check_text,
    )
    projection_hidden: int = option(
        512, "Width of the projection head's hidden layers.", "Model", at_least(1)
    )
    projection_dim: int = option(
        512, "Width d of the features the loss sees.", "Model", at_least(1)
    )
    queue_size: int = option(4096, "Keys in MoCo's queue.", "Model", at_least(1), methods=("moco",))
    ema: float = option(
        0.99, "Momentum of the key encoder in [0, 1); MoCo v3 raises it to 1 by a cosine.", "Model",
        unit_interval("[)"), methods=MOMENTUM_METHODS,
    )  # fmt: skip
    bn_splits: int = option(
        4, "Parts of a batch with statistics of their own in MoCo; keys are shuffled.", "Model",
        at_least(1), methods=("moco",),
    )  # fmt: skip
    head_norm: str = option(
        "batch",
        "End of MoCo's head: a batch norm, without which f-MICL and a queue run away from each "
        "other, or none, as in MoCo v2 with InfoNCE.",
        "Model",
        HEAD_NORMS,
        methods=("moco",),
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
        "Augmentation", STRENGTHS["crop_scale"], only=(_PHOTO,),
    )  # fmt: skip
    jitter: float = option(
        PHOTO.jitter,
        "Strength s of photo's colour jitter in [0, 1]: brightness, contrast and saturation by up "
        "to 0.8 s, hue by up to 0.2 s of a turn; without colour the first two alone.",
        "Augmentation",
        STRENGTHS["jitter"],
        only=(_PHOTO,),
    )
    blur: float = option(
        PHOTO.blur, "Probability of photo's Gaussian blur; SimCLR has 0.5 for ImageNet.",
        "Augmentation", STRENGTHS["blur"], only=(_PHOTO,),
    )  # fmt: skip
    grayscale: float = option(
        PHOTO.grayscale, "Probability of grey in the place of photo's colours.",
        "Augmentation", STRENGTHS["grayscale"], only=(_PHOTO,),
    )  # fmt: skip
    flip: float = option(
        PHOTO.flip, "Probability of photo's mirror image, left to right.",
        "Augmentation", STRENGTHS["flip"], only=(_PHOTO,),
    )  # fmt: skip

    optimizer: str = option("sgd", "Optimiser.", "Training", OPTIMIZERS)
    momentum: float = option(
        0.9, "Momentum of SGD and LARS.", "Training", check_not_negative,
        only=({"optimizer": ("sgd", "lars")},),
    )  # fmt: skip
    warmup_epochs: int = option(
        0, "Epochs of linear warm-up before the cosine.", "Training", at_least(0)
    )
    precision: str = option(
        SharedSettings.precision,
        "Arithmetic of the encoder; 64 is float64 for all weights and all arithmetic.",
        "Training",
        IMAGE_PRECISIONS,
    )
    devices: int = option(
        1,
        "Devices to train on, of each machine, by the framework's own engine.",
        "Training",
        at_least(1),
    )
    machines: int = option(
        1,
        "Machines to train on, each of which runs this command by a launcher; docs/machines.md "
        "says how.",
        "Training",
        at_least(1),
    )
    cache: str = option(
        "auto",
        "Where the images stay. memory: decoded, and every batch is sent to the device; gpu "
        "(PyTorch, JAX): decoded, on the device that trains, which then waits for nobody; disk: in "
        "their files, decoded and cropped by --workers when a batch needs them; auto: memory if "
        "they fit, else disk.",
        "Training",
        CACHES,
    )
    workers: int | None = option(
        None,
        "Processes that decode images beside the training, with --cache disk; by default one for "
        "every core but one, shared out among the processes of a machine. 0: none, the training "
        "process does it.",
        "Training",
        at_least(0, 1024),
    )
    checkpoint_every: int | None = option(
        None,
        "Steps between checkpoints, beside those at the end of every epoch.",
        "Training",
        at_least(1),
    )
    compile: bool = option(
        False,
        "Compile the training step by torch.compile, which takes a minute at the start. JAX's is "
        "always compiled.",
        "Training",
        check_bool,
        only=({"framework": ("torch",)},),
    )
    knn_k: int | None = option(
        None,
        "Neighbours of the kNN evaluation; by default the square root of the number of training "
        "images, at most 200.",
        "Evaluation",
        at_least(1),
    )
    knn_train: int = option(
        100_000,
        "Training images that kNN looks for neighbours among, drawn by the seed.",
        "Evaluation",
        at_least(2),
    )
    knn_every: int = option(
        0, "Epochs between kNN scores while training; 0: none.", "Evaluation", at_least(0)
    )

    def __post_init__(self) -> None:
        self.check_each()
        object.__setattr__(self, "augmentation", chosen_augmentation(self.augmentation, self.data))
        check_encoder(self.encoder, self.framework)
        self.check_effects()
        if self.augmentation == "photo":
            self.photo().check_views_differ()
        ranks = self.machines * self.devices
        if self.batch_size % ranks:
            several = "machines * devices" if self.machines > 1 else "devices"
            raise invalid("batch_size", f"a multiple of {several} = {ranks}", self.batch_size)
        if self.cache == "gpu" and self.framework == "tensorflow":
            raise invalid("cache", "auto, memory or disk with framework = 'tensorflow'", self.cache)
        if self.machines > 1 and self.framework == "tensorflow" != self.keras_backend:
            raise invalid("machines", f"1 with the {self.keras_backend} backend of Keras",
                          self.machines)  # fmt: skip
        if self.method == "moco":
            self._check_moco()
        if self.warmup_epochs >= self.epochs:
            raise invalid("warmup_epochs", f"fewer than epochs = {self.epochs}", self.warmup_epochs)
        if self.views > 2 and self.negatives not in SINGLE:
            schemes = " or ".join(repr(name) for name in SINGLE)
            raise invalid("negatives", f"{schemes} with views = {self.views}", self.negatives,
                          why="Others compare a first with a second view.")  # fmt: skip
        if self.loss == "fmicl":
            self.objective()

    def photo(self) -> Photo:
        """The strengths of the augmentation "photo"."""
        return Photo(*(getattr(self, name) for name in Photo._fields))

    @property
    def crops_when_read(self) -> bool:
        """Whether random crops are made of the originals as they are decoded, not on the device."""
        return self.cache == "disk" and self.augmentation == "photo" and self.crop_scale < 1.0

    def photo_on_device(self) -> Photo:
        """The strengths of what is left to the device of the augmentation "photo"."""
        photo = self.photo()
        return photo._replace(crop_scale=1.0) if self.crops_when_read else photo

    def _check_moco(self) -> None:
        if self.loss not in QUEUE_LOSSES:
            names = " or ".join(repr(name) for name in QUEUE_LOSSES)
            raise invalid("loss", f"{names} for MoCo", self.loss, why="Others know no queue.")
        if self.batch_size // self.bn_splits < 2:
            raise invalid("bn_splits", "at least two samples in every part", self.bn_splits,
                          why=f"batch_size = {self.batch_size}.")  # fmt: skip
