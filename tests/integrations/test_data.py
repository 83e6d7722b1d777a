"""Data sets: sources, columns, labels, splits, and what becomes of pictures of every kind."""

import io
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the recipes need scikit-learn")
datasets = pytest.importorskip("datasets", reason="the recipes need Hugging Face datasets")
from PIL import Image  # noqa: E402

from fmicl_core.checks import InvalidArgument  # noqa: E402
from fmicl_recipes import resources  # noqa: E402
from fmicl_recipes.data import ImageData, load_images, validation_split  # noqa: E402
from fmicl_recipes.data import hub as hub_module  # noqa: E402
from fmicl_recipes.data.sources import check_source  # noqa: E402
from fmicl_recipes.settings import TrainSettings  # noqa: E402
from fmicl_recipes.trainer import Trainer  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
GREY, COLOUR = Image.new("L", (2, 2), 7), Image.new("RGB", (2, 2), (1, 2, 3))
CIFAR = ROOT.parent / "shared" / "data" / "cifar10"


def load(source, **options):
    return load_images(str(source), **{"progress": False} | options)


def save(folder, pictures, **options):
    """Save pictures by name below a folder."""
    for name, picture in pictures.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, **options)
    return folder


def save_images(folder, names, size=(5, 4), mode="RGB"):
    rng = np.random.default_rng(0)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    arrays = (rng.integers(0, 256, shape, dtype=np.uint8) for _ in names)
    return save(folder, {n: Image.fromarray(a) for n, a in zip(names, arrays, strict=True)})


def content(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def rows_of(labels, brightness=None, **columns):
    """Rows of 3 x 3 images, all of one brightness or each of its own."""
    values = range(len(labels)) if brightness is None else [brightness] * len(labels)
    images = [{"bytes": content(Image.new("L", (3, 3), v)), "path": None} for v in values]
    return datasets.Dataset.from_dict({"image": images, "label": labels} | columns)


@pytest.fixture
def hub(monkeypatch):
    """Let the hub answer: with nothing, or by raising an error; says what it was asked."""
    from huggingface_hub import HfApi

    def answers(error=None):
        def dataset_info(self, name, **options):
            asked.append(name)
            if error is not None:
                raise error

        asked = []
        monkeypatch.setattr(HfApi, "dataset_info", dataset_info)
        return asked

    monkeypatch.setattr(hub_module, "_reached", set())
    return answers


# Digits and image folders


def test_digits_are_built_in_and_split_the_same_every_time():
    a, b = load("digits"), load("digits", seed=5)
    assert a.train_images.shape == (1437, 8, 8, 1)
    assert a.train_images.dtype == np.uint8
    assert a.train_images.max() == 255
    np.testing.assert_array_equal(a.test_images, b.test_images)
    counts = np.bincount(a.test_labels)
    assert counts.min() >= 34
    assert a.class_names == validation_split(a).class_names == tuple("0123456789")


def test_digits_have_the_size_that_is_asked_for():
    assert load("digits", image_size=12).test_images.shape == (360, 12, 12, 1)


def test_an_image_folder_is_read_by_class(tmp_path):
    save_images(tmp_path, [f"{c}/{i}.png" for c in ("dog", "cat") for i in range(10)])
    data = load(tmp_path)
    assert data.train_images.shape == (16, 4, 5, 3)
    assert sorted(np.bincount(data.test_labels)) == [2, 2]
    assert data.class_names == ("cat", "dog")
    with Image.open(tmp_path / "dog" / "3.png") as dog:
        (label,) = [
            label
            for images, labels in [(data.train_images, data.train_labels),
                                   (data.test_images, data.test_labels)]
            for image, label in zip(images, labels, strict=True)
            if np.array_equal(image, dog)
        ]  # fmt: skip
    assert label == 1


def test_an_image_folder_with_splits_is_taken_as_it_is(tmp_path):
    names = [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "ab" for i in "12"]
    data = load(save_images(tmp_path, names), image_size=6)
    assert data.train_images.shape == data.test_images.shape == (4, 6, 6, 3)
    assert data.train_labels.tolist() == data.test_labels.tolist() == [0, 0, 1, 1]
    assert data.evaluated_on == "test"


FOLDERS = {
    "flat": (["1.png", "2.png", "3.png"], None, None),
    "one class": (["a/1.png", "a/2.png", "a/3.png"], [0, 0], ("a",)),
    "classes in a folder": (["set/b/1.png", "set/a/1.png", "set/a/2.png"], [0, 1], ("a", "b")),
    "classes below classes": (["a/x/1.png", "a/y/1.png", "b/x/1.png"], [0, 1], ("a", "b")),
    "a class named train": (["train/1.png", "bus/1.png", "car/1.png"], [0, 1, 2],
                            ("bus", "car", "train")),
    "hidden": (["a/1.png", "a/2.png", "b/1.png", "b/.2.png", ".c/1.png"], [0, 1], ("a", "b")),
}  # fmt: skip


@pytest.mark.parametrize(("names", "labels", "classes"), FOLDERS.values(), ids=FOLDERS)
def test_labels_are_those_of_sub_folders(tmp_path, names, labels, classes):
    """A fifth of three images is one, so that two are for training."""
    data = load(save_images(tmp_path, names))
    assert (len(data.train_images), len(data.test_images)) == (2, 1)
    assert data.class_names == classes
    if labels is None:
        assert data.train_labels is data.test_labels is None
    else:
        assert set(data.train_labels) | set(data.test_labels) == set(labels)
    assert (data.labels is None) == (labels is None or len(set(data.train_labels)) < 2)


def test_images_beside_classes_take_the_labels_away_with_a_word(tmp_path):
    save_images(tmp_path, ["a/1.png", "b/1.png", "stray.png"])
    with pytest.warns(UserWarning, match=r"1 of 3 images in .* are in no sub-folder.* no labels"):
        assert load(tmp_path).train_labels is None


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("Training", "testing"), ("train2017", "val2017"), ("train", "valid"),
     ("train-a", "test_images"), ("train", "validation"), ("TRAIN", "dev"), ("train", "eval"),
     ("train", "evaluation")],
)  # fmt: skip
def test_a_flat_test_folder_leaves_the_labels_of_training(tmp_path, train, test):
    names = [f"{train}/{c}/{i}.png" for c in "ab" for i in range(5)]
    save_images(tmp_path, [*names, f"{test}/1.png", f"{test}/2.png"])
    with pytest.warns(UserWarning, match=r"No labels that training knows are in.* held-out fifth"):
        data = load(tmp_path)
    assert (len(data.train_images), len(data.test_images)) == (8, 2)
    assert sorted(np.bincount(data.train_labels)) == [4, 4]
    assert data.labels is not None


