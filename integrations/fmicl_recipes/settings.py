"""TrainSettings: everything that determines a run, with each option's default, help and choices.

The command line and the error messages are made from these fields, so that an option is written
down once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from fmicl_core import DIVERGENCES, FMICL, SIMILARITIES, get_divergence, get_similarity
from fmicl_core.checks import check_at_least, check_choice, check_number, check_positive, invalid
from fmicl_core.objective import DEFAULTS, NEGATIVES
from fmicl_core.related import RELATED_DEFAULTS

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
AUGMENTATIONS = ("photo", "digits")
PATCH_PROJECTIONS = ("frozen", "learned")
#: How MoCo's head ends; "batch" is a batch norm without scale and shift.
HEAD_NORMS = ("batch", "none")
#: Options that decide where and how fast a run goes, but not what it computes.
NEUTRAL = ("device",)


def option(default: Any, help: str, group: str, choices: tuple[str, ...] = ()) -> Any:
    """A field with what the command line says about it."""
    return dataclasses.field(
        default=default, metadata={"help": help, "group": group, "choices": choices}
    )


def _listed(by_method: Mapping[str, object]) -> str:
    return ", ".join(f"{value} for {method}" for method, value in by_method.items())


def check_seed(value: Any) -> int:
    """Return `value` when it is a whole number in [0, 2^32), which every framework takes."""
    if check_at_least("seed", value, 0) >= 2**32:
        raise invalid("seed", "a whole number in [0, 2^32)", value)
    return int(value)


def recipe(name: str | None, recipes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The options of one of `recipes`, none for None.

    Raises:
        ValueError: the name is unknown; the message lists the names.
    """
    return {} if name is None else recipes[check_choice("preset", name, recipes)]


