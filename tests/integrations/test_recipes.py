"""Settings, presets, data sets and run folders."""

import dataclasses
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sklearn", reason="the recipes need scikit-learn")
datasets = pytest.importorskip("datasets", reason="the recipes need Hugging Face datasets")
from PIL import Image  # noqa: E402

import fmicl_recipes.data  # noqa: E402
from fmicl_core import DIVERGENCES, Cosine, Gaussian, Tsallis  # noqa: E402
from fmicl_core.checks import InvalidArgument  # noqa: E402
from fmicl_recipes import PRESETS, RunFolder, TrainSettings, resolve  # noqa: E402
from fmicl_recipes.data import load_images  # noqa: E402
from fmicl_recipes.options import difference  # noqa: E402
from fmicl_recipes.run_folder import make_folder, write_atomically  # noqa: E402
from fmicl_recipes.runs import train_run  # noqa: E402
from fmicl_recipes.settings import ALPHAS  # noqa: E402

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"


# Settings and presets


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_settings(name):
    settings = resolve(name, {})
    assert {k: getattr(settings, k) for k in PRESETS[name]} == PRESETS[name]
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


# Data


def save_images(folder, names, size=(5, 4), mode="RGB"):
    rng = np.random.default_rng(0)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode).save(path)


def test_digits_are_built_in_and_split_the_same_every_time():
    a, b = load_images("digits"), load_images("digits", seed=5)
    assert a.train_images.shape == (1437, 8, 8, 1)
    assert a.train_images.dtype == np.uint8
    assert a.train_images.max() == 255
    np.testing.assert_array_equal(a.test_images, b.test_images)
    counts = np.bincount(a.test_labels)
    assert counts.min() >= 34


def test_an_image_folder_is_read_by_class(tmp_path):
    save_images(tmp_path, [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(10)])
    data = load_images(str(tmp_path), progress=False)
    assert data.train_images.shape == (16, 4, 5, 3)
    assert sorted(np.bincount(data.test_labels)) == [2, 2]


def test_an_image_folder_with_splits_is_taken_as_it_is(tmp_path):
    save_images(
        tmp_path, [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "ab" for i in "12"]
    )
    data = load_images(str(tmp_path), progress=False, image_size=6)
    assert data.train_images.shape == data.test_images.shape == (4, 6, 6, 3)


def rows_of(labels, brightness=None):
    """Rows of 3 x 3 images, all of one brightness or each of its own."""

    def encoded(value):
        file = io.BytesIO()
        Image.new("L", (3, 3), value).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    values = range(len(labels)) if brightness is None else [brightness] * len(labels)
    rows = {"image": [encoded(v) for v in values], "label": labels}
    return datasets.Dataset.from_dict(rows)


def test_parquet_with_bytes_is_read(tmp_path):
    rows_of([0, 1] * 5).to_parquet(tmp_path / "rows.parquet")
    for source in (tmp_path, tmp_path / "rows.parquet"):
        data = load_images(str(source), progress=False, limit=4)
        assert data.train_images.shape == (4, 3, 3, 1)
        assert data.test_images.shape == (2, 3, 3, 1)


#: Brightness by split, which tells where an image came from.
TRAIN, VALIDATION, TEST = 10, 20, 30
SPLIT_FILES = [
    ("train.parquet", "validation.parquet", "test.parquet"),
    ("train-00000-of-00001.parquet", "val-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
    ("data/train/0000.parquet", "data/valid/0000.parquet", "data/test/0000.parquet"),
]
NONE = [-1] * 4


def save_splits(folder, names, *labels):
    for name, of_split, brightness in zip(names, labels, (TRAIN, VALIDATION, TEST), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        rows_of(of_split, brightness).to_parquet(folder / name)


@pytest.mark.parametrize("names", SPLIT_FILES, ids=lambda names: names[1])
def test_validation_comes_before_test_and_splits_are_never_merged(tmp_path, names):
    save_splits(tmp_path, names, [0, 1] * 5, [0, 1, 0, 1], [1, 0])
    key = names[1].removeprefix("data/").split("/")[0].split(".")[0].split("-")[0]
    with pytest.warns(UserWarning, match=f"the splits {key}, test beside.* evaluated on '{key}'"):
        data = load_images(str(tmp_path), progress=False)
    assert len(data.train_images) == 10
    assert (set(data.train_images.flat), set(data.test_images.flat)) == ({TRAIN}, {VALIDATION})
    assert data.test_labels.tolist() == [0, 1, 0, 1]
    assert data.evaluated_on == key


@pytest.mark.parametrize(
    ("validation", "test", "taken"),
    [(NONE, [1, 0, 0, 1], "test"), ([0, 1], NONE, "validation"), (NONE, NONE, None),
     ([7] * 4, [7] * 4, None), ([None] * 4, [0, 1], "test")],
    ids=["validation unlabelled", "test unlabelled", "both", "classes unknown to training", "null"],
)  # fmt: skip
@pytest.mark.parametrize("hub", [False, True], ids=["folder", "hub"])
def test_a_split_without_labels_is_not_taken(tmp_path, monkeypatch, hub, validation, test, taken):
    labels = [0, 1] * 5
    if hub:
        rows = {"train": rows_of(labels, TRAIN), "test": rows_of(test, TEST),
                "validation": rows_of(validation, VALIDATION)}  # fmt: skip
        monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(rows))
    else:
        save_splits(tmp_path, SPLIT_FILES[0], labels, validation, test)
    said = rf"No labels that training knows.* evaluated on {repr(taken) if taken else 'a held-out'}"
    with pytest.warns(UserWarning, match=said):
        data = load_images("some/where" if hub else str(tmp_path), progress=False)
    where = {"validation": VALIDATION, "test": TEST, None: TRAIN}[taken]
    assert set(data.test_images.flat) == {where}
    assert set(data.test_labels) == {0, 1}
    assert data.evaluated_on == (taken or "a held-out fifth")
    assert len(data.train_images) + (len(data.test_images) if taken is None else 0) == 10


def test_the_usual_two_splits_are_taken_without_a_word(tmp_path, recwarn):
    save_splits(tmp_path, ("train.parquet", "valid.parquet", "train2.parquet"), [0, 1], [1, 0], [1])
    data = load_images(str(tmp_path), progress=False)
    assert set(data.train_images.flat) == {TRAIN, TEST}
    assert data.evaluated_on == "valid"
    assert not [w for w in recwarn if "evaluated" in str(w.message)]


@pytest.mark.parametrize("labels", [NONE * 3, [None] * 12], ids=["-1", "null"])
def test_images_without_labels_are_refused_before_a_run_begins(tmp_path, labels):
    rows_of(labels).to_parquet(tmp_path / "rows.parquet")
    settings = TrainSettings(data=str(tmp_path / "rows.parquet"), batch_size=4)
    assert load_images(settings.data, progress=False).train_labels is None
    with pytest.raises(InvalidArgument, match="Expected labelled images"):
        train_run(None, settings, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("labels", "message"),
    [(["cat", "dog"] * 3, "`data`. Expected whole numbers as labels.*'label' holds string"),
     ([0.5, 1.0] * 3, "`data`. Expected whole numbers as labels.*'label' holds float64"),
     ([0, None] * 3, "`data`. Expected a label for every image.*3 of 'train' have none"),
     ([0], "`data`. Expected at least two images")],
    ids=["texts", "fractions", "some", "one image"],
)  # fmt: skip
def test_labels_that_are_none_are_named(tmp_path, labels, message):
    rows_of(labels).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InvalidArgument, match=message):
        load_images(str(tmp_path / "rows.parquet"), progress=False)