@pytest.mark.parametrize("classes", ["", "all/"], ids=["flat", "one class"])
def test_a_test_folder_is_taken_where_training_has_no_labels(tmp_path, classes, recwarn):
    save_images(tmp_path, [f"train/{classes}{i}.png" for i in range(3)] + ["test/1.png"])
    data = load(tmp_path)
    assert (len(data.train_images), len(data.test_images)) == (3, 1)
    assert (data.evaluated_on, data.labels) == ("test", None)
    assert not [w for w in recwarn if "evaluated" in str(w.message)]


def test_images_beside_splits_are_left_out_with_a_word(tmp_path):
    save_images(tmp_path, ["train/a/1.png", "train/b/1.png", "test/a/1.png", "more/1.png", "1.png"])
    with pytest.warns(UserWarning, match=r"left out: 1 in no folder, 1 in more/"):
        data = load(tmp_path)
    assert (len(data.train_images), len(data.test_images)) == (2, 1)


def test_images_beside_a_test_folder_are_not_left_out(tmp_path):
    save_images(tmp_path, ["1.png", "2.png", "3.png", "4.png", "test/5.png"])
    with pytest.warns(UserWarning, match="4 of 5 images in .* are in no sub-folder"):
        data = load(tmp_path)
    assert len(data.train_images) == 4


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    save_images(tmp_path / "elsewhere", ["a/1.png", "a/2.png", "b/1.png"])
    for name in "ab":
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "elsewhere" / "a" / "up").symlink_to(tmp_path / "elsewhere")
    data = load(tmp_path / "data")
    assert len(data.train_images) + len(data.test_images) == 3


def test_a_folder_with_the_metadata_of_hugging_face_is_read_by_it(tmp_path):
    save_images(tmp_path, ["1.png", "2.png", "3.png"])
    (tmp_path / "metadata.csv").write_text("file_name,kind\n1.png,x\n2.png,y\n3.png,x\n")
    data = load(tmp_path, label_column="kind")
    assert data.class_names == ("x", "y")
    assert len(data.train_images) == 2


# Tables


def test_parquet_with_bytes_is_read(tmp_path):
    rows_of([0, 1] * 5).to_parquet(tmp_path / "rows.parquet")
    for source in (tmp_path, tmp_path / "rows.parquet"):
        data = load(source, limit=4)
        assert data.train_images.shape == (4, 3, 3, 1)
        assert data.test_images.shape == (2, 3, 3, 1)


