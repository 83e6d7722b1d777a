"""Evaluation, tables, plots, and several runs side by side."""

import dataclasses
import io
import json
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sklearn", reason="the recipes need scikit-learn")
pytest.importorskip("datasets", reason="the recipes need Hugging Face datasets")
from PIL import Image

from fmicl_core.checks import InvalidArgument
from fmicl_recipes import RunFolder, TrainSettings, compare, evaluation, plots, resolve
from fmicl_recipes.compare import compare_runs
from fmicl_recipes.data import ImageData, load_images
from fmicl_recipes.report import assemble_metrics, legend, markdown, table
from fmicl_recipes.runs import train_run
from fmicl_recipes.sweep import check_labels
from fmicl_recipes.trainer import Trainer, warn_of_collapse

# Evaluation


@given(seed=st.integers(0, 1000))
def test_separated_clusters_are_classified(seed):
    rng = np.random.default_rng(seed)
    centres = 10.0 * np.eye(3)
    labels, test_labels = rng.permutation(np.arange(60) % 3), np.arange(30) % 3
    train = centres[labels] + 0.1 * rng.normal(size=(60, 3))
    test = centres[test_labels] + 0.1 * rng.normal(size=(30, 3))
    scores = evaluation.evaluate_features(train, labels, test, test_labels, k=5)
    accuracies = {"knn_accuracy": 1.0, "linear10_accuracy": 1.0, "linear_accuracy": 1.0}
    assert scores == {"knn_k": 5} | accuracies


def test_knn_weighs_votes_by_similarity():
    """One near neighbour outvotes two far ones; k beyond the data is cut."""
    train = np.array([[1.0, 0.0], [0.0, 1.0], [-0.1, 1.0]])
    test = np.array([[1.0, 0.05]])
    labels = np.array([1, 0, 0])
    assert evaluation.knn_accuracy(train, labels, test, np.array([1]), k=200) == 1.0


@pytest.mark.parametrize("n", [3, 5, 8])
def test_uniformity_of_a_simplex(n):
    simplex = np.eye(n) - 1.0 / n
    assert evaluation.uniformity(simplex) == pytest.approx(-4.0 * n / (n - 1))


@given(seed=st.integers(0, 1000))
def test_alignment_and_rank_have_their_bounds(seed):
    x = np.random.default_rng(seed).normal(size=(20, 6))
    assert evaluation.alignment(x, 3.0 * x) == pytest.approx(0.0, abs=1e-12)
    assert evaluation.alignment(x, -x) == pytest.approx(4.0)
    assert 1.0 <= evaluation.embedding_rank(x) <= 6.0 + 1e-9
    assert evaluation.embedding_rank(np.eye(6)) == pytest.approx(6.0)
    assert evaluation.embedding_rank(np.outer(x[:, 0], x[0])) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("which", ["train", "test"])
def test_broken_features_are_named(which):
    arrays = {"train": np.ones((6, 2)), "test": np.ones((6, 2))}
    arrays[which][3] = np.nan
    labels = np.arange(6) % 2
    with pytest.raises(ValueError, match=rf"`{which}`. Expected finite features.*row 3"):
        evaluation.knn_accuracy(arrays["train"], labels, arrays["test"], labels)


def history_of(*ranks):
    return [{"epoch": i, "embedding_rank": r, "uniformity": -2.0} for i, r in enumerate(ranks, 1)]


@pytest.mark.parametrize("ranks", [(9, 9, 9), (1, 1), (1, 1, 9, 1, 1), (1, 1, 1, 1), (1, 1, 1, 9)])
def test_short_or_known_collapse_does_not_warn(recwarn, ranks):
    warn_of_collapse(history_of(*ranks))
    assert not len(recwarn)


@pytest.mark.parametrize("ranks", [(1, 1, 1), (9, 1, 1, 1)])
def test_lasting_collapse_warns_when_it_is_certain(ranks):
    with pytest.warns(UserWarning, match=rf"collapsed by epoch {len(ranks)}: embedding rank 1.0"):
        warn_of_collapse(history_of(*ranks))


