"""The presets of the paper's other tables run, on stand-ins of the format of their data."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fmicl_recipes import TrainSettings, resolve

pyarrow = pytest.importorskip("pyarrow", reason="stand-ins are parquet files")
pytest.importorskip("typer", reason="the command needs typer")

ROOT = Path(__file__).resolve().parents[2]
#: Preset, method, pixels a side (None: of different sizes), and the splits of the hub's data set.
#: ImageNet's test images have the label -1.
PAPERS = {
    "paper-stl10": ("simclr", 96, {"train": 40, "test": 10}),
    "paper-tinyimagenet": ("simclr", 64, {"train": 40, "valid": 10}),
    "paper-imagenet": ("moco-v3", None, {"train": 40, "validation": 10, "test": 10}),
}
FRAMEWORKS = ("torch", "jax", "tensorflow")
CASES = [(preset, framework, "disk") for preset in PAPERS for framework in FRAMEWORKS]
CASES += [("paper-imagenet", "torch", "memory")]


def jpeg(rng, pixels):
    from PIL import Image

    size = (pixels, pixels) if pixels else tuple(rng.integers(200, 400, 2).tolist())
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def stand_in(folder, pixels, splits):
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    folder.mkdir()
    for split, count in splits.items():
        rows = [
            {"image": {"bytes": jpeg(rng, pixels), "path": f"{split}{number}.jpeg"},
             "label": -1 if split == "test" and "validation" in splits else number % 4}
            for number in range(count)
        ]  # fmt: skip
        for shard in range(2):
            file = folder / f"{split}-0000{shard}-of-00002.parquet"
            parquet.write_table(pyarrow.Table.from_pylist(rows[shard::2]), file)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "framework", "cache"), CASES)
def test_a_preset_trains_and_evaluates(tmp_path, preset, framework, cache):
    """Of the preset only batch, epochs, rate and widths of heads are smaller."""
    method, pixels, splits = PAPERS[preset]
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    data = stand_in(tmp_path / "data", pixels, splits)
    done = subprocess.run(
        [sys.executable, "-m", "fmicl_cli", "train", method, "--preset", preset,
         "--framework", framework, "--data", data, "--out", tmp_path / "run", "--cache", cache,
         "--batch-size", "8", "--epochs", "1", "--limit", "16", "--device", "cpu", "--workers", "1",
         "--projection-hidden", "64", "--projection-dim", "32", "--warmup-epochs", "0",
         "--lr", "0.0001"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["evaluated_on"] == next(name for name in splits if name != "train")
    assert metrics["image_shape"] == [pixels or 224, pixels or 224, 3]
    assert np.isfinite(metrics["loss_history"]).all()
    assert {"knn_accuracy", "linear_accuracy"} <= metrics.keys()
    stored = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert stored["cache"] == cache


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("preset", PAPERS)
def test_every_framework_has_the_encoders_of_the_paper(preset, framework):
    method = PAPERS[preset][0]
    settings = resolve(preset, {"framework": framework, "method": method})
    assert isinstance(settings, TrainSettings)
    assert settings.encoder in ("resnet50", "vit-s6")