def test_a_column_of_raw_bytes_is_one_of_images(tmp_path):
    photos = [content(Image.new("L", (3, 3), value)) for value in (1, 2, 3)]
    raw = {"key": [b"x", b"y", b"z"], "photo": photos, "y": [0, 1, 0]}
    datasets.Dataset.from_dict(raw).to_parquet(tmp_path / "rows.parquet")
    data = load(tmp_path / "rows.parquet")
    found = [*data.train_images[:, 0, 0, 0], *data.test_images[:, 0, 0, 0]]
    assert sorted(found) == [1, 2, 3]
    labels = [*data.train_labels, *data.test_labels]
    assert [label for _, label in sorted(zip(found, labels, strict=True))] == [0, 1, 0]


def test_a_column_of_images_comes_before_one_of_bytes(tmp_path):
    image = datasets.Dataset.from_dict({"thumb": [content(COLOUR)] * 3}).add_column(
        "image", rows_of([0] * 3)["image"][:]
    )
    image.to_parquet(tmp_path / "rows.parquet")
    assert load(tmp_path).train_images.shape == (2, 3, 3, 1)


def test_a_column_of_paths_is_found_from_the_folder_of_its_file(tmp_path, monkeypatch):
    paths = ["pictures/1.png", "pictures/2.JPG", "pictures/3.png"]
    save_images(tmp_path / "set", paths)
    rows = {"note": ["a.txt", "b", "c"], "file": paths, "class": ["x", "y", "x"]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "set" / "rows.parquet")
    monkeypatch.chdir(tmp_path)
    for source in ("set", "set/rows.parquet"):
        data = load(source)
        assert len(data.train_images) == 2
        assert data.class_names == ("x", "y")


def test_the_columns_can_be_named(tmp_path):
    extra = {"left": [content(Image.new("L", (3, 3), 200))] * 10, "kind": [0] * 9 + [1]}
    rows_of([0, 1] * 5, **extra).to_parquet(tmp_path / "rows.parquet")
    usual = load(tmp_path)
    named = load(tmp_path, image_column="left", label_column="kind")
    assert usual.train_images.max() < 200
    assert named.train_images.min() == 200
    assert np.sum(named.train_labels) + np.sum(named.test_labels) == 1
    assert load(tmp_path, label_column="none").train_labels is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"image_column": "photo"}, "`image_column`. Expected one of 'image', 'label', 'note'. Rec"),
     ({"label_column": "kind"}, "`label_column`. Expected one of 'image', 'label', 'note'. Rec"),
     ({"image_column": "note"}, "`image_column`. Expected a column of images.*It holds string"),
     ({"label_column": "image"}, "`label_column`. Expected a column of whole numbers or names")],
    ids=str,
)  # fmt: skip
def test_columns_that_are_none_are_named(tmp_path, columns, message):
    rows_of([0, 1], note=["a", "b"]).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InvalidArgument, match=message):
        load(tmp_path, **columns)


@pytest.mark.parametrize("column", ["image_column", "label_column"])
def test_a_source_without_columns_takes_no_name_of_one(tmp_path, column):
    save_images(tmp_path, ["1.png", "2.png"])
    for source in ("digits", tmp_path):
        with pytest.raises(InvalidArgument, match=rf"`{column}`. Expected to be left out beside"):
            load(source, **{column: "x"})


# Labels

LABELS = {
    "texts": (["dog", "cat", "dog"], [1, 0, 1], ("cat", "dog")),
    "truths": ([True, False, True], [1, 0, 1], ("False", "True")),
    "whole floats": ([2.0, 1.0, 2.0], [2, 1, 2], None),
    "numbers": ([7, -1, 7], [7, -1, 7], None),
}


@pytest.mark.parametrize(("labels", "numbers", "classes"), LABELS.values(), ids=LABELS)
def test_labels_of_every_kind(tmp_path, labels, numbers, classes):
    rows_of(labels).to_parquet(tmp_path / "train.parquet")
    rows_of(labels[:2]).to_parquet(tmp_path / "test.parquet")
    data = load(tmp_path)
    assert data.train_labels.tolist() == numbers
    assert data.test_labels.tolist() == numbers[:2]
    assert data.class_names == classes


def test_texts_are_the_same_classes_in_training_and_test(tmp_path):
    """Though the test has one that comes before the others."""
    rows_of(["b", "c", "b"]).to_parquet(tmp_path / "train.parquet")
    rows_of(["c", "a"]).to_parquet(tmp_path / "test.parquet")
    data = load(tmp_path)
    assert data.class_names == ("a", "b", "c")
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([1, 2, 1], [2, 0])


