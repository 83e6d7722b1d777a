"""Features of a trained module, their scores, and what a run folder keeps of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fmicl_core.checks import invalid
from fmicl_lightning.build import build_simclr
from fmicl_lightning.simclr import SimCLR
from fmicl_recipes import compare, evaluation, report
from fmicl_recipes.data import ImageData, Images, load_images
from fmicl_recipes.run_folder import RunFolder, write_atomically
from fmicl_recipes.settings import TrainSettings


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
    torch.manual_seed(settings.seed)
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
