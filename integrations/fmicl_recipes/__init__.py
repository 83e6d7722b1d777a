"""What all trainers share: settings, presets, data sets, run folder, evaluation, plots."""

from fmicl_recipes.data import ImageData, load_images
from fmicl_recipes.evaluation import (
    alignment,
    embedding_rank,
    evaluate_features,
    knn_accuracy,
    linear_accuracy,
    uniformity,
)
from fmicl_recipes.presets import PRESETS, resolve
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.settings import TrainSettings

__all__ = [
    "PRESETS",
    "ImageData",
    "RunFolder",
    "TrainSettings",
    "alignment",
    "embedding_rank",
    "evaluate_features",
    "knn_accuracy",
    "linear_accuracy",
    "load_images",
    "resolve",
    "uniformity",
]