def test_what_a_number_stands_for_may_differ_from_split_to_split(tmp_path):
    """In the order of their names "test" comes first, and must not speak for training."""
    for split, names in (("train", ["a", "b"]), ("test", ["b", "a"])):
        rows = rows_of([0, 1, 1]).cast_column("label", datasets.ClassLabel(names=names))
        rows.to_parquet(tmp_path / f"{split}.parquet")
    data = load(tmp_path)
    assert data.class_names == ("a", "b")
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([0, 1, 1], [1, 0, 0])


def test_numbers_in_training_are_known_as_texts_in_the_test(tmp_path):
    rows_of([5, 7]).to_parquet(tmp_path / "train.parquet")
    rows_of(["7", "5", "6"]).to_parquet(tmp_path / "test.parquet")
    data = load(tmp_path)
    assert data.class_names == ("5", "6", "7")
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([0, 2], [2, 0, 1])


def test_class_labels_keep_their_names(tmp_path):
    rows = rows_of([0, 2, 1])
    rows = rows.cast_column("label", datasets.ClassLabel(names=["z", "y", "x"]))
    rows.to_parquet(tmp_path / "rows.parquet")
    assert load(tmp_path).class_names == ("z", "y", "x")


@pytest.mark.parametrize("name", ["label", "labels", "fine_label", "class", "target", "y", "cls"])
def test_usual_names_of_labels(tmp_path, name):
    rows = rows_of([0, 1, 0]).rename_column("label", "renamed").rename_column("renamed", name)
    rows.to_parquet(tmp_path / "rows.parquet")
    assert load(tmp_path).train_labels is not None


UNLABELLED = {
    "-1": [-1] * 6,
    "null": [None] * 6,
    "NaN": [float("nan")] * 6,
    "empty": [""] * 6,
    "one class": [0] * 6,
}


@pytest.mark.parametrize("labels", UNLABELLED.values(), ids=UNLABELLED)
def test_images_without_labels_are_taken(tmp_path, labels):
    rows_of(labels).to_parquet(tmp_path / "rows.parquet")
    data = load(tmp_path)
    assert data.labels is None
    assert (len(data.train_images), len(data.test_images)) == (4, 2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0.5, 1.0] * 3, "`data`. Expected whole numbers or names.*'label' holds fractions"),
     ([[0], [1]] * 3, "`data`. Expected whole numbers or names.*'label' holds list"),
     ([0, None] * 3, "`data`. Expected a label for every image.*3 of 'train' have none"),
     (["a", ""] * 3, "`data`. Expected a label for every image.*3 of 'train' have none"),
     ([0], "`data`. Expected at least two images")],
    ids=["fractions", "lists", "some", "some texts", "one image"],
)  # fmt: skip
def test_labels_that_are_none_are_named(tmp_path, labels, message):
    rows_of(labels).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(InvalidArgument, match=message):
        load(tmp_path)
    if len(labels) > 1:
        assert load(tmp_path, label_column="none").labels is None


@pytest.mark.parametrize("labels", [[-1] * 3, [0, -1, 1]], ids=["all", "some"])
def test_class_labels_are_missing_where_they_are_minus_one(tmp_path, labels):
    rows = rows_of(labels).cast_column("label", datasets.ClassLabel(names=["a", "b"]))
    rows.to_parquet(tmp_path / "rows.parquet")
    if labels == [-1] * 3:
        assert load(tmp_path).train_labels is None
    else:
        with pytest.raises(InvalidArgument, match="1 of 'train' have none"):
            load(tmp_path)


def test_few_images_of_many_classes_are_split_without_strata(tmp_path):
    rows_of([0, 1, 2, 3, 4] * 2).to_parquet(tmp_path / "rows.parquet")
    data = load(tmp_path / "rows.parquet")
    assert len(data.test_images) == 2


# Splits

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
        data = load(tmp_path)
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
@pytest.mark.parametrize("from_hub", [False, True], ids=["folder", "hub"])
def test_a_split_without_labels_is_not_taken(
    tmp_path, monkeypatch, hub, from_hub, validation, test, taken
):
    labels = [0, 1] * 5
    if from_hub:
        asked = hub()
        check_source("some/where")
        rows = {"train": rows_of(labels, TRAIN), "test": rows_of(test, TEST),
                "validation": rows_of(validation, VALIDATION)}  # fmt: skip
        monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(rows))
    else:
        save_splits(tmp_path, SPLIT_FILES[0], labels, validation, test)
    said = rf"No labels that training knows.* evaluated on {repr(taken) if taken else 'a held-out'}"
    with pytest.warns(UserWarning, match=said):
        data = load("some/where" if from_hub else tmp_path)
    where = {"validation": VALIDATION, "test": TEST, None: TRAIN}[taken]
    assert set(data.test_images.flat) == {where}
    assert set(data.test_labels) == {0, 1}
    assert data.evaluated_on == (taken or "a held-out fifth")
    assert len(data.train_images) + (len(data.test_images) if taken is None else 0) == 10
    assert not from_hub or asked == ["some/where"]


