"""From settings to a trained, evaluated run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from fmicl_lightning.batches import loader
from fmicl_lightning.build import build_simclr
from fmicl_lightning.callbacks import AtomicCheckpoints, Progress, RunClock, checkpointing, quiet
from fmicl_lightning.evaluate import baseline_scores, finish
from fmicl_recipes.data import ImageData, load_images
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.settings import TrainSettings


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
