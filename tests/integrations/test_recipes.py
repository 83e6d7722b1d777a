"""Settings, presets, run folders, evaluation and plots."""

import dataclasses
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sklearn", reason="the recipes need scikit-learn")
datasets = pytest.importorskip("datasets", reason="the recipes need Hugging Face datasets")
from PIL import Image  # noqa: E402

from fmicl_core import DIVERGENCES, Cosine, Gaussian, Tsallis  # noqa: E402
from fmicl_core.checks import InvalidArgument  # noqa: E402
from fmicl_recipes import PRESETS, RunFolder, TrainSettings, evaluation, plots, resolve  # noqa: E402
from fmicl_recipes.options import difference  # noqa: E402
from fmicl_recipes.report import assemble_metrics, markdown  # noqa: E402
from fmicl_recipes.run_folder import make_folder, write_atomically  # noqa: E402
from fmicl_recipes.runs import warn_of_collapse  # noqa: E402
from fmicl_recipes.settings import ALPHAS  # noqa: E402

# Settings and presets


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_settings(name):
    settings = resolve(name, {})
    used = {k: v for k, v in PRESETS[name].items() if settings.applies(k)}
    assert {k: getattr(settings, k) for k in used} == used
    assert {"data", "encoder", "epochs"} <= set(used)
    assert TrainSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_explicit_wins_over_preset_and_preset_over_default():
    settings = resolve("digits", {"epochs": 7})
    assert (settings.epochs, settings.width, settings.divergence) == (7, 32, "kl")
    assert resolve(None, {"data": "digits"}) == resolve("digits", {})
    assert resolve(None, {"data": "some/where"}).encoder == "resnet18"


BAD_SETTINGS = [
    ({"epochs": 0}, "`epochs`. Expected a whole number >= 1. Received: epochs=0"),
    ({"batch_size": 1}, "`batch_size`. Expected a whole number >= 2"),
    ({"lr": 0.0}, "`lr`. Expected a finite number > 0"),
    ({"momentum": -0.1}, "`momentum`. Expected a finite number >= 0"),
    ({"divergence": "foo"}, "`divergence`. Expected one of 'kl'"),
    ({"loss": "nce"}, "`loss`. Expected one of 'fmicl', 'info-nce'"),
    ({"sigma2": 0.0}, "`sigma2`. Expected a finite number > 0"),
    ({"divergence": "tsallis", "order": 1.0}, "`order`. Expected a number other than 1"),
    ({"similarity": "cosine", "divergence": "js"}, "`similarity`. Expected a cosine temperature"),
    ({"warmup_epochs": 200}, "`warmup_epochs`. Expected fewer than epochs = 200"),
    ({"epoch": 3}, "`option`. Expected one of 'method'"),
]


@pytest.mark.parametrize(("values", "message"), BAD_SETTINGS, ids=[str(v) for v, _ in BAD_SETTINGS])
def test_bad_settings_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings.from_dict(values)


def test_unknown_presets_are_listed():
    with pytest.raises(ValueError, match=r"`preset`. Expected one of 'paper-cifar10'"):
        resolve("imagenet", {})


def test_settings_build_the_objective_they_name():
    settings = resolve(None, {"divergence": "tsallis", "order": 3.0, "sigma2": 0.1, "alpha": 7.0})
    objective = settings.objective()
    assert (objective.divergence, objective.similarity) == (Tsallis(3.0), Gaussian(0.1))
    cosine = resolve(None, {"similarity": "cosine", "temperature": 0.2}).objective()
    assert cosine.similarity == Cosine(0.2)


@pytest.mark.parametrize("name", [n for n, make in DIVERGENCES.items() if make().suitable])
@given(alpha=st.floats(1.1, 50.0))
def test_the_default_alpha_of_momentum_methods_keeps_queries_with_their_keys(name, alpha):
    """Loss of one score for all pairs, at best f'(1/alpha), less that of spread, aligned features.

    The lead of the spread features is largest at alpha = e^2, for every divergence.
    """
    divergence, d2 = DIVERGENCES[name](), np.linspace(0.0, 4.0, 4001)

    def lead(weight):
        opposite = (weight * divergence.penalty(-d2) - divergence.score(-d2)).min()
        zero, two = np.zeros(()), np.full((), -2.0)
        return opposite - (weight * divergence.penalty(two) - divergence.score(zero))

    best = lead(np.exp(2.0))
    assert best >= lead(alpha) - 1e-6
    for method in ("moco", "moco-v3"):
        assert ALPHAS[method] == TrainSettings(method=method).alpha
        assert lead(ALPHAS[method]) > 0.95 * best


# Run folder


def test_a_run_folder_is_never_overwritten(tmp_path):
    settings = TrainSettings()
    folder = RunFolder.create(tmp_path / "run", settings)
    assert RunFolder.resume(folder.path, settings).settings() == settings
    with pytest.raises(
        ValueError, match=r"`out`. Expected a folder that does not exist yet, or --resume"
    ):
        RunFolder.create(tmp_path / "run", settings)


def test_resume_says_which_settings_differ(tmp_path):
    RunFolder.create(tmp_path / "run", TrainSettings(epochs=5, lr=0.1))
    other = TrainSettings(epochs=6, lr=0.2, device="cpu")
    assert set(difference(TrainSettings(), other)) == {"epochs", "lr"}
    with pytest.raises(
        ValueError, match=r"lr: 0.1 in the run, 0.2 now, epochs: 5 in the run, 6 now"
    ):
        RunFolder.resume(tmp_path / "run", other)