def test_the_usual_two_splits_are_taken_without_a_word(tmp_path, recwarn):
    save_splits(tmp_path, ("train.parquet", "valid.parquet", "train2.parquet"), [0, 1], [1, 0], [1])
    data = load(tmp_path)
    assert set(data.train_images.flat) == {TRAIN, TEST}
    assert data.evaluated_on == "valid"
    assert not [w for w in recwarn if "evaluated" in str(w.message)]


# Pictures of every kind: two alike, one to train on, one held out


def both(folder, picture, suffix=".png", **options):
    """What becomes of a picture: an array (H, W, C)."""
    save(folder, {f"{name}{suffix}": picture for name in "ab"}, **options)
    data = load_images(str(folder))
    np.testing.assert_array_equal(data.train_images, data.test_images)
    return data.train_images[0]


def of_16_bits(*values):
    return Image.fromarray(np.array([values], np.uint16))


@pytest.mark.parametrize(
    ("picture", "suffix"),
    [(of_16_bits(0, 257, 25700, 65535), ".png"),
     (of_16_bits(0, 257, 25700, 65535), ".pgm"),
     (Image.fromarray(np.array([[0, 257, 25700, 65535]], ">u2")), ".tif"),
     (Image.fromarray(np.array([[0, 257, 25700, 65535]], np.int32)), ".tiff")],
    ids=["png", "pgm", "other byte order", "32 bits"],
)  # fmt: skip
def test_sixteen_bits_are_scaled_to_eight(tmp_path, capsys, picture, suffix):
    assert both(tmp_path, picture, suffix).tolist() == [[[0], [1], [100], [255]]]
    said = capsys.readouterr().err
    assert said.count("2 pictures of 16 bits scaled to 8 (divided by 257)") == 1
    assert "little is left" not in said


def test_twelve_bits_in_sixteen_are_dark_which_is_said(tmp_path, capsys):
    assert both(tmp_path, of_16_bits(0, 4095)).max() == 16
    assert "the brightest pixel of 16 bits is 4095 of 65535" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("picture", "message"),
    [(Image.fromarray(np.array([[0.0, 1.0]], np.float32)), "picture of floats='a.tif'"),
     (Image.fromarray(np.array([[0, 70000]], np.int32)), "a.tif='values from 0 to 70000'"),
     (Image.fromarray(np.array([[-1, 0]], np.int32)), "a.tif='values from -1 to 0'")],
    ids=["floats", "more bits", "negative"],
)  # fmt: skip
def test_pictures_of_no_known_range_are_refused(tmp_path, picture, message):
    with pytest.raises(InvalidArgument, match=rf"Expected pictures of 8 or 16 bits.*{message}"):
        both(tmp_path, picture, ".tif")


def transparent(mode, *pixels):
    picture = Image.new(mode, (len(pixels), 1))
    picture.putdata(pixels)
    return picture


RED = (255, 0, 0)
TRANSPARENT = {
    "RGBA": (transparent("RGBA", (*RED, 255), (*RED, 0), (0, 0, 0, 51)), {},
             [[[255, 0, 0], [255, 255, 255], [204, 204, 204]]]),
    "LA": (transparent("LA", (9, 255), (9, 0), (0, 51)), {}, [[[9], [255], [204]]]),
    "palette": (transparent("RGB", RED, (0, 9, 0)).quantize(2), {"transparency": 0}, None),
    "a colour": (transparent("RGB", RED, (0, 9, 0)), {"transparency": RED},
                 [[[255, 255, 255], [0, 9, 0]]]),
    "a grey": (transparent("L", 7, 8), {"transparency": 7}, [[[255], [8]]]),
}  # fmt: skip


@pytest.mark.parametrize(("picture", "options", "expected"), TRANSPARENT.values(), ids=TRANSPARENT)
def test_transparent_pixels_are_laid_on_white(tmp_path, capsys, picture, options, expected):
    array = both(tmp_path, picture, **options)
    if expected is None:  # which of the two is the first of the palette is the quantiser's
        assert [255, 255, 255] in array.tolist()[0]
        assert array.shape == (1, 2, 3)
    else:
        assert array.tolist() == expected
    said = capsys.readouterr().err
    assert said.count("2 pictures with transparent pixels laid on white") == 1