def test_features_on_a_line_or_a_point_have_collapsed():
    rng = np.random.default_rng(0)
    sphere, direction = rng.normal(size=(50, 6)), rng.normal(size=6)
    line = np.outer(rng.choice([-1.0, 1.0], 50), direction)
    point = direction + 0.05 * sphere
    scores = [evaluation.spread(x, x) for x in (sphere, line, point)]
    assert [evaluation.collapsed(score) for score in scores] == [False, True, True]


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_zero_rows_lie_on_one_point(no_warnings):
    """Their cosines are 0, from which they would look as uniform as features can be."""
    zeros = np.zeros((20, 5), np.float32)
    scores = evaluation.spread(zeros, zeros)
    assert scores["uniformity"] == 0.0
    assert evaluation.collapsed(scores)
    assert evaluation.pair_distances(zeros, zeros)[1].max() == 0.0
    half = np.vstack([zeros, np.eye(5, dtype=np.float32)])
    assert (
        evaluation.uniformity(zeros)
        > evaluation.uniformity(half)
        > evaluation.uniformity(half[20:])
    )


@pytest.mark.parametrize("scale", [2.0**-140, 2.0**-70, 2.0**70, 2.0**120])
def test_scores_do_not_depend_on_the_scale_of_features(no_warnings, scale):
    """The squares of these leave the range of float32."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40, 5)).astype(np.float32)
    labels = np.arange(40) % 3
    scaled, of_y = (scale * rows for rows in (x, y))
    assert scaled.dtype == np.float32
    exact = scale > 2.0**-120  # smaller ones have lost digits
    for measure in (evaluation.alignment, evaluation.contrastive_accuracy):
        assert measure(scaled, of_y) == pytest.approx(measure(x, y), rel=1e-6 if exact else 1e-2)
    assert evaluation.uniformity(scaled) == pytest.approx(evaluation.uniformity(x), rel=1e-2)
    if exact:
        whole = evaluation.evaluate_features(x, labels, y, labels)
        assert evaluation.evaluate_features(scaled, labels, of_y, labels) == whole


@pytest.mark.parametrize(
    ("labels", "test_labels"),
    [([0, 0, 0, 1], [0, 1, 0]), ([0, 0, 1, 1], [0, 1, 2]), ([0, 1, 2, 3], [4, 0, 1]),
     ([0, 1, 0, 1], [1])],
    ids=["a class of one", "a class that training lacks", "classes of one", "one test image"],
)  # fmt: skip
@pytest.mark.parametrize("features", ["random", "constant", "zero"])
def test_odd_labels_are_evaluated_without_a_word(no_warnings, labels, test_labels, features):
    draw = {"random": np.random.default_rng(0).normal, "constant": lambda size: np.ones(size),
            "zero": lambda size: np.zeros(size)}[features]  # fmt: skip
    train, test = (draw(size=(len(rows), 6)) for rows in (labels, test_labels))
    scores = evaluation.evaluate_features(
        train, np.array(labels), test, np.array(test_labels), k=200
    )
    assert scores.pop("knn_k") == 4
    assert all(0.0 <= score <= 1.0 for score in scores.values())


def test_a_single_row_has_finite_scores(no_warnings):
    row = np.ones((1, 4), np.float32)
    assert evaluation.uniformity(row) == 0.0
    assert np.isfinite(list(evaluation.spread(row, row).values())).all()


def test_neighbours_fit_the_number_of_images_and_are_kept():
    counts = [evaluation.fitting_k(n) for n in (1, 2, 256, 1437, 40_000, 1_281_167)]
    assert counts == [1, 1, 16, 38, 200, 200]
    x, labels = np.random.default_rng(0).normal(size=(256, 4)), np.arange(256) % 2
    assert evaluation.evaluate_features(x, labels, x, labels)["knn_k"] == 16


def test_wilson_intervals():
    """Of 8 in 10 as in Wilson's formula by hand; never outside of [0, 1]."""
    assert evaluation.wilson_interval(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert evaluation.wilson_interval(1.0, 1)[1] == 1.0
    assert evaluation.wilson_interval(0.0, 5)[0] == 0.0
    low, high = evaluation.wilson_interval(0.5, 10_000)
    assert high - low == pytest.approx(2 * 1.96 * 0.005, rel=1e-3)


# Tables


def test_metrics_have_every_field_and_the_table_every_row():
    history = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]
    scores = {"knn_accuracy": 0.5, "linear_accuracy": 0.75, "linear10_accuracy": 0.25,
              "contrastive_accuracy": 0.2, "alignment": 0.1, "uniformity": -2.0,
              "embedding_rank": 3.0}  # fmt: skip
    metrics = assemble_metrics(resolve("digits", {}), history, scores, 1.5, {})
    needed = {"method", "framework", "data", "loss", "divergence", "epochs", "seed",
              "knn_accuracy", "linear_accuracy", "loss_history", "alignment", "uniformity",
              "seconds", "versions"}  # fmt: skip
    assert needed <= set(metrics)
    assert metrics["loss_history"] == [2.0, 1.0]
    json.dumps(metrics, allow_nan=False)
    text = markdown({"raw pixels": {"knn_accuracy": 0.125}, "kl-micl": metrics})
    assert "| raw pixels | 12.5 | - |" in text
    assert "| kl-micl | 50.0 | 25.0 | 75.0 | 20.0 | 0.100 | -2.000 | 3.0 | 2 |" in text


