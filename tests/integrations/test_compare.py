"""Tables, and several runs side by side."""

import dataclasses
import io
import json
import sys
import types

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the recipes need scikit-learn")
pytest.importorskip("datasets", reason="the recipes need Hugging Face datasets")
from PIL import Image

from fmicl_core.checks import InvalidArgument
from fmicl_recipes import RunFolder, TrainSettings, plots, resolve
from fmicl_recipes.choices import LOSSES
from fmicl_recipes.compare import compare_runs
from fmicl_recipes.data import ImageData
from fmicl_recipes.metrics import assemble_metrics
from fmicl_recipes.report import legend, markdown, table
from fmicl_recipes.sweep import check_labels

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


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_that_may_be_negative_are_explained_where_they_are_shown(loss):
    said = [line for line in legend({"a": {"loss": loss}}) if "below 0" in line]
    assert len(said) == (loss not in ("info-nce", "siglip"))


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
    monkeypatch.setattr(plots, "draw_runs", lambda *arguments: [])


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
        f"alpha: auto in {js}; 2.0 in {kl}",
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
    """Rows of one title differ in alpha; SimCLR has no queue, MoCo no views; half runs say so."""
    a = run_of("a", options={"alpha": 5.0})
    b = run_of("b", options={"method": "moco", "queue_size": 64, "supervised": True})
    c = run_of("c", options={"views": 4}, loss_history=[1.0, 0.5])
    remarks = compare_runs([a, b, c], tmp_path / "out").remarks
    kl_a, kl_c, moco = "simclr kl-micl (a)", "simclr kl-micl (c)", "moco kl-micl (b)"
    assert f"alpha: 5.0 in {kl_a}; auto in {moco}, {kl_c}" in remarks
    assert f"strength: 2.0 in {moco}; 5.0 in {kl_c}" in remarks
    assert f"supervised: False in {kl_a}, {kl_c}; True in {moco}" in remarks
    assert f"views: 2 in {kl_a}; 4 in {kl_c}" in remarks
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