def test_opaque_pictures_are_taken_as_they_are(tmp_path, capsys):
    array = both(tmp_path, transparent("RGBA", (*RED, 255), (1, 2, 3, 255)))
    assert array.tolist() == [[[255, 0, 0], [1, 2, 3]]]
    assert "picture" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("picture", "suffix", "shape"),
    [(Image.new("CMYK", (2, 1), (0, 255, 255, 0)), ".jpg", (1, 2, 3)),
     (Image.new("1", (2, 1), 1), ".png", (1, 2, 1)),
     (Image.new("L", (2, 1), 255), ".BMP", (1, 2, 1)),
     (Image.new("RGB", (2, 1), RED).quantize(2), ".PNG", (1, 2, 3)),
     (Image.new("RGB", (2, 1), RED), ".WebP", (1, 2, 3))],
    ids=["CMYK", "1 bit", "grey", "palette", "suffix"],
)  # fmt: skip
def test_all_else_becomes_grey_or_rgb(tmp_path, picture, suffix, shape):
    array = both(tmp_path, picture, suffix)
    assert array.shape == shape
    assert array[0, 0, 0] >= 250


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: turn it clockwise
    array = both(tmp_path, transparent("L", 0, 255), ".png", exif=exif)
    assert array.tolist() == [[[0]], [[255]]]


def test_a_folder_of_gifs_is_read_and_of_several_frames_the_first(tmp_path, capsys):
    frames = [Image.new("L", (2, 2), value) for value in (0, 100, 200)]
    array = both(tmp_path, frames[0], ".gif", save_all=True, append_images=frames[1:])
    assert array.max() == 0
    said = capsys.readouterr().err
    assert said.count("2 pictures with several frames, of which the first is taken") == 1


MIXED = {
    "grey first": {"a.png": GREY, "b.png": COLOUR, "c.png": GREY},
    "colour first": {"a.png": COLOUR, "b.png": GREY, "c.png": GREY},
    "grey test": {"train/1.png": COLOUR, "test/1.png": GREY, "train/2.png": GREY},
    "colour test": {"train/1.png": GREY, "test/1.png": COLOUR, "train/2.png": GREY},
}


@pytest.mark.parametrize("mixed", MIXED.values(), ids=MIXED)
def test_grey_beside_colour_becomes_colour(tmp_path, mixed):
    data = load(save(tmp_path, mixed))
    found = [*data.train_images.tolist(), *data.test_images.tolist()]
    rows = [[[[7, 7, 7]] * 2] * 2] * 2 + [[[[1, 2, 3]] * 2] * 2]
    assert sorted(found) == sorted(rows)


@pytest.mark.skipif(not CIFAR.exists(), reason="the CIFAR-10 files are not beside the repository")
def test_real_photographs_are_read():
    data = load(CIFAR / "test.parquet", limit=500)
    assert data.train_images.shape == (500, 32, 32, 3)
    assert 100 < data.train_images.mean() < 140  # photographs, not noise or black
    assert set(np.unique(data.test_labels)) == set(range(10))


def test_memory_that_the_system_can_free_counts_as_free(tmp_path, monkeypatch):
    """Of Linux's MemFree and MemAvailable the latter holds what caches can give back."""
    save_images(tmp_path / "images", [f"{c}/{i}.png" for c in "ab" for i in "12"])
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(resources, "PROC", tmp_path)
    monkeypatch.setattr(resources, "CGROUPS", tmp_path)

    def found(free, available):
        meminfo.write_text(f"MemTotal: 9000 kB\nMemFree: {free} kB\nMemAvailable: {available} kB\n")
        return load(tmp_path / "images")

    assert len(found(free=0, available=1000).train_images) == 3
    with pytest.raises(InvalidArgument, match=r"fit in memory \(0.0 GiB available\)"):
        found(free=1000, available=0)
    meminfo.unlink()  # as on other systems
    assert len(load(tmp_path / "images").train_images) == 3