def test_a_table_without_labels_has_no_columns_for_them():
    row = {"alignment": 0.1, "uniformity": -2.0, "loss": "info-nce"}
    headings, cells = table({"a": row})
    assert (headings, cells) == (["features", "align", "uniform"], [["a", "0.100", "-2.000"]])
    assert not any("kNN" in line for line in legend({"a": row}))
    headings, cells = table({"a": row, "b": {"knn_accuracy": 0.5}})
    assert headings == ["features", "kNN", "align", "uniform"]
    assert cells == [["a", "-", "0.100", "-2.000"], ["b", "50.0", "-", "-"]]


def test_a_row_that_has_collapsed_says_so_and_the_legend_what_it_means():
    rows = {"a": {"uniformity": -0.01, "collapsed": True}, "b": {"collapsed": False}}
    assert [cells[0] for cells in table(rows)[1]] == ["a (collapsed)", "b"]
    assert sum(line.startswith("collapsed:") for line in legend(rows)) == 1
    assert not any("collapsed" in line for line in legend({"b": rows["b"]}))


@pytest.mark.parametrize("loss", ["fmicl", "alignment-uniformity", "spectral", "info-nce"])
def test_losses_that_may_be_negative_are_explained_where_they_are_shown(loss):
    said = [line for line in legend({"a": {"loss": loss}}) if "below 0" in line]
    assert len(said) == (loss != "info-nce")


# Pictures

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
    monkeypatch.setattr(plots, "_save", lambda figure, path: kept.append(figure) or path)

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

    monkeypatch.setattr(plots, "distance_histogram", broken)
    (tmp_path / "distances.png").write_bytes(b"of an earlier time")
    features = {"test": np.eye(9), "view_x": np.eye(9), "view_y": np.eye(9)}
    files = compare.draw(tmp_path, {"a": {"loss_history": [1.0, 0.5]}}, {"a": features})
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


# Several runs


