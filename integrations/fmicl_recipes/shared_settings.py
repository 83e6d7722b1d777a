"""SharedSettings: what runs on images and on texts have in common, the loss and the training."""

from __future__ import annotations

from dataclasses import dataclass

from fmicl_core import DIVERGENCES, FMICL, SIMILARITIES, get_divergence, get_similarity
from fmicl_core.checks import check_number, check_positive
from fmicl_core.objective import AUTO, DEFAULTS
from fmicl_core.pairs import NEGATIVES
from fmicl_core.related import RELATED_DEFAULTS
from fmicl_recipes.checks import at_least, check_alpha, check_not_negative, check_seed
from fmicl_recipes.options import Settings, option

PRECISIONS = ("32", "bf16")
DEVICES = ("auto", "cpu", "gpu")
#: What an option of f-MICL needs, see `option`.
FMICL_LOSS = {"loss": ("fmicl",)}
COSINE_LOSS = FMICL_LOSS | {"similarity": ("cosine",)}


@dataclass(frozen=True)
class SharedSettings(Settings):
    """Options of images and of texts; subclasses declare those again that differ."""

    data: str
    loss: str
    divergence: str = option(
        DEFAULTS.divergence, "f-divergence.", "Loss", DIVERGENCES, only=(FMICL_LOSS,)
    )
    order: float = option(
        1.5, "Order of the Tsallis divergence.", "Loss", check_number,
        only=(FMICL_LOSS | {"divergence": ("tsallis",)},),
    )  # fmt: skip
    similarity: str = option(
        DEFAULTS.similarity, "Similarity.", "Loss", SIMILARITIES, only=(FMICL_LOSS,)
    )
    sigma2: float = option(
        0.5, "Variance of the Gaussian similarity; 0.5 is 1/(2s^2) = 1.", "Loss", check_positive,
        only=(FMICL_LOSS | {"similarity": ("gaussian",)},),
    )  # fmt: skip
    mu: float = option(
        1.0, "Height of the kernel.", "Loss", check_positive,
        only=(FMICL_LOSS | {"similarity": tuple(n for n in SIMILARITIES if n != "cosine")},),
    )  # fmt: skip
    scale: float = option(
        1.0, "Scale of the Laplace and Cauchy kernels.", "Loss", check_positive,
        only=(FMICL_LOSS | {"similarity": ("laplace", "cauchy")},),
    )  # fmt: skip
    temperature: float = option(
        RELATED_DEFAULTS.temperature, "Temperature of InfoNCE and of the cosine.", "Loss",
        check_positive,
        only=({"loss": ("info-nce",)}, COSINE_LOSS),
    )  # fmt: skip
    alpha: float | str = option(
        AUTO,
        "Weight of the negative term; auto finds it from every batch: strength / mean of u over "
        "the negative pairs, with the ratio of densities u that the similarity stands for.",
        "Loss",
        check_alpha,
        only=(FMICL_LOSS,),
    )
    strength: float = option(
        DEFAULTS.strength,
        "Weight of the negative term with --alpha auto, in units that fit any data and kernel.",
        "Loss", check_positive,
        only=(FMICL_LOSS | {"alpha": (AUTO,)},),
    )  # fmt: skip
    negatives: str = option(
        DEFAULTS.negatives, "Which pairs are negatives.", "Loss", NEGATIVES,
        only=({"loss": ("fmicl", "info-nce")},),
    )  # fmt: skip

    lr: float = option(0.1, "Peak learning rate.", "Training", check_positive)
    weight_decay: float = option(
        5e-4, "Weight decay; none on norms and biases.", "Training", check_not_negative
    )
    batch_size: int = option(
        512, "Samples per step on all devices together, N.", "Training", at_least(2)
    )
    epochs: int = option(200, "Passes over the training images.", "Training", at_least(1))
    limit: int | None = option(None, "Use at most this many training images.", "Data", at_least(2))
    seed: int = option(0, "Seed of weights, order and augmentation.", "Training", check_seed)
    precision: str = option("32", "Arithmetic of the encoder.", "Training", PRECISIONS)
    device: str = option("auto", "Where to train.", "Training", DEVICES)

    def objective(self) -> FMICL:
        """The settings of the f-MICL loss."""
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
            strength=self.strength if self.alpha == AUTO else None,
        )

    @property
    def used_objective(self) -> FMICL | None:
        """The settings of the loss where it is f-MICL, else None."""
        return self.objective() if self.loss == "fmicl" else None

    @property
    def loss_title(self) -> str:
        """Short name of the loss."""
        return f"{self.divergence}-micl" if self.loss == "fmicl" else self.loss

    @property
    def title(self) -> str:
        """Short name of method and loss for tables and plots."""
        return f"{self.method} {self.loss_title}"