# Sources that are none


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
    lost = {"file": ["there.png", "not_there.png"]}
    save_images(tmp_path, ["there.png"])
    datasets.Dataset.from_dict(lost).to_parquet(tmp_path / "lost.parquet")
    holes = {"image": [content(GREY), None]}
    datasets.Dataset.from_dict(holes).to_parquet(tmp_path / "holes.parquet")
    return {
        "missing": "Expected a path that exists, a hub name OWNER/NAME, or one of digits",
        "empty": "Expected a folder that holds images or files of them",
        "texts": "Expected a folder that holds images or files of them",
        "file.csv": "Expected a file that ends in .parquet, .arrow, .tar, or a folder",
        "corrupt": r"Expected images that can be decoded.*corrupt image='a/2.png'",
        "mixed": r"`image_size`. Expected a size, as images differ in theirs",
        "broken": "Expected files that Hugging Face datasets can read",
        "numbers.parquet": "Expected a column of images",
        "holes.parquet": "Expected an image in every row. Received: row without one='train row 1'",
        "lost.parquet": r"Expected images that can be decoded.*corrupt image='.*not_there.png'",
    }


@pytest.mark.parametrize(
    "name",
    ["missing", "empty", "texts", "file.csv", "corrupt", "mixed", "broken", "numbers.parquet",
     "lost.parquet", "holes.parquet"],
)  # fmt: skip
def test_bad_sources_are_named(tmp_path, name):
    message = bad_sources(tmp_path)[name]
    with pytest.raises(InvalidArgument, match=message):
        load(tmp_path / name)


def test_a_misspelt_name_lists_the_built_in_ones():
    with pytest.raises(InvalidArgument, match=r"one of digits, cifar10.*Did you mean 'digits'"):
        load("digit")


TYPOS = {
    "data/foldr": r"The folder 'data' is there, but no 'foldr' in it. Did you mean 'data/folder'",
    "folder": r"Expected a path that exists, a hub name OWNER/NAME",
    "data/folder/more/x": "Expected a path that exists",
    "./foldr": "Expected a path that exists",
    "nowhere/train.parquet": "Expected a path that exists",
    "no where/at all": "Expected a path that exists",
}


@pytest.mark.parametrize("source", TYPOS)
def test_a_typo_in_a_path_is_not_sought_on_the_hub(tmp_path, monkeypatch, hub, source):
    asked = hub()
    monkeypatch.chdir(save_images(tmp_path, ["data/folder/1.png"]))
    for check in (check_source, load):
        with pytest.raises(InvalidArgument, match=TYPOS[source]):
            check(source)
    assert asked == []


class RepositoryNotFoundError(Exception):
    """As the hub's client raises it."""


@pytest.mark.parametrize(
    ("error", "message"),
    [(ConnectionError("no route"), "The hub could not be reached: ConnectionError: no route."),
     (RepositoryNotFoundError("404"), "The hub has no data set of that name")],
    ids=["no hub", "no such data set"],
)  # fmt: skip
def test_the_hub_is_asked_once_and_shortly(tmp_path, monkeypatch, hub, error, message):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr(datasets, "load_dataset", None)
    asked = hub(error)
    with pytest.raises(InvalidArgument, match=f"No file or folder of that name is.*{message}"):
        load("some/where")
    assert asked == ["some/where"]


def test_a_copy_from_an_earlier_time_is_taken_without_the_hub(tmp_path, monkeypatch, hub):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    (tmp_path / "some___where").mkdir()
    asked, offline = hub(ConnectionError("no route")), []

    def cached(name):
        offline.append(datasets.config.HF_HUB_OFFLINE)
        return datasets.DatasetDict({"train": rows_of([0, 1, 0])})

    monkeypatch.setattr(datasets, "load_dataset", cached)
    assert len(load("some/where").train_images) == 2
    assert (offline, datasets.config.HF_HUB_OFFLINE) == ([True], False)
    assert asked == ["some/where"]


def test_a_source_is_checked_without_what_takes_long_to_import(tmp_path):
    save_images(tmp_path, ["a/1.png"])
    code = (
        "import sys, fmicl_recipes.data; from fmicl_recipes.data.sources import check_source;"
        f"check_source('digits'); check_source({str(tmp_path)!r});"
        "print({'datasets', 'sklearn', 'PIL', 'pyarrow', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Arrays of one's own


def test_arrays_of_ones_own_have_labels_if_they_are_of_two_classes():
    images = np.zeros((4, 3, 3, 5), np.uint8)
    labels = np.array([0, 1, 0, 1])
    train, test = ImageData("own", images, labels, images, labels).labels
    assert train is test is labels
    assert ImageData("own", images, None, images, None).labels is None
    assert ImageData("own", images, labels * 0, images, labels).labels is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [(None, "images with labels, of two classes at least. Supervised training takes the labels"),
     ([7, 7, 7, 7], "images with labels, of two classes at least"),
     ([3, -1, 5, -1], "a label other than -1, which is none, for every .* images. 2 have none.")],
)  # fmt: skip
def test_supervised_training_needs_the_label_of_every_image(labels, message):
    """Whose numbers then are small, whatever the labels are."""
    images, settings = np.zeros((4, 3, 3, 5), np.uint8), TrainSettings(supervised=True)
    trainer = type("Stub", (Trainer,), dict.fromkeys(Trainer.__abstractmethods__))
    labels = None if labels is None else np.array(labels)
    data = ImageData("own", images, labels, images, labels)
    with pytest.raises(InvalidArgument, match=f"`data`. Expected {message}.* Received: data='own'"):
        trainer(settings, data)
    assert trainer(TrainSettings(), data).ids is None
    good = ImageData("own", images, np.array([2**40, -5, 0, 2**40]), images, None)
    ids = trainer(settings, good).ids
    assert (ids.dtype, ids.tolist()) == (np.int32, [2, 0, 1, 2])


