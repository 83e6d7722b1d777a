"""`Trainer`: what every method in every framework can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from fmicl_core.checks import invalid
from fmicl_recipes.data import AnyImages, ImageData, Images, StoredImages
from fmicl_recipes.machines import find_process
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.sphere import Features
from fmicl_recipes.stopping import NonFiniteLossError
from fmicl_recipes.weights.layouts import Weights, from_native, to_native
from fmicl_recipes.weights.networks import Architecture, method_arrays

__all__ = ["NonFiniteLossError", "Trainer", "check_fits"]


def check_fits(images: Images | StoredImages, free: int | None) -> None:
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


def settled(settings: TrainSettings, data: ImageData) -> TrainSettings:
    """The settings with the cache that the images of a run are in, in the place of "auto".

    Raises:
        ValueError: images are to be in memory, and were left in their files, or the reverse.
    """
    stored = isinstance(data.train_images, StoredImages)
    if settings.cache == "auto":
        return replace(settings, cache="disk" if stored else "memory")
    if stored != (settings.cache == "disk"):
        where = "'disk' for images in their files" if stored else "'memory' or 'gpu' for arrays"
        raise invalid("cache", where, settings.cache)
    return settings


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

    @classmethod  # noqa: B027
    def join(cls, settings: TrainSettings) -> None:
        """Join the other processes of a run on several machines, before anything is computed."""

    def __init__(self, settings: TrainSettings, data: ImageData) -> None:
        self.settings, self.data = settled(settings, data), data
        #: This process among those of the run.
        self.process = find_process(settings)
        #: Whether the run has been asked to write a checkpoint and stop, see `sigterm`.
        self.stop: Callable[[], bool] = lambda: False
        #: Numbers (N,) that are equal for training images of one class; None unless `supervised`.
        self.ids = data.class_ids() if settings.supervised else None
        #: A row an epoch, made by `epoch_row`.
        self.history: list[dict[str, float]] = []
        #: Seconds of training, over all the sittings of the run.
        self.seconds = 0.0

    @abstractmethod
    def fit(self, folder: RunFolder, *, resume: bool, progress: bool) -> None:
        """Train to the end; after every epoch write `folder.checkpoint` and the history.

        A checkpoint is also written after every `settings.checkpoint_every` steps, and where
        `stop()` says so. Of several processes the first one writes, and all can read.

        Args:
            folder: folder of the run.
            resume: whether to go on from the checkpoint in the folder, if there is one, exactly as
                if the run had not stopped, in the middle of an epoch, too.
            progress: whether to show a progress bar.

        Raises:
            NonFiniteLossError: training diverged.
            Preempted: `stop()` said so, and a checkpoint is written.
            NotSaved: a checkpoint could not be written; the last one is as it was.
            ProcessLost: another process of the run has ended.
        """

    @abstractmethod
    def load(self, folder: RunFolder) -> None:
        """Take weights, history and seconds from the folder's checkpoint."""

    @abstractmethod
    def arrays(self) -> Weights:
        """Copies of all arrays of the method, by the framework's names, parts joined by dots."""

    @abstractmethod
    def set_arrays(self, arrays: Weights) -> None:
        """Give the method arrays that `arrays` named; others stay.

        Raises:
            ValueError: an array is not known, or of another shape.
        """

    @property
    def architecture(self) -> Architecture:
        """The encoder of the run."""
        return Architecture.of(self.settings, self.data.train_images.shape[3])

    def weights(self) -> Weights:
        """All arrays of the method by canonical name; of a library's encoder alone, by its own."""
        if not self.architecture.ours:
            return {k: v for k, v in self.arrays().items() if k.startswith("encoder.")}
        entries = method_arrays(self.settings, self.architecture)
        return from_native(self.arrays(), entries, self.framework)

    def set_weights(self, weights: Weights) -> None:
        """Take arrays by the names that `weights` gives, of any framework.

        Raises:
            ValueError: an array is missing, or of another shape.
        """
        if self.architecture.ours:
            entries = method_arrays(self.settings, self.architecture)
            weights = to_native(weights, entries, self.framework)
        self.set_arrays(weights)

    @abstractmethod
    def encode(self, images: AnyImages) -> Features:
        """Encoder features (N, F) float32 of uint8 images (N, H, W, C), without augmentation.

        `StoredImages` are decoded part by part.
        """

    @abstractmethod
    def project(self, images: AnyImages) -> tuple[Features, Features]:
        """Projections (N, d) of two random views of uint8 images, drawn by `settings.seed`.

        The images are (N, H, W, C), or (N, 2, H, W, C), two random crops of each, where
        `settings.crops_when_read`.
        """
