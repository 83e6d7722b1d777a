"""From settings to a trained, evaluated run folder."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from tqdm.auto import tqdm

from fmicl_core.checks import invalid
from fmicl_lightning.augment import build_augmentation
from fmicl_lightning.batches import loader
from fmicl_lightning.encoders import build_encoder, feature_width
from fmicl_lightning.simclr import Loss, SimCLR
from fmicl_recipes import compare, evaluation, report
from fmicl_recipes.data import ImageData, Images, load_images
from fmicl_recipes.run_folder import RunFolder, write_atomically
from fmicl_recipes.settings import TrainSettings
from fmicl_torch import (
    FMICLLoss,
    alignment_uniformity_loss,
    info_nce_loss,
    spectral_contrastive_loss,
)


def build_loss(settings: TrainSettings) -> Loss:
    """The loss the settings name; the trainer itself watches for NaN."""
    if settings.loss == "fmicl":
        o = settings.objective()
        return FMICLLoss(
            divergence=o.divergence, similarity=o.similarity, alpha=o.alpha,
            negatives=o.negatives, normalize=o.normalize, check_finite=False,
        )  # fmt: skip
    if settings.loss == "info-nce":
        return partial(
            info_nce_loss, temperature=settings.temperature, negatives=settings.negatives
        )
    if settings.loss == "alignment-uniformity":
        return alignment_uniformity_loss
    return spectral_contrastive_loss


def build_simclr(settings: TrainSettings, image_shape: tuple[int, int, int]) -> SimCLR:
    """The untrained method; equal settings and seed give equal weights.

    Args:
        settings: of the run.
        image_shape: (H, W, C).
    """
    height, width, channels = image_shape
    lightning.seed_everything(settings.seed, verbose=False)
    encoder = build_encoder(settings.encoder, channels, settings.width, settings.stem_stride)
    names = (
        "projection_hidden", "projection_dim", "optimizer", "lr", "momentum", "weight_decay",
        "warmup_epochs", "seed",
    )  # fmt: skip
    return SimCLR(
        encoder,
        feature_width(encoder, (channels, height, width)),
        build_loss(settings),
        build_augmentation(settings.augmentation, (height, width)),
        **{name: getattr(settings, name) for name in names},
    ).to(memory_format=torch.channels_last)


def train_simclr(
    settings: TrainSettings,
    out: str | Path,
    *,
    resume: bool = False,
    baselines: bool = False,
    progress: bool = True,
    data: ImageData | None = None,
) -> dict[str, Any]:
    """Train and evaluate; everything lands in the folder `out`.

    Args:
        settings: of the run.
        out: folder of the run, which must not exist unless `resume`.
        resume: continue the run in `out` after its last complete epoch; on a CPU the final weights
            are bit for bit those of a run that was never interrupted.
        baselines: score raw pixels and the untrained encoder, too.
        progress: show progress bars.
        data: images loaded before; None loads `settings.data`.

    Returns:
        What metrics.json holds.

    Raises:
        ValueError: settings, data or folder do not fit; the message says what.
        NonFiniteLossError: training diverged.
    """
    folder = RunFolder.resume(out, settings) if resume else None
    if data is None:
        data = load_images(
            settings.data, image_size=settings.image_size, limit=settings.limit,
            seed=settings.seed, progress=progress,
        )  # fmt: skip
    batches = loader(data.train_images, settings.batch_size, settings.seed)
    module = build_simclr(settings, data.train_images.shape[1:])
    folder = folder or RunFolder.create(out, settings)
    before = baseline_scores(settings, module, data) if baselines else {}

    clock = RunClock(folder, len(batches) * settings.batch_size)
    callbacks: list[Callback] = [clock]
    if progress:
        callbacks.append(Progress(settings.title, settings.epochs))
    callbacks.append(checkpointing(folder))
    with quiet():
        trainer = lightning.Trainer(
            max_epochs=settings.epochs,
            accelerator=settings.device,
            devices=1,
            precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
            plugins=[AtomicCheckpoints()],
            logger=TensorBoardLogger(folder.path, name="", version="tensorboard"),
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
        ready = resume and folder.checkpoint.exists()
        trainer.fit(module, batches, ckpt_path=str(folder.checkpoint) if ready else None,
                    weights_only=False)  # fmt: skip
    return finish(settings, folder, module, data, clock.seconds, before)


def finish(
    settings: TrainSettings,
    folder: RunFolder,
    module: SimCLR,
    data: ImageData,
    seconds: float,
    before: dict[str, dict[str, float]],
) -> dict[str, Any]:
    """Evaluate a trained module and write metrics, embeddings and plots of the run."""
    features, scores = score(settings, module, data)
    metrics = report.assemble_metrics(settings, module.history, scores, seconds, before)
    write_atomically(folder.path / "embeddings.npz", lambda file: np.savez(file, **features))
    folder.write_json("metrics.json", metrics)
    compare.draw(folder.plots, {settings.title: metrics}, {settings.title: features})
    return metrics


def evaluate_run(folder: RunFolder) -> dict[str, Any]:
    """Evaluate the last checkpoint of a run again; rewrites metrics, embeddings and plots.

    Raises:
        ValueError: the folder holds no checkpoint.
    """
    settings = folder.settings()
    if not folder.checkpoint.exists():
        raise invalid("run", f"a run folder with {folder.checkpoint.name}", str(folder.path))
    data = load_images(
        settings.data, image_size=settings.image_size, limit=settings.limit, seed=settings.seed
    )
    module = build_simclr(settings, data.train_images.shape[1:])
    checkpoint = torch.load(folder.checkpoint, map_location="cpu", weights_only=False)
    module.load_state_dict(checkpoint["state_dict"])
    module.on_load_checkpoint(checkpoint)
    seconds = checkpoint["callbacks"]["RunClock"]["seconds"]
    known = (folder.path / "metrics.json").exists()
    before = folder.read_json("metrics.json")["baselines"] if known else {}
    return finish(settings, folder, module, data, seconds, before)


def score(
    settings: TrainSettings, module: SimCLR, data: ImageData
) -> tuple[dict[str, Any], dict[str, float]]:
    """Features and scores of a module: accuracies on the encoder's features, alignment, uniformity
    and rank on the projections of two random views of test images.
    """
    labels, test_labels = data.require_labels()
    train, test = encode(module, data.train_images), encode(module, data.test_images)
    scores = evaluation.evaluate_features(
        train, labels, test, test_labels, k=settings.knn_k, seed=settings.seed
    )
    lightning.seed_everything(settings.seed, verbose=False)
    x, y = project(module, data.test_images[: evaluation.PAIR_ROWS])
    scores |= spread(x, y)
    return {"test": test, "test_labels": test_labels, "view_x": x, "view_y": y}, scores


def spread(x: Any, y: Any) -> dict[str, float]:
    """Alignment, uniformity and rank of two views (N, d)."""
    return {
        "alignment": evaluation.alignment(x, y),
        "uniformity": evaluation.uniformity(x),
        "embedding_rank": evaluation.embedding_rank(x),
    }


def baseline_scores(
    settings: TrainSettings, module: SimCLR, data: ImageData
) -> dict[str, dict[str, float]]:
    """Scores of raw pixels and of the untrained encoder."""
    labels, test_labels = data.require_labels()
    pixels, test_pixels = (
        images.reshape(len(images), -1).astype(np.float32) / 255.0
        for images in (data.train_images, data.test_images)
    )
    raw = evaluation.evaluate_features(
        pixels, labels, test_pixels, test_labels, k=settings.knn_k, seed=settings.seed
    )
    _, untrained = score(settings, module, data)
    return {"raw pixels": raw, "random encoder": untrained}


@torch.inference_mode()
def encode(module: SimCLR, images: Images, batch: int = 500) -> Any:
    """Encoder features (N, F) float32 of uint8 images (N, H, W, C), without augmentation."""
    module.eval()
    chunks = torch.from_numpy(images).split(batch)
    rows = [module(chunk.to(module.device)).float().cpu() for chunk in chunks]
    module.train()
    return torch.cat(rows).numpy()


@torch.inference_mode()
def project(module: SimCLR, images: Images, batch: int = 500) -> tuple[Any, Any]:
    """Projections (N, d) of two random views of uint8 images (N, H, W, C)."""
    module.eval()
    chunks = torch.from_numpy(images).split(batch)
    pairs = [module.two_views(chunk.to(module.device)) for chunk in chunks]
    module.train()
    x, y = (torch.cat(side).float().cpu().numpy() for side in zip(*pairs, strict=True))
    return x, y


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written whole or not at all."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        """Write beside `path`, then replace it."""
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))


def checkpointing(folder: RunFolder) -> ModelCheckpoint:
    """One checkpoint, replaced after every epoch."""
    return ModelCheckpoint(
        dirpath=folder.path,
        filename=folder.checkpoint.stem,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


class RunClock(Callback):
    """Seconds of training, over all the sittings of a run, and history.csv after every epoch."""

    def __init__(self, folder: RunFolder, images_per_epoch: int) -> None:
        self.folder, self.images = folder, images_per_epoch
        self.seconds = 0.0

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the epoch's clock."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Add the epoch."""
        elapsed = time.perf_counter() - self.start
        self.seconds += elapsed
        pl_module.log("images_per_second", self.images / elapsed)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        """The history file follows the checkpoint."""
        self.folder.write_history(pl_module.history)

    def state_dict(self) -> dict[str, Any]:
        """Seconds so far, for the checkpoint."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Seconds so far, from the checkpoint."""
        self.seconds = state_dict["seconds"]


class Progress(Callback):
    """One bar for the whole run."""

    def __init__(self, title: str, epochs: int) -> None:
        self.title, self.epochs = title, epochs

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the bar, at the resumed step if there is one."""
        total = int(trainer.estimated_stepping_batches)
        self.bar = tqdm(total=total, initial=trainer.global_step, desc=self.title, unit="step")

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance by one step."""
        self.bar.set_postfix(
            epoch=f"{trainer.current_epoch + 1}/{self.epochs}",
            loss=f"{outputs['loss'].item():.4f}",
            refresh=False,
        )
        self.bar.update()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Close the bar."""
        if hasattr(self, "bar"):
            self.bar.close()


@contextmanager
def quiet() -> Iterator[None]:
    """Leave Lightning's advice out: workers, tips, devices."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        yield
