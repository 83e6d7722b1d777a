"""`fmicl embed`: features of all images of a data set in one file; by a stand-in for an encoder."""

import io
import os
import sys
import types

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the recipes need scikit-learn")
datasets = pytest.importorskip("datasets", reason="the recipes need Hugging Face datasets")
from PIL import Image  # noqa: E402

from fmicl_cli import frameworks  # noqa: E402
from fmicl_core.checks import InvalidArgument  # noqa: E402
from fmicl_recipes import RunFolder, TrainSettings  # noqa: E402
from fmicl_recipes import embed as recipe  # noqa: E402
from fmicl_recipes.chunks import filled_chunks, joined  # noqa: E402
from fmicl_recipes.data import StoredImages  # noqa: E402
from fmicl_recipes.data.pictures import Decoder  # noqa: E402
from fmicl_recipes.loading import PACKAGES  # noqa: E402
from fmicl_recipes.text import TextSettings  # noqa: E402
from fmicl_recipes.weights import Architecture, write_model  # noqa: E402


def encoder(run, images, progress=False):
    """Three features of an image: its number of pixels, of channels, and its mean."""
    assert images.dtype == np.uint8
    size, channels = images.shape[1] * images.shape[2], images.shape[3]
    means = images.reshape(len(images), -1).mean(1)
    return np.stack([np.full(len(images), size), np.full(len(images), channels), means], 1)


def trained(path, shape=(2, 2, 3), encoder="smallconv", **settings):
    own = {} if ":" in encoder else {"width": 2}
    settings, weights = TrainSettings(encoder=encoder, **own, **settings), {}
    folder, architecture = RunFolder.create(path, settings), Architecture.of(settings, shape[2])
    if architecture.ours:
        weights = {f"encoder.{e.name}": np.zeros(e.shape) for e in architecture.entries()}
    write_model(folder, settings, shape, weights, {"epochs": 1})
    return folder.path


def save(folder, brightness_of, size=(2, 2), mode="L"):
    for name, brightness in brightness_of.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        value = brightness if mode == "L" else (brightness,) * 3
        Image.new(mode, size, value).save(folder / name)
    return folder


def embed(run, out, data=None, **options):
    return recipe.embed(run, out, encoder, data and str(data), **{"progress": False} | options)


@pytest.fixture
def images(tmp_path):
    """Grey pictures of two classes, a test without classes, and a split not evaluated on."""
    names = {"train/b/1.png": 10, "train/a/1.png": 20, "train/a/2.png": 30, "test/1.png": 40}
    return save(tmp_path / "images", names)


NAMES = ["train/a/1.png", "train/a/2.png", "train/b/1.png", "test/1.png"]


@pytest.mark.filterwarnings("error")
def test_the_arrays_of_a_file(tmp_path, images):
    features = embed(trained(tmp_path / "run"), tmp_path / "more" / "out.npz", images)
    with np.load(tmp_path / "more" / "out.npz") as file:
        assert set(file) == {"features", "name", "split", "labels", "class_names"}
        np.testing.assert_array_equal(file["features"], features)
        assert file["features"].dtype == np.float32
        rows = dict(zip(file["name"].tolist(), file["features"].tolist(), strict=True))
        splits = dict(zip(file["name"].tolist(), file["split"].tolist(), strict=True))
        labels = dict(zip(file["name"].tolist(), file["labels"].tolist(), strict=True))
        assert file["class_names"].tolist() == ["a", "b"]
    grey = {"train/a/1.png": 20, "train/a/2.png": 30, "train/b/1.png": 10, "test/1.png": 40}
    assert rows == {name: [4.0, 3.0, value] for name, value in grey.items()}
    assert splits == {name: name.partition("/")[0] for name in NAMES}
    assert labels == dict(zip(NAMES, [0, 0, 1, -1], strict=True))


def test_a_set_that_memory_would_not_hold_is_encoded_from_its_files(tmp_path, images, monkeypatch):
    """In the same order and with the same features."""
    run, given = trained(tmp_path / "run"), []

    def chunked(run, images):
        given.append(images)
        return encoder(run, np.concatenate(list(filled_chunks(images, 2)))[: len(images)])

    small = embed(run, tmp_path / "small.npz", images)
    monkeypatch.setattr(recipe, "free_memory", lambda: 50)
    large = recipe.embed(run, tmp_path / "large.npz", chunked, str(images), progress=False)
    assert [len(part) for part in given] == [4]  # of both splits
    assert isinstance(given[0], StoredImages)
    np.testing.assert_array_equal(large, small)
    with np.load(tmp_path / "small.npz") as a, np.load(tmp_path / "large.npz") as b:
        assert a["name"].tolist() == b["name"].tolist()


