"""Pictures of runs, those of features without any spread included."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the recipes need scikit-learn")
pytest.importorskip("datasets", reason="the recipes need Hugging Face datasets")
from matplotlib.figure import Figure
from PIL import Image

from fmicl_recipes import TrainSettings, plots
from fmicl_recipes.data import load_images
from fmicl_recipes.run import train_run
from fmicl_recipes.trainer import Trainer

#: Features that t-SNE by itself ends on with a segmentation fault, and others on the way to them.
MAPS = """
import sys
from pathlib import Path
import numpy as np
from fmicl_recipes import plots
rng, out = np.random.default_rng(0), Path(sys.argv[1])
one, many, which = rng.normal(size=16), rng.normal(size=(60, 16)), np.arange(60)[:, None]
cases = {
    "constant": 0 * many + one, "zero": 0 * many, "a row": many[:1], "no row": many[:0],
    "two rows": many[:2], "three rows": many[:3], "four blocks": many[which[:, 0] % 4],
    "one row off": np.where(which == 7, many, one), "half zero": many * (which % 2),
    "not finite": np.where(which == 7, np.nan, many),
} | {f"spread {10.0**-k:g}": one + 10.0**-k * many for k in (3, 6, 7, 9)}
for name, x in cases.items():
    plots.embedding_map({name: x.astype(np.float32)}, out / f"{name}.png")
    print(name, flush=True)
