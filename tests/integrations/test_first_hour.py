"""What a new user does: own pictures through every command, in each framework.

A folder of grey pictures without labels, and one of colour pictures with a sub-folder a class.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs typer")
Image = pytest.importorskip("PIL.Image", reason="pictures are read by pillow")

from fmicl_recipes import RunFolder  # noqa: E402
from fmicl_recipes.loading import PACKAGES  # noqa: E402
from fmicl_recipes.weights import open_model  # noqa: E402

#: Commands one after the other in one process, as the imports of a framework take long.
PROGRAM = """
import json, os, sys
from importlib import import_module

import numpy as np
from functools import partial
from fmicl_cli.main import main
from fmicl_recipes.plots import embedding

embedding.TSNE = partial(embedding.TSNE, max_iter=250)  # maps by a quarter of the steps

framework, package, folder = sys.argv[1:]
os.chdir(folder)
small = ["--encoder", "smallconv", "--width", "8", "--batch-size", "16", "--device", "cpu",
         "--framework", framework, "--projection-hidden", "16", "--projection-dim", "8",
         "--knn-every", "1"]

def fmicl(*arguments):
    print("$", *arguments, flush=True)
    sys.argv = ["fmicl", *arguments]
    try:
        main()
    except SystemExit as leaving:
        assert not leaving.code, f"{arguments} ended with {leaving.code}"

for data in ("grey", "colour"):
    fmicl("train", "simclr", "--data", data, "--epochs", "2", *small, "--baselines", "--out",
          f"run-{data}")
    fmicl("train", "simclr", "--out", f"run-{data}", "--resume")
    fmicl("evaluate", f"run-{data}")
    fmicl("embed", f"run-{data}", "--out", f"{data}.npz")
fmicl("compare", "run-grey", "run-colour", "--out", "comparison")
trained = import_module(package)
for data in ("grey", "colour"):
    assert callable(trained.load_encoder(f"run-{data}"))
    stored = np.load(f"{data}.npz")
    images = np.load(f"{data}.npy")
    # The order of the files is the order of their names, in which the pictures were made.
    difference = np.abs(trained.features(f"run-{data}", images) - stored["features"]).max()
    assert difference < 1e-4, difference
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """40 pictures each, 12 pixels a side: grey.npy, colour.npy, and the folders of PNGs."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (40, 12, 12, 1), np.uint8)
    colour = rng.integers(0, 256, (40, 12, 12, 3), np.uint8)
    for index in range(40):
        kind = folder / "colour" / ("cats" if index < 20 else "dogs")
        for place in (folder / "grey", kind):
            place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey[index, :, :, 0]).save(folder / "grey" / f"{index:02}.png")
        Image.fromarray(colour[index]).save(kind / f"{index:02}.png")
    np.save(folder / "grey.npy", grey)
    np.save(folder / "colour.npy", colour)
    return folder


@pytest.mark.long
@pytest.mark.parametrize(
    "framework",
    ["torch", *(pytest.param(f, marks=pytest.mark.slow) for f in ("jax", "tensorflow"))],
)
def test_own_pictures_go_through_every_command(pictures, require, framework):
    require({"torch": "lightning", "jax": "flax", "tensorflow": "tensorflow"}[framework])
    folder = pictures / framework
    folder.mkdir()
    for name in ("grey", "colour"):
        for end in ("", ".npy"):
            (folder / f"{name}{end}").symlink_to(pictures / f"{name}{end}")
    program = [sys.executable, "-c", PROGRAM, framework, PACKAGES[framework], str(folder)]
    done = subprocess.run(
        program, capture_output=True, text=True, check=False,
        env=os.environ | {"KERAS_BACKEND": "tensorflow"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr
    grey, colour = (RunFolder(folder / f"run-{name}") for name in ("grey", "colour"))
    shapes = [open_model(run.path).image_shape for run in (grey, colour)]
    assert shapes == [(12, 12, 1), (12, 12, 3)]
    seen = {folder: json.loads((folder.path / "metrics.json").read_text())
            for folder in (grey, colour)}  # fmt: skip
    assert not [name for name in seen[grey] if name.endswith("_accuracy") and "contr" not in name]
    assert {"knn_accuracy", "linear_accuracy"} <= set(seen[colour])
    for run, metrics in seen.items():
        assert {"alignment", "uniformity", "embedding_rank", "contrastive_accuracy"} <= set(metrics)
        assert "random encoder" in metrics["baselines"]
        pictures_of = {path.name for path in (run.path / "plots").iterdir()}
        assert {"loss.png", "distances.png", "embedding.png"} <= pictures_of
        assert len(run.read_history()) == 2
    assert done.stderr.count("no labels") == 3  # once in train, in its resuming and in evaluate
    assert "accuracies cannot be compared" in done.stdout
    stored = np.load(folder / "colour.npz")
    assert stored["class_names"].tolist() == ["cats", "dogs"]
    assert "labels" not in np.load(folder / "grey.npz")