def test_few_images_of_many_classes_are_split_without_strata(tmp_path):
    rows_of([0, 1, 2, 3, 4] * 2).to_parquet(tmp_path / "rows.parquet")
    data = load_images(str(tmp_path / "rows.parquet"), progress=False)
    assert len(data.test_images) == 2


def test_memory_that_the_system_can_free_counts_as_free(tmp_path, monkeypatch):
    """Of Linux's MemFree and MemAvailable the latter holds what caches can give back."""
    save_images(tmp_path / "images", [f"{c}/{i}.png" for c in "ab" for i in "12"])
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(fmicl_recipes.data, "MEMINFO", meminfo, raising=False)

    def load(free, available):
        meminfo.write_text(f"MemTotal: 9000 kB\nMemFree: {free} kB\nMemAvailable: {available} kB\n")
        return load_images(str(tmp_path / "images"), progress=False)

    assert len(load(free=0, available=1000).train_images) == 3
    with pytest.raises(InvalidArgument, match=r"fit in memory \(0.0 GiB available\)"):
        load(free=1000, available=0)
    meminfo.unlink()  # as on other systems
    assert len(load_images(str(tmp_path / "images"), progress=False).train_images) == 3


def test_real_photographs_are_read():
    if not CIFAR.exists():
        pytest.skip("the CIFAR-10 files are not beside the repository")
    file = CIFAR / "test.parquet"
    data = load_images(str(file), progress=False, limit=500)
    assert data.train_images.shape == (500, 32, 32, 3)
    assert 100 < data.train_images.mean() < 140  # photographs, not noise or black
    assert set(np.unique(data.test_labels)) == set(range(10))


def bad_sources(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image")
    (tmp_path / "file.csv").write_text("1,2")
    save_images(tmp_path / "corrupt", ["a/1.png", "a/2.png", "b/1.png"])
    (tmp_path / "corrupt" / "a" / "2.png").write_bytes(b"not a picture")
    save_images(tmp_path / "mixed", ["a/1.png"])
    save_images(tmp_path / "mixed", ["a/2.png"], (9, 9))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"not parquet")
    datasets.Dataset.from_dict({"a": [1, 2]}).to_parquet(tmp_path / "numbers.parquet")
    return {
        "missing": "Expected a path that exists, a hub name OWNER/NAME, or one of digits",
        "empty": "Expected a folder that holds images or parquet files",
        "texts": "Expected a folder that holds images or parquet files",
        "file.csv": "Expected a parquet file or a folder",
        "corrupt": r"Expected images that can be decoded.*corrupt image='.*a.2.png'",
        "mixed": r"`image_size`. Expected a size, as images differ in theirs",
        "broken": "Expected files that Hugging Face datasets can read",
        "numbers.parquet": "Expected a column of images",
    }


@pytest.mark.parametrize(
    "name",
    ["missing", "empty", "texts", "file.csv", "corrupt", "mixed", "broken", "numbers.parquet"],
)
def test_bad_sources_are_named(tmp_path, name):
    message = bad_sources(tmp_path)[name]
    with pytest.raises(ValueError, match=message):
        load_images(str(tmp_path / name), progress=False)


def test_a_misspelt_name_lists_the_built_in_ones():
    with pytest.raises(ValueError, match=r"one of digits, cifar10.*Received: data='digit'"):
        load_images("digit")


def test_labels_are_asked_for_only_when_needed(tmp_path):
    save_images(tmp_path, [f"{i}.png" for i in range(10)])
    data = load_images(str(tmp_path), progress=False)
    assert data.train_labels is None
    with pytest.raises(ValueError, match=r"Expected labelled images"):
        data.require_labels()


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


def test_every_option_has_a_help_text():
    for field in dataclasses.fields(TrainSettings):
        assert field.metadata["help"].endswith(".")