class Settings:
    """What every kind of settings can do; subclasses are frozen dataclasses of `option` fields."""

    def check_choices(self) -> None:
        """Check every option that has a list of choices, and that texts are texts."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.metadata["choices"]:
                check_choice(field.name, value, field.metadata["choices"])
            elif field.type == "str" and not isinstance(value, str):
                raise invalid(field.name, "a string", value)

    def objective(self) -> FMICL:
        """The f-MICL settings of this run."""
        tsallis = {"order": self.order} if self.divergence == "tsallis" else {}
        kernel = {
            "gaussian": {"sigma2": self.sigma2, "mu": self.mu},
            "cosine": {"temperature": self.temperature},
        }.get(self.similarity, {"scale": self.scale, "mu": self.mu})
        return FMICL(
            get_divergence(self.divergence, **tsallis),
            get_similarity(self.similarity, **kernel),
            self.alpha,
            self.negatives,
        )

    @property
    def title(self) -> str:
        """Short name of the loss for tables and plots."""
        if self.loss == "fmicl":
            return f"{self.divergence}-micl"
        return self.loss

    def to_dict(self) -> dict[str, Any]:
        """Plain values by option name."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Settings from plain values.

        Raises:
            ValueError: a name is unknown (the message lists the names) or a value does not fit.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            check_choice("option", name, names)
        return cls(**values)


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
    )
    data: str = option(
        "digits",
        "digits (built in), cifar10, a hub name OWNER/NAME, a folder of parquet files, an image "
        "folder with one sub-folder per class, or a parquet file.",
        "Task",
    )
    image_size: int | None = option(None, "Resize images to this many pixels a side.", "Task")
    limit: int | None = option(None, "Use at most this many training images.", "Task")

    loss: str = option("fmicl", "Loss.", "Loss", LOSSES)
    divergence: str = option(DEFAULTS.divergence, "f-divergence.", "Loss", tuple(DIVERGENCES))
    order: float = option(1.5, "Order of the Tsallis divergence.", "Loss")
    similarity: str = option(DEFAULTS.similarity, "Similarity.", "Loss", tuple(SIMILARITIES))
    sigma2: float = option(0.5, "Variance of the Gaussian similarity; 0.5 is 1/(2s^2) = 1.", "Loss")
    mu: float = option(1.0, "Height of the kernel.", "Loss")
    scale: float = option(1.0, "Scale of the Laplace and Cauchy kernels.", "Loss")
    temperature: float = option(
        RELATED_DEFAULTS.temperature, "Temperature of InfoNCE and of the cosine.", "Loss"
    )
    alpha: float | None = option(
        None,
        "Weight of the negative term; the method's own by default: " + _listed(ALPHAS) + ".",
        "Loss",
    )
    negatives: str | None = option(
        None,
        "Which pairs are negatives; the method's own by default: " + _listed(METHODS) + ".",
        "Loss",
        tuple(NEGATIVES),
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
    )
    patch_size: int = option(4, "Pixels a side of a ViT's patches.", "Model")
    patch_projection: str = option(
        "frozen", "Whether MoCo v3 trains a ViT's patch projection.", "Model", PATCH_PROJECTIONS
    )
    stem_stride: int = option(1, "Stride of the first convolution; 2 costs a quarter.", "Model")
    projection_hidden: int = option(512, "Width of the projection head's hidden layers.", "Model")
    projection_dim: int = option(512, "Width d of the features the loss sees.", "Model")
    augmentation: str = option("photo", "Augmentation.", "Model", AUGMENTATIONS)
    queue_size: int = option(4096, "Keys in MoCo's queue.", "Model")
    ema: float = option(
        0.99, "Momentum of the key encoder in [0, 1); MoCo v3 raises it to 1 by a cosine.", "Model"
    )
    bn_splits: int = option(
        4,
        "Parts of a batch with statistics of their own in MoCo; keys are shuffled.",
        "Model",
    )

    head_norm: str = option(
        "batch",
        "End of MoCo's head: a batch norm, without which f-MICL and a queue run away from each "
        "other, or none, as in MoCo v2 with InfoNCE.",
        "Model",
        HEAD_NORMS,
    )

    optimizer: str = option("sgd", "Optimiser.", "Training", OPTIMIZERS)
    lr: float = option(0.1, "Peak learning rate.", "Training")
    momentum: float = option(0.9, "Momentum of SGD.", "Training")
    weight_decay: float = option(5e-4, "Weight decay; none on norms and biases.", "Training")
    warmup_epochs: int = option(0, "Epochs of linear warm-up before the cosine.", "Training")
    batch_size: int = option(512, "Samples per step on all devices together, N.", "Training")
    epochs: int = option(200, "Passes over the training images.", "Training")
    seed: int = option(0, "Seed of weights, order and augmentation.", "Training")
    precision: str = option("32", "Arithmetic of the encoder.", "Training", PRECISIONS)
    device: str = option("auto", "Where to train.", "Training", DEVICES)
    devices: int = option(1, "Devices to train on, by the framework's own engine.", "Training")
    knn_k: int = option(200, "Neighbours of the kNN evaluation.", "Training")
    knn_every: int = option(0, "Epochs between kNN scores while training; 0: none.", "Training")

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        for name, by_method in (("negatives", METHODS), ("alpha", ALPHAS)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, by_method[self.method])
        self.check_choices()
        for name in (
            "width",
            "stem_stride",
            "projection_hidden",
            "projection_dim",
            "patch_size",
            "queue_size",
            "bn_splits",
            "epochs",
            "devices",
            "knn_k",
        ):
            check_at_least(name, getattr(self, name), 1)
        for name in ("warmup_epochs", "knn_every"):
            check_at_least(name, getattr(self, name), 0)
        check_seed(self.seed)
        check_at_least("batch_size", self.batch_size, 2)
        for name in ("image_size", "limit"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 2)
        for name in ("lr", "temperature", "alpha"):
            check_positive(name, getattr(self, name))
        for name in ("momentum", "weight_decay"):
            if check_number(name, getattr(self, name)) < 0:
                raise invalid(name, "a finite number >= 0", getattr(self, name))
        if not 0.0 <= check_number("ema", self.ema) < 1.0:
            raise invalid("ema", "a number in [0, 1)", self.ema)
        if self.batch_size % self.devices:
            raise invalid("batch_size", f"a multiple of devices = {self.devices}", self.batch_size)
        if self.method == "moco":
            self._check_moco()
        if self.framework != "tensorflow" and self.keras_backend != "tensorflow":
            raise invalid("keras_backend", "framework = 'tensorflow' beside it", self.keras_backend)
        if self.warmup_epochs >= self.epochs:
            raise invalid("warmup_epochs", f"fewer than epochs = {self.epochs}", self.warmup_epochs)
        if self.loss == "fmicl":
            self.objective()

    def _check_moco(self) -> None:
        if self.loss not in QUEUE_LOSSES:
            names = " or ".join(repr(name) for name in QUEUE_LOSSES)
            raise invalid("loss", f"{names} for MoCo", self.loss, why="Others know no queue.")
        if self.batch_size // self.bn_splits < 2:
            raise invalid("bn_splits", "at least two samples in every part", self.bn_splits,
                          why=f"batch_size = {self.batch_size}.")  # fmt: skip


def difference(a: Settings, b: Settings) -> dict[str, tuple[Any, Any]]:
    """Options that change the result and differ, with both values."""
    return changes(a.to_dict(), b.to_dict())


def changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Of two sets of plain values with equal names, what `difference` gives of settings."""
    return {n: (a[n], b[n]) for n in a if n not in NEUTRAL and a[n] != b[n]}
