"""The trainer of `fmicl train --framework torch`, by Lightning."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.multiprocessing.spawn import ProcessRaisedException

from fmicl_core.checks import InvalidArgument
from fmicl_lightning.batches import ImageBatches, SharedData, loader
from fmicl_lightning.build import build_method
from fmicl_lightning.callbacks import CachedImages, RunClock, checkpointing, quiet
from fmicl_lightning.checkpoints import AtomicCheckpoints, read_checkpoint
from fmicl_lightning.devices import best_device, check_devices, free_memory
from fmicl_lightning.encoders import check_library_encoder
from fmicl_lightning.loading import load_weights
from fmicl_lightning.method import Method
from fmicl_recipes.board import without_tensorflow
from fmicl_recipes.chunks import CHUNK
from fmicl_recipes.data import ImageData, Images, StoredImages
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.sphere import Features
from fmicl_recipes.trainer import NonFiniteLossError, Trainer, check_fits


class MethodTrainer(Trainer):
    """The trainer of a method in PyTorch; `module` is the LightningModule."""

    framework = "torch"

    @classmethod
    def check(cls, settings: TrainSettings) -> None:
        """Check that there are such devices and such an encoder, see `Trainer.check`."""
        check_devices(settings)
        check_library_encoder(settings.encoder)

    def __init__(self, settings: TrainSettings, data: ImageData) -> None:
        super().__init__(settings, data)
        check_devices(settings)
        self.cached = settings.cache == "gpu"
        if self.cached:
            check_fits(data.train_images, free_memory(settings))
        self.module = build_method(settings, data.train_images.shape[1:])

    def fit(self, folder: RunFolder, *, resume: bool, progress: bool) -> None:
        """Train to the end, see `Trainer.fit`."""
        settings = self.settings
        several = settings.devices > 1
        if several and not isinstance(self.data, SharedData):
            self.data = SharedData(**vars(self.data))
        on_gpu, cached = settings.device != "cpu" and torch.cuda.is_available(), self.cached
        images, pinned = ImageBatches(self.data, self.ids), on_gpu and not cached
        batches = loader(images, settings.batch_size, settings.seed, pinned=pinned)
        clock = RunClock(self, folder, len(batches) * settings.batch_size, progress)
        cache = [CachedImages(images)] if cached else []
        without_tensorflow()
        with quiet(), _as_they_were_raised():
            trainer = lightning.Trainer(
                max_epochs=settings.epochs,
                accelerator=settings.device,
                devices=settings.devices,
                # Not by starting the command again, which would find the run folder taken.
                strategy="ddp_spawn" if several else "auto",
                use_distributed_sampler=False,
                # MoCo keeps the statistics of its parts apart on purpose.
                sync_batchnorm=several and on_gpu and settings.method != "moco",
                precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
                plugins=[AtomicCheckpoints()],
                logger=TensorBoardLogger(folder.path, name="", version="tensorboard"),
                callbacks=[clock, *cache, checkpointing(folder)],
                enable_progress_bar=False,
                enable_model_summary=False,
                log_every_n_steps=1,
            )
            ready = resume and folder.checkpoint.exists()
            trainer.fit(self.module, batches, weights_only=True,
                        ckpt_path=str(folder.checkpoint) if ready else None)  # fmt: skip
        self.history, self.seconds = self.module.history, clock.seconds
        if several:
            self.load(folder)  # what the other processes learned

    def load(self, folder: RunFolder) -> None:
        """Take weights, history and seconds from the folder's checkpoint."""
        checkpoint = read_checkpoint(folder.checkpoint)
        load_weights(self.module, checkpoint["state_dict"], folder.checkpoint)
        self.history = list(checkpoint["history"])
        self.seconds = checkpoint["callbacks"]["RunClock"]["seconds"]

    @torch.inference_mode()
    def encode(self, images: Images | StoredImages) -> Features:
        """Encoder features (N, F) float32 of uint8 images (N, H, W, C), without augmentation."""
        with _evaluating(self.module, self.settings):
            rows = [self.module(chunk).float() for chunk in self._chunks(images)]
        features: Features = torch.cat(rows).cpu().numpy()
        return features

    @torch.inference_mode()
    def project(self, images: Images) -> tuple[Features, Features]:
        """Projections (N, d) of two random views of uint8 images, drawn by `settings.seed`."""
        torch.manual_seed(self.settings.seed)
        with _evaluating(self.module, self.settings):
            pairs = [self.module.project(chunk) for chunk in self._chunks(images)]
        x, y = (torch.cat(side).float().cpu().numpy() for side in zip(*pairs, strict=True))
        return x, y

    def _chunks(self, images: Images) -> Iterator[torch.Tensor]:
        for chunk in torch.from_numpy(images).split(CHUNK):
            yield chunk.to(self.module.device, non_blocking=True)


@contextmanager
def _as_they_were_raised() -> Iterator[None]:
    """Raise errors as they were before Lightning changed them.

    It turns a KeyboardInterrupt into a SystemExit, after which the process would not hear another
    Ctrl-C, and an error of ours in another process into a text.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as leaving:
        if not isinstance(leaving.__context__, KeyboardInterrupt):
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from leaving
    except ProcessRaisedException as error:
        name, _, message = str(error).strip().splitlines()[-1].partition(": ")
        for kind in (NonFiniteLossError, InvalidArgument):
            if name == f"{kind.__module__}.{kind.__name__}":
                raise kind(message) from error
        raise


@contextmanager
def _evaluating(module: Method, settings: TrainSettings) -> Iterator[None]:
    """Let norms use their running statistics within the block, on the device that trains.

    Where Lightning has taken the module off it after training, it comes back. Not yet run on a GPU.
    """
    mode = module.training
    module.eval()
    if module.device.type == "cpu" and settings.device != "cpu":
        module.to(best_device())
    try:
        yield
    finally:
        module.train(mode)