def test_a_damaged_or_missing_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"Expected a run folder with settings.json"):
        RunFolder.resume(tmp_path)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"Expected a readable settings.json"):
        RunFolder.resume(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_run_goes_on_with_its_own_settings(tmp_path):
    """Only what is given is compared, and where the run goes on may change."""
    stored = TrainSettings(epochs=5, lr=0.3, loss="spectral")
    folder = RunFolder.create(tmp_path / "run", stored)
    assert folder.continued({}) == folder.continued({"method": "simclr", "lr": 0.3}) == stored
    assert folder.continued({"device": "cpu"}) == dataclasses.replace(stored, device="cpu")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "moco"}, r"Received: changes=.method: 'simclr' in the run, 'moco' now.$"),
        ({"method": "moko"}, r"`method`. Expected one of 'simclr', 'moco', 'moco-v3'. Received"),
        ({"lr": 0.1}, r"Received: changes='lr: 0.3 in the run, 0.1 now'$"),
        ({"loss": "nce"}, r"`loss`. Expected one of 'fmicl'"),
        ({"epoch": 5}, r"`option`. Expected one of 'method'"),
        ({"device": "tpu"}, r"`device`. Expected one of 'auto', 'cpu', 'gpu'"),
    ],
    ids=str,
)  # fmt: skip
def test_a_run_does_not_go_on_as_another(tmp_path, given, message):
    folder = RunFolder.create(tmp_path / "run", TrainSettings(epochs=5, lr=0.3, loss="spectral"))
    with pytest.raises(InvalidArgument, match=message):
        folder.continued(given)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": 5}, "`data`. Expected a string. Received: data=5"),
        ({"encoder": None}, "`encoder`. Expected a string. Received: encoder=None"),
        ({"epochs": "5"}, "`epochs`. Expected a whole number >= 1. Received: epochs='5'"),
        ({"epoch": 5}, "`option`. Expected one of 'method'"),
    ],
    ids=str,
)
def test_settings_edited_into_nonsense_are_named(tmp_path, values, message):
    folder = RunFolder.create(tmp_path / "run", TrainSettings())
    folder.write_json("settings.json", {**folder.read_json("settings.json"), **values})
    with pytest.raises(InvalidArgument, match=message):
        folder.settings()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InvalidArgument, match=r"`out`. Expected a folder that can be made"):
            make_folder(path)
    assert make_folder(tmp_path / "a" / "b") == make_folder(tmp_path / "a" / "b")


def test_results_get_the_permissions_of_the_process_without_a_change_of_its_umask(
    tmp_path, monkeypatch
):
    """A change would hold for other threads, too, which write files meanwhile."""
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", None)
        write_atomically(tmp_path / "file", lambda file: file.write(b"x"))
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_history_comes_back(tmp_path):
    folder = RunFolder.create(tmp_path / "run", TrainSettings())
    rows = [{"epoch": 1.0, "loss": 0.1}, {"epoch": 2.0, "loss": 1e-17, "knn_accuracy": 0.5}]
    folder.write_history(rows)
    assert folder.read_history() == rows
    text = (folder.path / "history.csv").read_text()
    assert text == "epoch,loss,knn_accuracy\n1.0,0.1,\n2.0,1e-17,0.5\n"


# Evaluation


@given(seed=st.integers(0, 1000))
def test_separated_clusters_are_classified(seed):
    rng = np.random.default_rng(seed)
    centres = 10.0 * np.eye(3)
    labels, test_labels = rng.permutation(np.arange(60) % 3), np.arange(30) % 3
    train = centres[labels] + 0.1 * rng.normal(size=(60, 3))
    test = centres[test_labels] + 0.1 * rng.normal(size=(30, 3))
    scores = evaluation.evaluate_features(train, labels, test, test_labels, k=5)
    assert scores == {"knn_accuracy": 1.0, "linear10_accuracy": 1.0, "linear_accuracy": 1.0}


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


# Report and plots


def test_metrics_have_every_field_and_the_table_every_row():
    history = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]
    scores = {"knn_accuracy": 0.5, "linear_accuracy": 0.75, "linear10_accuracy": 0.25,
              "alignment": 0.1, "uniformity": -2.0, "embedding_rank": 3.0}  # fmt: skip
    metrics = assemble_metrics(resolve("digits", {}), history, scores, 1.5, {})
    needed = {"method", "framework", "data", "loss", "divergence", "epochs", "seed",
              "knn_accuracy", "linear_accuracy", "loss_history", "alignment", "uniformity",
              "seconds", "versions"}  # fmt: skip
    assert needed <= set(metrics)
    assert metrics["loss_history"] == [2.0, 1.0]
    json.dumps(metrics, allow_nan=False)
    text = markdown({"raw pixels": {"knn_accuracy": 0.125}, "kl-micl": metrics})
    assert "| raw pixels | 12.5 | - |" in text
    assert "| kl-micl | 50.0 | 25.0 | 75.0 | 0.100 | -2.000 | 3.0 | 2 |" in text


def test_plots_are_written(tmp_path):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(40, 5)), np.arange(40) % 4
    row = {"knn_accuracy": 0.5, "linear10_accuracy": 0.3, "linear_accuracy": 0.75}
    files = [
        plots.loss_curves({"a": [3.0, 2.0], "b": [1.0, 0.5]}, tmp_path / "1.png"),
        plots.distance_histogram({"a": (x, x + 0.1)}, tmp_path / "2.png"),
        plots.embedding_map({"a": x}, labels, tmp_path / "3.png"),
        plots.accuracy_bars({"a": row, "b": row}, tmp_path / "4.png"),
        plots.divergence_curves(tmp_path / "5.png"),
    ]
    for file in files:
        with Image.open(file) as picture:
            assert len(np.unique(np.asarray(picture))) > 10


def test_every_option_has_a_help_text():
    for field in dataclasses.fields(TrainSettings):
        assert field.metadata["help"].endswith(".")