@pytest.fixture
def run_of(tmp_path):
    """Make the folder of a finished run."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 4)).astype(np.float32)

    def make(name, labels=True, options=(), baselines=(), **metrics):
        settings = TrainSettings(**{"epochs": 5, **dict(options)})
        folder = RunFolder.create(tmp_path / name, settings)
        scores = {"alignment": 0.1, "uniformity": -2.0}
        features = {"test": x, "view_x": x, "view_y": x}
        if labels:
            scores |= {"knn_accuracy": 0.5, "linear10_accuracy": 0.4, "linear_accuracy": 0.6}
            features |= {"test_labels": np.arange(12) % 3, "class_names": np.array(["a", "b", "c"])}
        found = assemble_metrics(
            settings, [{"loss": 1.0}] * settings.epochs, scores, 1.0, dict(baselines)
        )
        found |= {"evaluated_on": "test", "test_images": 12, "train_images": 50,
                  "image_shape": [8, 8, 1], "test_digest": "abc"}  # fmt: skip
        kept = {key: value for key, value in (found | metrics).items() if value is not None}
        folder.write_json("metrics.json", kept)
        np.savez(folder.path / "embeddings.npz", **features)
        return folder.path

    return make


@pytest.fixture
def undrawn(monkeypatch):
    """Runs are compared without pictures, which take their time."""
    monkeypatch.setattr(plots, "pictures", lambda folder, drawings: [])


@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, False)])
def test_runs_with_and_without_labels_are_compared(run_of, tmp_path, first, second):
    runs = [run_of("a", first), run_of("b", second, {"loss": "info-nce"})]
    done = compare_runs(runs, tmp_path / "out")
    names = {file.name for file in done.files}
    always = {"metrics.json", "comparison.md", "loss.png", "distances.png", "embedding.png"}
    assert names == always | ({"accuracy.png"} if first or second else set())
    assert names == {path.name for path in (tmp_path / "out").iterdir()}
    assert ("kNN" in (tmp_path / "out" / "comparison.md").read_text()) == (first or second)
    assert done.remarks == []


def test_settings_in_which_runs_differ_are_named_the_most_severe_first(run_of, tmp_path, undrawn):
    a = run_of("a", options={"divergence": "js", "seed": 1, "lr": 0.2})
    b = run_of("b", options={"encoder": "smallconv", "epochs": 3, "batch_size": 64, "alpha": 2.0,
                             "limit": 40, "device": "cpu", "data": "cifar10"},
               test_digest="def", image_shape=[8, 8, 3], train_images=40)  # fmt: skip
    c = run_of("c", options={"loss": "info-nce", "temperature": 0.1})
    done = compare_runs([a, b, c], tmp_path / "out")
    js, kl, nce = "simclr js-micl", "simclr kl-micl", "simclr info-nce"
    assert done.remarks == [
        f"test images: digits (test, 12 images) in {js}, {nce}; cifar10 (test, 12 images) in {kl};"
        " accuracies cannot be compared",
        f"image size: 8 x 8 x 1 in {js}, {nce}; 8 x 8 x 3 in {kl}",
        f"encoder: resnet18 in {js}, {nce}; smallconv in {kl}",
        f"training images: 50 in {js}, {nce}; 40 in {kl}",
        f"epochs: 5 in {js}, {nce}; 3 in {kl}",
        f"batch size: 512 in {js}, {nce}; 64 in {kl}",
        f"augmentation: digits in {js}, {nce}; photo in {kl}",
        f"seed: 1 in {js}; 0 in {kl}, {nce}",
        f"alpha: 40.0 in {js}; 2.0 in {kl}",
        f"lr: 0.2 in {js}; 0.1 in {kl}, {nce}",
    ]
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert all(f"- {line}\n" in text for line in done.remarks)


TEST_IMAGES = "test images: {} in A; {} in B; accuracies cannot be compared"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"test_digest": "1" * 64}, {"test_digest": "2" * 64},
         TEST_IMAGES.format(*(f"digits (test, 12 images) (SHA-256 {n * 8})" for n in "12"))),
        ({"data": "x/pets"}, {"data": "y/pets"}, None),
        ({"data": "x/pets", "test_digest": None}, {"data": "y/pets"},
         TEST_IMAGES.format("x/pets (test, 12 images)", "y/pets (test, 12 images)")),
        ({"test_digest": None, "evaluated_on": "valid"}, {"test_digest": None},
         TEST_IMAGES.format("digits (valid, 12 images)", "digits (test, 12 images)")),
        ({"test_digest": None, "test_images": None, "image_shape": None}, {}, None),
        ({"image_shape": [4, 4, 1], "test_digest": "4"}, {},
         "image size: 4 x 4 x 1 in A; 8 x 8 x 1 in B"),
        ({"train_images": 30}, {}, "training images: 30 in A; 50 in B"),
    ],
    ids=["other pixels", "a copy", "older run, folders of one name", "other split",
         "older run", "resized", "other training images"],
)  # fmt: skip
def test_other_images_are_told_from_the_same_ones(run_of, tmp_path, undrawn, a, b, expected):
    runs = [run_of("a", title="A", **a), run_of("b", title="B", **b)]
    assert compare_runs(runs, tmp_path / "out").remarks == ([expected] if expected else [])


def test_baselines_belong_to_their_runs(run_of, tmp_path, undrawn):
    raw, random = {"knn_accuracy": 0.3}, {"knn_accuracy": 0.4, "alignment": 0.2}
    other = {"knn_accuracy": 0.45, "alignment": 0.2}
    runs = [
        run_of("a", baselines={"raw pixels": raw, "random encoder": random}, title="A"),
        run_of("b", baselines={"raw pixels": raw, "random encoder": other}, title="B"),
        run_of("c", baselines={"random encoder": random | {"embedding_rank": 2.0}}, title="C"),
        run_of("d", title="D"),
    ]
    rows = compare_runs(runs, tmp_path / "out").rows
    assert list(rows) == ["raw pixels", "random encoder (a, c)", "random encoder (b)", *"ABCD"]
    assert rows["random encoder (b)"]["knn_accuracy"] == 0.45
    assert rows["raw pixels"]["test_images"] == 12


def test_runs_of_one_title_and_folders_of_one_name_are_told_apart(run_of, tmp_path, undrawn):
    rows = compare_runs([run_of("x/run"), run_of("y/run")], tmp_path / "out").rows
    assert len(rows) == 2
    rows = compare_runs([run_of("p"), run_of("q")], tmp_path / "two").rows
    assert list(rows) == ["simclr kl-micl (p)", "simclr kl-micl (q)"]
    with pytest.raises(InvalidArgument, match=r"`runs`. Expected every folder once"):
        compare_runs([tmp_path / "p", tmp_path / "p"], tmp_path / "three")


def test_a_comparison_is_not_overwritten_by_itself(run_of, tmp_path, undrawn):
    out = tmp_path / "out"
    run = run_of("a")
    compare_runs([run], out)
    (out / "accuracy.png").write_bytes(b"old")
    (out / "notes.txt").write_text("of the user")
    with pytest.raises(InvalidArgument, match=r"`out`. Expected .* or --overwrite to replace"):
        compare_runs([tmp_path / "nowhere"], out)  # before anything is read
    compare_runs([run_of("b", labels=False)], out, overwrite=True)
    assert not (out / "accuracy.png").exists()
    assert (out / "notes.txt").read_text() == "of the user"
    metrics = (run / "metrics.json").read_text()
    with pytest.raises(InvalidArgument, match=r"`out`. Expected a folder that holds no run"):
        compare_runs([run], run, overwrite=True)
    assert (run / "metrics.json").read_text() == metrics


def test_a_demo_replaces_the_last_one(run_of, tmp_path, undrawn, monkeypatch):
    pytest.importorskip("lightning", reason="the demo trains with Lightning")
    from fmicl_lightning import demo

    def train(_, settings, folder, **options):
        run_of(folder, options={"divergence": settings.divergence, "loss": settings.loss})

    monkeypatch.setattr(demo, "train_run", train)
    for _ in range(2):
        rows, files = demo.run_demo(tmp_path / "demo")
        assert list(rows) == ["simclr info-nce", "simclr kl-micl", "simclr js-micl"]
        assert [file.name for file in files] == ["metrics.json", "comparison.md"]


def test_the_command_compares_and_says_in_what_runs_differ(run_of, tmp_path, undrawn, fmicl):
    pytest.importorskip("typer", reason="the command line needs typer")
    runs = [run_of("a"), run_of("b", options={"encoder": "smallconv", "loss": "info-nce"})]
    compared = ["compare", *runs, "--out", tmp_path / "out"]
    code, out, err = fmicl(*compared)
    assert code == 0, err
    assert "encoder: resnet18 in simclr kl-micl; smallconv in simclr info-nce\n" in out
    assert "below 0" in out.replace("\n", " ")
    code, _, err = fmicl(*compared)
    assert code == 2
    assert "or --overwrite" in err
    code, _, err = fmicl(*compared, "--overwrite")
    assert code == 0, err


def test_a_table_in_a_log_has_its_full_width(capsys):
    pytest.importorskip("rich", reason="the command line needs rich")
    from fmicl_cli.console import print_table

    headings = ["features", *(f"heading {i}" for i in range(20))]
    print_table(headings, [["a name of some length", *["-3.217"] * 20]], "title")
    line = next(line for line in capsys.readouterr().out.splitlines() if "a name" in line)
    assert line.count("-3.217") == 20


def test_a_table_in_a_narrow_terminal_cuts_no_number(monkeypatch):
    pytest.importorskip("rich", reason="the command line needs rich")
    from fmicl_cli import console

    shown = io.StringIO()
    narrow = console.Console(file=shown, force_terminal=True, width=80)
    monkeypatch.setattr(console, "console", narrow)
    headings = ["features", *(f"heading {i}" for i in range(8))]
    console.print_table(headings, [["random encoder (collapsed)", *["-3.217"] * 8]], "title")
    assert shown.getvalue().count("-3.217") == 8
    assert "(collapsed)" in shown.getvalue()


def test_a_search_by_knn_needs_labels():
    images = np.zeros((4, 2, 2, 1), np.uint8)
    labelled = ImageData("pets", images, np.array([0, 1, 0, 1]), images, np.array([0, 1, 0, 1]))
    check_labels(labelled)
    for labels in (None, np.zeros(4, np.int64)):
        with pytest.raises(InvalidArgument, match=r"`data`. Expected images with labels.*kNN"):
            check_labels(dataclasses.replace(labelled, train_labels=labels))


def test_the_command_does_not_search_without_labels(tmp_path, monkeypatch, fmicl):
    trainers = types.SimpleNamespace(MethodTrainer=None)
    monkeypatch.setitem(sys.modules, "fmicl_lightning", trainers)  # which is not asked
    for i in range(12):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / f"{i}.png")
    out = tmp_path / "out"
    code, _, err = fmicl("sweep", "alpha", "simclr", "--data", tmp_path, "--batch-size", 2,
                         "--device", "cpu", "--out", out)  # fmt: skip
    assert (code, "`data`. Expected images with labels" in err) == (2, True), err
    assert not out.exists()


def test_options_of_the_loss_count_where_they_have_an_effect(run_of, tmp_path, undrawn):
    """Rows of one title differ in alpha; SimCLR has no queue, MoCo no scheme; half runs say so."""
    a = run_of("a", options={"alpha": 5.0})
    b = run_of("b", options={"method": "moco", "queue_size": 64})
    c = run_of("c", options={}, loss_history=[1.0, 0.5])
    remarks = compare_runs([a, b, c], tmp_path / "out").remarks
    kl_a, kl_c, moco = "simclr kl-micl (a)", "simclr kl-micl (c)", "moco kl-micl (b)"
    assert f"alpha: 5.0 in {kl_a}; 8.0 in {moco}; 40.0 in {kl_c}" in remarks
    assert [line for line in remarks if line.startswith("epochs: 5 in")] == [
        f"epochs: 5 in {kl_a}, {moco}; 2 of 5 in {kl_c}"
    ]
    assert not [line for line in remarks if "queue" in line or "negatives" in line]


def test_baselines_of_one_run_are_not_those_of_another_encoder(run_of, tmp_path, undrawn):
    row = {"knn_accuracy": 0.5}
    baselines = {"raw pixels": row, "random encoder": row}
    a = run_of("a", baselines=baselines)
    b = run_of("b", options={"divergence": "js"})
    c = run_of("c", options={"encoder": "smallconv"})
    both = set(compare_runs([a, b], tmp_path / "same").rows)
    assert {"raw pixels", "random encoder"} <= both
    other = set(compare_runs([a, c], tmp_path / "other").rows)
    assert {"raw pixels", "random encoder (a)"} <= other