"""


def test_features_that_are_the_same_cost_no_map(tmp_path):
    """In a process of its own, since what is tested for is a segmentation fault."""
    done = subprocess.run([sys.executable, "-W", "error::RuntimeWarning", "-c", MAPS, tmp_path],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, (done.stdout.splitlines()[-1:], done.stderr[-2000:])
    assert len(done.stdout.splitlines()) == len(list(tmp_path.glob("*.png"))) == 14
    for name, reason in {"constant": "all features are the same: collapsed",
                         "zero": "all features are the same: collapsed",
                         "spread 1e-09": "all features are the same: collapsed",
                         "a row": "a single image",
                         "not finite": "features are not finite"}.items():  # fmt: skip
        assert f"{name}.png has no map of {name}: {reason}" in done.stderr
    for name in ("two rows", "four blocks", "one row off", "spread 0.001"):
        assert f"no map of {name}" not in done.stderr


def test_plots_are_written(tmp_path):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(40, 5)), np.arange(40) % 4
    row = {"knn_accuracy": 0.5, "linear10_accuracy": 0.3, "linear_accuracy": 0.75}
    files = [
        plots.loss_curves({"a": [3.0, 2.0], "b": [1.0, 0.5]}, tmp_path / "1.png", "a caption"),
        plots.distance_histogram({"a": (x, x + 0.1)}, tmp_path / "2.png"),
        plots.embedding_map({"a": x}, tmp_path / "3.png", {"a": labels}),
        plots.accuracy_bars({"a": row, "b": row | {"test_images": 40}}, tmp_path / "4.png"),
        plots.divergence_curves(tmp_path / "5.png"),
    ]
    for file in files:
        with Image.open(file) as picture:
            assert len(np.unique(np.asarray(picture))) > 10


@pytest.fixture
def figure(monkeypatch, tmp_path):
    """The figure that a function of `plots` would save."""
    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: kept.append(figure))

    def of(draw, *arguments):
        draw(*arguments)
        kept[-1].canvas.draw()
        return kept[-1]

    return of


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 200])
def test_epochs_are_whole_on_the_axis(figure, tmp_path, epochs):
    (axes,) = figure(plots.loss_curves, {"a": [1.0] * epochs}, tmp_path / "x.png").axes
    low, high = axes.get_xlim()
    shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert shown == [int(tick) for tick in shown] != []


def test_classes_have_their_names_or_a_bar_of_colours(figure, tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 5))
    for count, axes in ((2, 1), (12, 1), (30, 2)):
        classes = np.array([f"class {i}" for i in range(count)])[np.arange(60) % count]
        drawn = figure(plots.embedding_map, {"a": x}, tmp_path / "x.png", {"a": classes})
        assert len(drawn.axes) == axes
        assert "t-SNE" in drawn.get_suptitle()
        colours = drawn.axes[0].collections[0].get_facecolors()
        assert len(np.unique(colours, axis=0)) == count
        if axes == 1:
            legend = [text.get_text() for text in drawn.legends[0].get_texts()]
            assert legend == [f"class {i}" for i in range(count)]


def test_a_run_without_labels_has_no_colours_beside_one_with_labels(figure, tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 5))
    of_both = {"a": x, "b": x}
    drawn = figure(plots.embedding_map, of_both, tmp_path / "x.png", {"b": np.arange(60) % 3})
    counts = [len(np.unique(a.collections[0].get_facecolors(), axis=0)) for a in drawn.axes]
    assert counts == [1, 3]
    drawn = figure(plots.embedding_map, of_both, tmp_path / "x.png")
    assert not drawn.legends
    assert "class" not in drawn.get_suptitle()


def test_accuracies_have_their_intervals(figure, tmp_path):
    rows = {"a": {"knn_accuracy": 0.8, "linear_accuracy": 0.5, "test_images": 10},
            "no labels": {"uniformity": -2.0}, "old": {"knn_accuracy": 0.8}}  # fmt: skip
    (axes,) = figure(plots.accuracy_bars, rows, tmp_path / "x.png").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "old"]
    first, second = axes.containers[1].errorbar.lines[2][0].get_segments()
    assert first[:, 1] == pytest.approx([49.02, 94.33], abs=0.01)
    assert second[:, 1] == pytest.approx([80.0, 80.0])


def test_a_picture_that_fails_costs_no_other(tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise MemoryError("no room")

    monkeypatch.setattr("fmicl_recipes.plots.draw.distance_histogram", broken)
    (tmp_path / "distances.png").write_bytes(b"of an earlier time")
    features = {"test": np.eye(9), "view_x": np.eye(9), "view_y": np.eye(9)}
    files = plots.draw_runs(tmp_path, {"a": {"loss_history": [1.0, 0.5]}}, {"a": features})
    assert [file.name for file in files] == ["loss.png", "embedding.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["embedding.png", "loss.png"]
    assert "distances.png is left out, as drawing it failed: MemoryError: no room" in (
        capsys.readouterr().err
    )


class Constant(Trainer):
    """An encoder that has collapsed before it was trained."""

    def fit(self, folder, *, resume, progress):
        self.history.append({"epoch": 1, "step": 1, "loss": -20.0})

    def load(self, folder):
        raise AssertionError

    def arrays(self):
        """None, as nobody asks."""

    set_arrays = arrays

    def weights(self):
        return {}

    def encode(self, images):
        return np.ones((len(images), 6), np.float32)

    def project(self, images):
        return (np.zeros((len(images), 4), np.float32),) * 2


@pytest.mark.parametrize("labelled", [True, False])
def test_a_run_that_has_collapsed_has_its_numbers_and_pictures(tmp_path, capsys, labelled):
    data = load_images("digits")
    if not labelled:
        data = dataclasses.replace(data, train_labels=None, test_labels=None)
    settings = TrainSettings(epochs=1, batch_size=64)
    metrics = train_run(Constant, settings, tmp_path / "run", data=data)
    assert (metrics["collapsed"], metrics["uniformity"]) == (True, 0.0)
    assert ("knn_accuracy" in metrics, metrics.get("knn_k")) == (labelled, 38 if labelled else None)
    with np.load(tmp_path / "run" / "embeddings.npz") as kept:
        assert ("test_labels" in kept) == labelled
    pictures = {path.name for path in (tmp_path / "run" / "plots").iterdir()}
    assert pictures == {"loss.png", "distances.png", "embedding.png"}
    said = capsys.readouterr().err
    assert "embedding.png has no map of simclr kl-micl: all features are the same" in said
    assert "Warning" not in said