def test_the_columns_of_a_table(tmp_path, images):
    from pyarrow import parquet

    features = embed(trained(tmp_path / "run"), tmp_path / "out.parquet", images)
    table = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert list(table) == ["name", "split", "label", "feature"]
    labels = dict(zip(table["name"], table["label"], strict=True))
    assert labels == dict(zip(NAMES, ["a", "a", "b", None], strict=True))
    assert table["feature"] == features.tolist()
    again = datasets.Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path))
    assert len(again[0]["feature"]) == 3


def test_images_in_a_table_are_named_by_split_and_row(tmp_path):
    content = io.BytesIO()
    Image.new("L", (2, 2), 7).save(content, "PNG")
    (tmp_path / "data").mkdir()
    for split, labels in (("train", [5, 6]), ("test", [7])):
        rows = {"image": [content.getvalue()] * len(labels), "label": labels}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "data" / f"{split}.parquet")
    embed(trained(tmp_path / "run"), tmp_path / "out.npz", tmp_path / "data")
    with np.load(tmp_path / "out.npz") as file:
        rows = set(zip(file["name"], file["split"], file["labels"], strict=True))
        assert "class_names" not in file
    assert rows == {("train row 0", "train", 5), ("train row 1", "train", 6),
                    ("test row 0", "test", 7)}  # fmt: skip


def test_images_beside_a_table_are_named_by_their_path_from_the_data(tmp_path):
    save(tmp_path / "data" / "x", {"1.png": 1, "y/2.png": 2})
    rows = {"image": ["1.png", "y/2.png"]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "data" / "x" / "rows.parquet")
    embed(trained(tmp_path / "run"), tmp_path / "out.npz", tmp_path / "data")
    with np.load(tmp_path / "out.npz") as file:
        assert file["name"].tolist() == ["x/1.png", "x/y/2.png"]


def test_digits_are_taken_in_the_order_of_scikit_learn(tmp_path):
    from sklearn.datasets import load_digits

    embed(trained(tmp_path / "run"), tmp_path / "out.npz", "digits")
    with np.load(tmp_path / "out.npz") as file:
        np.testing.assert_array_equal(file["labels"], load_digits().target)
        assert (file["name"][17], file["split"][17]) == ("train row 17", "train")


def test_images_without_labels_have_none_in_the_file(tmp_path):
    run, data = trained(tmp_path / "run"), save(tmp_path / "flat", {"1.png": 1, "2.png": 2})
    embed(run, tmp_path / "out.npz", data)
    embed(run, tmp_path / "out.parquet", data)
    with np.load(tmp_path / "out.npz") as file:
        assert set(file) == {"features", "name", "split"}
    columns = datasets.Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path))
    assert columns.column_names == ["name", "split", "feature"]


@pytest.mark.parametrize(
    ("shape", "mode", "said"),
    [((4, 6, 1), "RGB", "2 pictures made grey"),
     ((4, 6, 3), "L", "2 pictures made RGB")],
    ids=["grey run", "colour run"],
)  # fmt: skip
def test_images_are_brought_to_the_shape_of_the_run(tmp_path, capsys, shape, mode, said):
    data = save(tmp_path / "data", {"1.png": 9, "2.png": 99}, (5, 5), mode)
    features = embed(trained(tmp_path / "run", shape), tmp_path / "o.npz", data, progress=True)
    assert features.tolist() == [[24, shape[2], 9], [24, shape[2], 99]]
    err = capsys.readouterr().err
    assert said in err
    assert "2 pictures resized to 4 x 6 pixels" in err


def test_images_of_different_sizes_need_no_option(tmp_path):
    data = save(tmp_path / "data", {"1.png": 9}, (5, 5))
    save(data, {"2.png": 99}, (7, 3), "RGB")
    features = embed(trained(tmp_path / "run"), tmp_path / "o.npz", data)
    assert features.tolist() == [[4, 3, 9], [4, 3, 99]]


def test_the_images_and_columns_of_the_run_are_the_default(tmp_path):
    data = tmp_path / "rows.parquet"
    save(tmp_path, {"1.png": 1, "2.png": 2})
    rows = {"a": ["1.png", "2.png"], "b": ["2.png", "2.png"], "kind": ["x", "y"], "y": [3, 4]}
    datasets.Dataset.from_dict(rows).to_parquet(data)
    run = trained(tmp_path / "run", data=str(data), image_column="b", label_column="kind")
    assert embed(run, tmp_path / "1.npz")[:, 2].tolist() == [2, 2]
    with np.load(tmp_path / "1.npz") as file:
        assert file["class_names"].tolist() == ["x", "y"]
    assert embed(run, tmp_path / "2.npz", image_column="a")[:, 2].tolist() == [1, 2]
    assert embed(run, tmp_path / "3.npz", data)[:, 2].tolist() == [1, 2]
    with np.load(tmp_path / "3.npz") as file:
        assert file["labels"].tolist() == [3, 4]


