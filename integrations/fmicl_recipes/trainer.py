"""`Trainer`: what every method in every framework can do; and the error of diverged training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from fmicl_core.checks import invalid
from fmicl_recipes.data import ImageData, Images
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.sphere import Features


class NonFiniteLossError(RuntimeError):
    """Training met a loss, a weight or features that are NaN or infinite."""

    @classmethod
    def at(cls, loss: float, step: int, epoch: int) -> NonFiniteLossError:
        """The error of a loss that is not finite at a step (from 0) of an epoch (from 1)."""
        return cls(
            f"The loss is {loss} at step {step} (epoch {epoch}). Try a smaller --lr, or --precision"
            " 32 if it is not."
        )

    @classmethod
    def weights(cls, step: int) -> NonFiniteLossError:
        """The error of a weight that is not finite after a step."""
        return cls(f"A weight is not finite after step {step}. Try a smaller --lr.")


def check_fits(images: Images, free: int | None) -> None:
    """Check that the images, and as much again to train with, fit on the device.

    Args:
        images: images (N, H, W, C) to be kept there.
        free: bytes of memory that are free there; None where the device does not say.

    Raises:
        ValueError: they do not.
    """
    if free is not None and 2 * images.nbytes > free:
        why = (f"The images take {images.nbytes / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are"
               " free on the device.")  # fmt: skip
        raise invalid("cache", "'memory' for images that take half of the device's free memory",
                      "gpu", why=why)  # fmt: skip


class Trainer(ABC):
    """One method in one framework, untrained until `fit` or `load`.

    Args:
        settings: options of the run; equal settings give equal weights.
        data: images of the run.

    Raises:
        ValueError: settings and data do not fit; raised before a run folder is made.
    """

    #: Package of the framework, for messages.
    framework: ClassVar[str]

    @classmethod  # noqa: B027
    def check(cls, settings: TrainSettings) -> None:
        """Check what can be checked before images are decoded: devices, encoders of libraries.

        Raises:
            ValueError: there is no such device, or no such encoder.
        """

    def __init__(self, settings: TrainSettings, data: ImageData) -> None:
        self.settings, self.data = settings, data
        #: Numbers (N,) that are equal for training images of one class; None unless `supervised`.
        self.ids = data.class_ids() if settings.supervised else None
        #: A row an epoch, made by `epoch_row`.
        self.history: list[dict[str, float]] = []
        #: Seconds of training, over all the sittings of the run.
        self.seconds = 0.0

    @abstractmethod
    def fit(self, folder: RunFolder, *, resume: bool, progress: bool) -> None:
        """Train to the end; after every epoch write `folder.checkpoint` and the history.

        Args:
            folder: folder of the run.
            resume: whether to go on from the checkpoint in the folder, if there is one, exactly as
                if the run had not stopped.
            progress: whether to show a progress bar.

        Raises:
            NonFiniteLossError: training diverged.
        """

    @abstractmethod
    def load(self, folder: RunFolder) -> None:
        """Take weights, history and seconds from the folder's checkpoint."""

    @abstractmethod
    def encode(self, images: Images) -> Features:
        """Encoder features (N, F) float32 of uint8 images (N, H, W, C), without augmentation."""

    @abstractmethod
    def project(self, images: Images) -> tuple[Features, Features]:
        """Projections (N, d) of two random views of uint8 images, drawn by `settings.seed`."""
