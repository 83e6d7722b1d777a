"""The trainer of `fmicl train --framework torch`, by Lightning."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.loggers import TensorBoardLogger

from fmicl_lightning.batches import EpochBatches, SharedData
from fmicl_lightning.build import build_method
from fmicl_lightning.callbacks import RunClock, checkpointing, quiet
from fmicl_lightning.checkpoints import (
    AtomicCheckpoints,
    load_weights,
    read_checkpoint,
    read_state,
)
from fmicl_lightning.devices import best_device, check_devices, free_memory
from fmicl_lightning.encoders import check_library_encoder
from fmicl_lightning.loading import in_chunks
from fmicl_lightning.method import Method
from fmicl_lightning.processes import StopEverywhere, join_processes, others_may_end
from fmicl_lightning.weights import get_arrays, set_arrays
from fmicl_recipes.board import without_tensorflow
from fmicl_recipes.chunks import joined
from fmicl_recipes.data import AnyImages, ImageData
from fmicl_recipes.machines import find_process
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.sphere import Features
from fmicl_recipes.trainer import Trainer, check_fits
from fmicl_recipes.weights import Weights

#: Lightning's names of the precisions.
PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}


class MethodTrainer(Trainer):
    """The trainer of a method in PyTorch; `module` is the LightningModule.

    Args:
        settings: as for `Trainer`.
        data: as for `Trainer`.
    """

    framework = "torch"

    @classmethod
    def check(cls, settings: TrainSettings) -> None:
        """Check that there are such devices and such an encoder, see `Trainer.check`."""
        check_devices(settings)
        check_library_encoder(settings.encoder)

    @classmethod
    def join(cls, settings: TrainSettings) -> None:
        """Connect to the processes that torchrun started, see `Trainer.join`.

        Raises:
            ProcessLost: they do not come.
        """
        join_processes(settings, find_process(settings))

    def __init__(self, settings: TrainSettings, data: ImageData) -> None:
        super().__init__(settings, data)
        check_devices(settings)
        if self.settings.cache == "gpu":
            check_fits(data.train_images, free_memory(settings))
        self.module = build_method(self.settings, data.train_images.shape[1:])

    def fit(self, folder: RunFolder, *, resume: bool, progress: bool) -> None:
        """Train to the end, see `Trainer.fit`."""
        settings, launched = self.settings, self.process.count > 1
        several = launched or settings.devices > 1
        spawning = several and not launched
        if spawning and not isinstance(self.data, SharedData):
            self.data = SharedData(**vars(self.data))
        on_gpu = settings.device != "cpu" and torch.cuda.is_available()
        pinned = on_gpu and settings.cache != "gpu"
        batches = EpochBatches(self.data, settings, self.ids, pinned=pinned)
        clock = RunClock(self, folder, batches, progress)
        checkpoints = AtomicCheckpoints()
        plugins: list[Any] = [checkpoints]
        if launched:
            join_processes(settings, self.process)
            plugins.append(TorchElasticEnvironment())
        without_tensorflow()
        with (
            quiet(), _as_they_were_raised(), others_may_end(), self._stop_in(spawning),
            checkpoints.as_taken(),
        ):  # fmt: skip
            trainer = lightning.Trainer(
                max_epochs=settings.epochs,
                accelerator=settings.device,
                devices=settings.devices,
                num_nodes=settings.machines,
                # Not by starting the command again, which would find the run folder taken.
                strategy="ddp_spawn" if spawning else "ddp" if several else "auto",
                use_distributed_sampler=False,
                # MoCo keeps the statistics of its parts apart on purpose.
                sync_batchnorm=several and on_gpu and settings.method != "moco",
                precision=PRECISIONS[settings.precision],
                plugins=plugins,
                logger=TensorBoardLogger(folder.path, name="", version="tensorboard"),
                callbacks=[clock, checkpointing(folder)],
                enable_progress_bar=False,
                enable_model_summary=False,
                log_every_n_steps=1,
            )
            ready = resume and folder.checkpoint.exists()
            trainer.fit(self.module, batches, weights_only=True,
                        ckpt_path=str(folder.checkpoint) if ready else None)  # fmt: skip
        self.history, self.seconds = self.module.history, clock.seconds
        if spawning:
            self.load(folder)  # what the other processes learned

    @contextmanager
    def _stop_in(self, spawning: bool) -> Iterator[None]:
        """Let the processes that are started within the block know, too, when to stop."""
        if not spawning:
            yield
            return
        before = self.stop
        self.stop = everywhere = StopEverywhere(before)
        try:
            with everywhere.passed_on():
                yield
        finally:
            self.stop = before

    def load(self, folder: RunFolder) -> None:
        """Take weights, history and seconds from the folder's checkpoint."""
        checkpoint = read_checkpoint(folder.checkpoint)
        load_weights(self.module, checkpoint["state_dict"], folder.checkpoint)
        self.history, self.seconds, _ = read_state(checkpoint, folder.checkpoint)

    def arrays(self) -> Weights:
        """Copies of all arrays of the method, see `Trainer.arrays`."""
        return get_arrays(self.module)

    def set_arrays(self, arrays: Weights) -> None:
        """Give the method arrays by name, see `Trainer.set_arrays`."""
        set_arrays(self.module, arrays)

    @torch.inference_mode()
    def encode(self, images: AnyImages) -> Features:
        """Encoder features (N, F) float32 of uint8 images (N, H, W, C), without augmentation."""
        with _evaluating(self.module, self.settings):
            parts = (self.module(chunk).float().cpu().numpy() for chunk in self._chunks(images))
            return joined(parts, len(images))

    @torch.inference_mode()
    def project(self, images: AnyImages) -> tuple[Features, Features]:
        """Projections (N, d) of two random views, see `Trainer.project`."""
        torch.manual_seed(self.settings.seed)
        with _evaluating(self.module, self.settings):
            pairs = [self.module.project(chunk) for chunk in self._chunks(images)]
        x, y = (torch.cat(side).float().cpu().numpy() for side in zip(*pairs, strict=True))
        return x, y

    def _chunks(self, images: AnyImages) -> Iterator[torch.Tensor]:
        return in_chunks(images, self.module.device)


@contextmanager
def _as_they_were_raised() -> Iterator[None]:
    """Raise errors as they were before Lightning changed them.

    It turns a KeyboardInterrupt into a SystemExit, after which the process would not hear another
    Ctrl-C.
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