def test_features_that_are_not_finite_are_not_written(tmp_path, images):
    def broken(run, images):
        return np.where(np.arange(len(images))[:, None] == 2, np.nan, np.ones((1, 3)))

    with pytest.raises(InvalidArgument, match=r"`run`. Expected finite features. .*row 2"):
        recipe.embed(trained(tmp_path / "run"), tmp_path / "o.npz", broken, str(images))
    assert not (tmp_path / "o.npz").exists()


def mistakes(tmp_path, images):
    run = trained(tmp_path / "run")
    (tmp_path / "is.npz").write_text("mine")
    (tmp_path / "folder.npz").mkdir()
    untrained = RunFolder.create(tmp_path / "untrained", TrainSettings()).path
    texts = RunFolder.create(tmp_path / "texts", TextSettings()).path
    own = trained(tmp_path / "own", (2, 2, 5))
    bare = trained(tmp_path / "bare")
    (bare / "settings.json").unlink()
    half = trained(tmp_path / "half")
    (half / "encoder.safetensors").unlink()
    return {
        "suffix": (run, "x.csv", images, "`out`. Expected a file name that ends in .npz or .parq"),
        "exists": (run, "is.npz", images, "`out`. Expected a file that does not exist yet, or --o"),
        "folder": (run, "folder.npz", images, "`out`. Expected a file, and not a folder"),
        "no run": (tmp_path, "x.npz", images, "`run`. Expected a folder with model.json"),
        "untrained": (untrained, "x.npz", images, "model.json.*has not trained for an epoch yet"),
        "texts": (
            texts,
            "x.npz",
            images,
            "`run`. Expected a run of simclr, moco, moco-v3.*'simcse'",
        ),
        "channels": (own, "x.npz", images, "`run`. Expected a run on grey or colour images"),
        "no weights": (half, "x.npz", images, "`run`. Expected a folder with encoder.safetensors"),
        "bare": (bare, "x.npz", None, "`data`. Expected the name of a .*bare has no settings.json"),
        "no data": (run, "x.npz", tmp_path / "no", "`data`. Expected a path that exists"),
    }


@pytest.mark.parametrize(
    "name",
    [
        "suffix",
        "exists",
        "folder",
        "no run",
        "untrained",
        "texts",
        "channels",
        "no weights",
        "bare",
        "no data",
    ],
)
def test_mistakes_are_found_before_anything_is_decoded(tmp_path, images, monkeypatch, name):
    monkeypatch.setattr(Decoder, "decode", None)
    run, out, data, message = mistakes(tmp_path, images)[name]
    with pytest.raises(InvalidArgument, match=message):
        embed(run, tmp_path / out, data)
    assert not (tmp_path / "x.npz").exists()
    assert (tmp_path / "is.npz").read_text() == "mine"


def test_a_folder_with_model_and_weights_alone_is_enough(tmp_path, images):
    run = trained(tmp_path / "run")
    want = embed(run, tmp_path / "1.npz", images)
    (run / "settings.json").unlink()
    np.testing.assert_array_equal(embed(run, tmp_path / "2.npz", images), want)