# From the command line


class Stopped(Exception):
    """Raised in the place of training."""


def stand_in(monkeypatch):
    """Let PyTorch's trainer stop where it begins; gives the list of the images it was given."""

    class MethodTrainer:
        check = join = staticmethod(lambda settings: None)

        def __init__(self, settings, data):
            self.settings = settings
            taken.append(data)

        def fit(self, folder, *, resume, progress):
            raise Stopped

    taken = []
    package = types.SimpleNamespace(MethodTrainer=MethodTrainer)
    monkeypatch.setitem(sys.modules, "fmicl_lightning", package)
    return taken


@pytest.fixture
def train(monkeypatch, tmp_path, fmicl, capsys):
    """Run `fmicl train simclr` up to training: the images taken, and what was said."""
    pytest.importorskip("typer", reason="the command line needs typer")
    taken = stand_in(monkeypatch)

    def run(*options):
        with pytest.raises(Stopped):
            fmicl("train", "simclr", "--batch-size", 2, "--out", tmp_path / "run", *options)
        return taken[-1], capsys.readouterr().err

    return run


def test_a_flat_folder_of_16_bits_trains_without_labels(tmp_path, train):
    picture = of_16_bits(0, 65535)
    save(tmp_path / "data", {f"{i}.PNG": picture for i in range(5)})
    data, said = train("--data", tmp_path / "data")
    assert data.labels is None
    assert data.train_images.tolist() == [[[[0], [255]]]] * 4
    assert "5 pictures of 16 bits scaled to 8 (divided by 257)" in said
    assert "the images have no labels" in said


def test_classes_beside_a_flat_test_train_with_labels(tmp_path, train):
    names = [f"train/{c}/{i}.png" for c in "ab" for i in range(5)] + ["test/1.png"]
    save_images(tmp_path / "data", names)
    data, said = train("--data", tmp_path / "data")
    assert "No labels that training knows are in 'test'" in said
    assert data.labels is not None
    assert (data.class_names, data.evaluated_on) == (("a", "b"), "a held-out fifth")
    assert "no labels" not in said


def test_columns_are_named_on_the_command_line(tmp_path, train):
    other = [content(COLOUR)] * 6
    rows_of([0] * 6, other=other, kind=list("xyxyxy")).to_parquet(tmp_path / "rows.parquet")
    data, _ = train("--data", tmp_path, "--image-column", "other", "--label-column", "kind")
    assert data.train_images.shape == (4, 2, 2, 3)
    assert data.class_names == ("x", "y")


def test_a_search_takes_the_column_of_labels_and_needs_some(tmp_path, monkeypatch, fmicl):
    pytest.importorskip("typer", reason="the command line needs typer")
    stand_in(monkeypatch)
    rows_of([0] * 20, kind=list("xy") * 10).to_parquet(tmp_path / "rows.parquet")
    command = ["sweep", "alpha", "simclr", "--batch-size", 2, "--out", tmp_path / "out"]
    with pytest.raises(Stopped):
        fmicl(*command, "--data", tmp_path, "--label-column", "kind")
    code, _, err = fmicl(*command, "--data", tmp_path)
    assert code == 2
    assert "which need labels" in err


def test_a_typo_of_a_path_ends_the_command_with_the_right_name(tmp_path, monkeypatch, fmicl, hub):
    asked, taken = hub(), stand_in(monkeypatch)
    monkeypatch.chdir(save_images(tmp_path, ["data/folder/1.png"]))
    code, _, err = fmicl("train", "simclr", "--data", "data/foldr")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "Did you mean 'data/folder'? Received: data='data/foldr'" in err
    assert asked == taken == []