def test_a_bar_counts_images_on_a_terminal_alone(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    parts = [np.full((2, 3), part, np.float32) for part in range(2)]
    for kind, progress, shown in (
        (Terminal, True, True), (Terminal, False, False), (io.StringIO, True, False)
    ):  # fmt: skip
        monkeypatch.setattr(sys, "stderr", stream := kind())
        rows = joined(iter(parts), 3, progress=progress)
        assert rows[:, 0].tolist() == [0.0, 0.0, 1.0]
        assert ("encoding: 100%" in stream.getvalue() and "3/3" in stream.getvalue()) == shown
        assert shown or not stream.getvalue()


@pytest.fixture
def packages(monkeypatch):
    """The packages of all frameworks, as stand-ins; which one was asked for features, and how."""
    pytest.importorskip("typer", reason="the command line needs typer")
    asked = []

    def stand_in(name):
        def features(run, images, *, progress=False):
            asked.append((name, progress))
            return encoder(run, images)

        return types.SimpleNamespace(features=features, MethodTrainer=None)

    for name in PACKAGES.values():
        monkeypatch.setitem(sys.modules, name, stand_in(name))
    monkeypatch.setattr(frameworks, "is_installed", lambda name: True)
    monkeypatch.setenv("KERAS_BACKEND", "none")
    return asked


@pytest.mark.parametrize("framework", PACKAGES)
def test_the_command_takes_the_encoder_of_the_run(tmp_path, images, packages, fmicl, framework):
    run = trained(tmp_path / "run", framework=framework)
    out = tmp_path / "a[red]b.npz"
    code, said, err = fmicl("embed", run, "--data", images, "--out", out)
    assert (code, said) == (0, f"written: {out}, 3 features each of 4 images\n"), err
    assert packages == [(PACKAGES[framework], True)]
    assert "encoding 4 images" in err
    before = out.read_bytes()
    code, _, err = fmicl("embed", run, "--data", images, "--out", out)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "--overwrite" in err
    assert out.read_bytes() == before
    code, _, err = fmicl("embed", run, "--data", "digits", "--out", out, "--overwrite")
    assert code == 0, err
    with np.load(out) as file:
        assert len(file["features"]) == 1797


@pytest.mark.parametrize(
    ("of_run", "asked", "package", "backend"),
    [({}, ["--framework", "jax"], "fmicl_flax", "none"),
     ({"framework": "jax"}, ["--framework", "torch"], "fmicl_lightning", "none"),
     ({}, ["--framework", "tensorflow"], "fmicl_keras", "tensorflow"),
     ({}, ["--framework", "tensorflow", "--keras-backend", "jax"], "fmicl_keras", "jax"),
     ({"framework": "tensorflow", "keras_backend": "torch"}, [], "fmicl_keras", "torch"),
     ({"framework": "tensorflow", "keras_backend": "torch"}, ["--keras-backend", "jax"],
      "fmicl_keras", "jax")],
)  # fmt: skip
def test_the_command_computes_where_it_is_told(
    tmp_path, images, packages, fmicl, of_run, asked, package, backend
):
    run, out = trained(tmp_path / "run", **of_run), tmp_path / "o.npz"
    code, _, err = fmicl("embed", run, "--data", images, "--out", out, *asked)
    assert code == 0, err
    assert packages == [(package, True)]
    assert os.environ["KERAS_BACKEND"] == backend


def test_what_the_command_cannot_compute_with_is_said(
    tmp_path, images, packages, fmicl, monkeypatch
):
    run, out = trained(tmp_path / "run", framework="jax"), tmp_path / "o.npz"

    def refused(run, message, *options):
        code, _, err = fmicl("embed", run, "--data", images, "--out", out, *options)
        assert (code, len(err.splitlines())) == (2, 1)
        assert message in err
        assert not packages

    refused(run, "`framework`. Expected one of 'torch', 'jax'", "--framework", "numpy")
    refused(run, "`keras_backend`. Expected none unless --framework tensorflow",
            "--keras-backend", "jax")  # fmt: skip
    refused(run, "Expected one of 'tensorflow', 'jax', 'torch'", "--framework", "tensorflow",
            "--keras-backend", "theano")  # fmt: skip
    library = trained(tmp_path / "library", encoder="timm:resnet18")
    refused(library, "That one needs PyTorch", "--framework", "jax")
    monkeypatch.setattr(frameworks, "is_installed", lambda name: name not in ("jax", "torch"))
    absent = "jax, needed by --framework jax, is not installed. Install it with: pip install"
    refused(
        run, f"{absent} 'fmicl[flax]', or let another compute the same features: --framework ten"
    )
    refused(run, absent, "--framework", "jax")
    refused(library, "torch, needed by --framework torch, is not installed")
    monkeypatch.setattr(frameworks, "is_installed", lambda name: False)
    refused(run, "jax, flax, optax, orbax, tensorboard, needed by --framework jax")


def test_the_command_names_columns(tmp_path, packages, fmicl):
    save(tmp_path, {"1.png": 1, "2.png": 2})
    rows = {"a": ["1.png"], "b": ["2.png"], "y": [3]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    arguments = ["embed", trained(tmp_path / "run"), "--data", tmp_path / "rows.parquet"]
    code, _, err = fmicl(*arguments, "--image-column", "b", "--label-column", "none", "--out",
                         tmp_path / "o.npz")  # fmt: skip
    assert code == 0, err
    with np.load(tmp_path / "o.npz") as file:
        assert file["features"][0, 2] == 2
        assert "labels" not in file
    code, _, err = fmicl(*arguments, "--image-column", "c", "--out", tmp_path / "p.npz")
    assert code == 2
    assert "`image_column`. Expected one of 'a', 'b', 'y'. Received: image_column='c'" in err
