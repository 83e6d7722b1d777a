"""Images that stay in their files: the same as in memory, crops of the originals, the index."""

import io
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the recipes need scikit-learn")
datasets = pytest.importorskip("datasets", reason="the recipes need Hugging Face datasets")
from PIL import Image  # noqa: E402

from fmicl_core.checks import InvalidArgument  # noqa: E402
from fmicl_recipes.augmentation import Photo  # noqa: E402
from fmicl_recipes.batches import Batches  # noqa: E402
from fmicl_recipes.data import StoredImages, index, load_images, places  # noqa: E402
from fmicl_recipes.data import validation_split as held_out  # noqa: E402
from fmicl_recipes.data.index import decoded, header  # noqa: E402
from fmicl_recipes.data.pictures import Decoder, centre  # noqa: E402
from fmicl_recipes.data.stored import crop_box  # noqa: E402
from fmicl_recipes.draws import crop_draws  # noqa: E402
from fmicl_recipes.machines import Process  # noqa: E402
from fmicl_recipes.settings import TrainSettings  # noqa: E402

RNG = np.random.default_rng(0)
WHOLE = Photo(crop_scale=1.0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FMICL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def both(source, **options):
    """The data set in memory and on disk."""
    options = {"progress": False, "workers": 0} | options
    return tuple(load_images(str(source), cache=cache, **options) for cache in ("memory", "disk"))


def noise(width, height, mode="RGB"):
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = RNG.integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.fromarray(pixels[..., 0] if bands == 1 else pixels, mode)


def content(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def turned(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def late_exif():
    """A PNG file whose EXIF stands behind its pixels."""
    file = content(noise(7, 5), exif=turned(6))
    at = file.index(b"eXIf") - 4
    chunk = file[at : at + 12 + int.from_bytes(file[at : at + 4])]
    end = file.index(b"IEND") - 4
    return file[:at] + file[at + len(chunk) : end] + chunk + file[end:]


KINDS = {
    "RGB": content(noise(7, 5)), "grey": content(noise(7, 5, "L")),
    "JPEG": content(noise(7, 5), "JPEG"),
    "CMYK": content(noise(7, 5, "CMYK"), "JPEG"), "RGBA": content(noise(7, 5, "RGBA")),
    "LA": content(noise(7, 5, "LA")), "palette": content(noise(7, 5).quantize(8)),
    "1 bit": content(noise(7, 5, "L").convert("1")),
    "16 bit": content(Image.fromarray(RNG.integers(0, 2**16, (5, 7), dtype=np.uint16))),
    "GIF": content(noise(7, 5), "GIF", save_all=True, append_images=[noise(7, 5)]),
    "grey GIF": content(noise(7, 5, "L"), "GIF"),
    "WebP": content(noise(7, 5, "RGBA"), "WebP", lossless=True),
    "late EXIF": late_exif(),
    **{f"{kind} turned {value}": content(noise(7, 5), kind, exif=turned(value))
       for kind in ("JPEG", "PNG", "TIFF", "WebP") for value in range(2, 9)},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_header_says_what_decoding_gives(kind):
    assert header(KINDS[kind]) == decoded(KINDS[kind])


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("chosen", ["all", "grey"])
def test_pictures_of_every_kind_are_the_same_on_disk_as_in_memory(tmp_path, size, chosen):
    kinds = KINDS if chosen == "all" else {k: c for k, c in KINDS.items() if header(c)[2] == 1}
    kinds = {k: c for k, c in kinds.items() if size or header(c)[:2] == (5, 7)}
    rows = {"image": [*kinds.values()] * 3, "label": list(range(len(kinds))) * 3}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    memory, disk = both(tmp_path / "rows.parquet", image_size=size)
    assert isinstance(disk.train_images, StoredImages)
    assert disk.train_images.shape[3] == (3 if chosen == "all" else 1)
    np.testing.assert_array_equal(disk.train_images[:], memory.train_images)
    np.testing.assert_array_equal(disk.test_images[:], memory.test_images)
    np.testing.assert_array_equal(disk.train_labels, memory.train_labels)


@pytest.fixture
def folder(tmp_path):
    """Photographs of several sizes, in splits of two classes, and some of one grey value."""
    root = tmp_path / "images"
    for number in range(24):
        split = "val" if number % 4 == 3 else "train"
        file = root / split / "ab"[number % 2] / f"{number:02}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        width, height = (int(side) for side in RNG.integers(20, 60, 2))
        noise(width, height).save(file)
    return root


def test_a_folder_is_the_same_on_disk_as_in_memory(folder):
    memory, disk = both(folder, image_size=16, limit=9, seed=3)
    np.testing.assert_array_equal(disk.train_images[:], memory.train_images)
    np.testing.assert_array_equal(disk.train_labels, memory.train_labels)
    np.testing.assert_array_equal(disk.test_images[::2], memory.test_images[::2])
    assert (disk.class_names, disk.evaluated_on) == (memory.class_names, memory.evaluated_on)
    parts = held_out(memory), held_out(disk)
    np.testing.assert_array_equal(parts[1].train_images[:], parts[0].train_images)
    assert pickle.loads(pickle.dumps(disk.train_images))[np.array([2])].shape == (1, 16, 16, 3)


def test_nothing_is_decoded_before_rows_are_taken(folder, monkeypatch):
    monkeypatch.setattr(Decoder, "_decoded", None)
    data = load_images(str(folder), image_size=16, limit=9, cache="disk", progress=False)
    assert data.digest != data.described()["test_digest"]
    assert held_out(data).train_images.nbytes == 7 * 16 * 16 * 3
    with pytest.raises(TypeError):
        data.train_images[:1]


def test_a_picture_covers_the_size_and_is_cut_to_its_centre():
    """Whose left third is black, right third white; in between it is as wide as high."""
    pixels = np.zeros((30, 90, 3), np.uint8)
    pixels[:, 30:60], pixels[:, 60:] = 100, 255
    decoder = Decoder((10, 10))
    cut = decoder.array(pixels, "")
    assert cut.shape == (10, 10, 3)
    assert np.unique(cut[:, 2:-2]).tolist() == [100]  # beside which the filter sees the others
    assert decoder.changes["of other proportions cut to their centre"] == 1
    tall = Decoder((10, 10)).array(np.ascontiguousarray(pixels.transpose(1, 0, 2)), "")
    np.testing.assert_array_equal(tall, cut.transpose(1, 0, 2))
    assert centre((90, 60), (30, 20)) == (0, 0, 90, 60)


def test_square_pictures_are_resized_as_before():
    picture = noise(31, 31)
    expected = np.asarray(picture.resize((12, 12), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(Decoder((12, 12)).array(np.asarray(picture), ""), expected)


# Crops


def stored(*pictures, size=16):
    arrays = [np.asarray(picture) for picture in pictures]
    return StoredImages(arrays, ["x"] * len(arrays), (size, size, 3))


def test_a_crop_of_all_is_the_whole_picture_resized():
    picture = noise(40, 40)
    images = stored(picture)
    crops = images.crops(np.array([0]), np.zeros((1, 2, 4)), WHOLE)
    expected = np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR))
    assert crops.shape == (1, 2, 16, 16, 3)
    for crop in crops[0]:
        np.testing.assert_array_equal(crop, expected)


def test_crops_keep_to_the_bounds_of_area_and_aspect():
    strengths = Photo(crop_scale=0.2)
    draws = crop_draws(2000, 1, 0, 0)[:, 0]
    left, top, right, bottom = np.array([crop_box((60, 60), d, strengths) for d in draws]).T
    width, height = right - left, bottom - top
    assert min(left.min(), top.min()) >= 0
    assert max(right.max(), bottom.max()) <= 60
    area, aspect = width * height / 3600, width / height
    low, high = strengths.aspect
    assert 0.2 - 1e-9 <= area.min() < 0.22
    assert low - 1e-9 <= aspect.min() < low + 0.02
    assert high - 0.02 < aspect.max() <= high + 1e-9
    assert area.mean() == pytest.approx(0.59, abs=0.02)  # less than 0.6 by what is cut
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.02)
    assert (left + right).mean() == pytest.approx(60, abs=2)
    assert (top + bottom).mean() == pytest.approx(60, abs=2)


@pytest.mark.parametrize("size", [(20, 60), (60, 20), (3, 3)])
def test_crops_of_long_pictures_stay_inside(size):
    for draw in crop_draws(200, 1, 1, 1)[:, 0]:
        left, top, right, bottom = crop_box(size, draw, Photo(crop_scale=0.9))
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


def test_constant_pictures_stay_constant():
    images = stored(Image.new("RGB", (50, 30), (9, 99, 199)))
    crops = images.crops(np.array([0]), crop_draws(1, 8, 0, 0), Photo())
    assert np.unique(crops.reshape(-1, 3), axis=0).tolist() == [[9, 99, 199]]


def test_parts_of_several_processes_are_the_whole_batch(folder):
    data = load_images(str(folder), image_size=16, cache="disk", progress=False, workers=0)
    settings = TrainSettings(data=str(folder), batch_size=6, epochs=2, cache="disk")
    whole = Batches(data, settings)
    parts = [Batches(data, settings, process=Process(i, 3)) for i in range(3)]
    for step in (0, 5):
        batch = whole[step]["images"]
        assert batch.shape == (6, 2, 16, 16, 3)
        assert batch.nbytes == whole.nbytes == 3 * parts[0].nbytes
        joined = np.concatenate([part[step]["images"] for part in parts])
        np.testing.assert_array_equal(joined, batch)
        np.testing.assert_array_equal(whole[step]["images"], batch)
    assert not np.array_equal(whole[0]["images"][:, 0], whole[0]["images"][:, 1])


@pytest.mark.parametrize("turn", [1, 6])
def test_a_jpeg_file_that_is_decoded_small_gives_nearly_the_same_crops(turn):
    """Of a picture without noise, against the same crops of its decoded array."""
    waves = np.sin(np.arange(300) / 20)[:, None] + np.cos(np.arange(200) / 15)
    picture = Image.fromarray(np.uint8(127 + 60 * waves)).convert("RGB")
    file = content(picture, "JPEG", quality=95, exif=turned(turn))
    array = Decoder().array(file, "")
    draws = crop_draws(1, 2, 0, 0)
    args = np.array([0]), draws, Photo(crop_scale=0.5)
    small, whole = (StoredImages([p], ["x"], (16, 16, 3)).crops(*args) for p in (file, array))
    assert not np.array_equal(small, whole)
    assert np.abs(small.astype(float) - whole).mean() < 3


# The index


@pytest.fixture
def looks(monkeypatch):
    """Counts the pictures that are looked at."""
    seen = []
    monkeypatch.setattr(index, "HEADERS", 2)
    monkeypatch.setattr(index, "DECODED", 2)
    monkeypatch.setattr(index, "header", lambda picture: seen.append(picture) or header(picture))
    return seen


def test_the_index_is_kept_until_a_file_changes(folder, looks, cache):
    def load():
        looks.clear()
        data = load_images(str(folder), image_size=16, cache="disk", progress=False, workers=0)
        return len(looks), data.digest

    first = load()
    assert first[0] == 24
    assert len(list(cache.iterdir())) == 2  # of training and of evaluation
    assert load() == (0, first[1])
    changed = folder / "val" / "b" / "03.jpg"
    noise(20, 21).save(changed)
    again = load()
    assert again[0] == 6
    assert again[1] != first[1]
    os.utime(changed, ns=(0, 0))
    assert load() == (6, again[1])
    for file in cache.iterdir():
        file.write_bytes(b"half of it")
    assert load() == (24, again[1])


def test_no_index_is_kept_where_nothing_can_be_written(folder, looks, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FMICL_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        load_images(str(folder), image_size=16, cache="disk", progress=False, workers=0)
    assert len(looks) == 48


def test_the_cache_has_its_usual_places(monkeypatch, tmp_path):
    assert index.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("FMICL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert index.cache_folder() == Path("/x/fmicl")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert index.cache_folder() == Path.home() / ".cache" / "fmicl"


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_sizes_that_differ_need_a_size(folder, cache):
    with pytest.raises(InvalidArgument, match=r"`image_size`. Expected a size, as images differ"):
        load_images(str(folder), cache=cache, progress=False, workers=0)


# Corrupt images


def spoil(folder, *names):
    for name in names:
        file = folder / name
        file.write_bytes(file.read_bytes()[:-200])  # whose header is whole


CORRUPT = ["train/a/00.jpg", "train/a/04.jpg", "val/b/03.jpg", "train/b/01.jpg"]


def test_corrupt_images_are_left_out_and_named(folder):
    spoil(folder, *CORRUPT)
    message = r"4 corrupt images are left out: train/a/00.jpg, train/a/04.jpg, train/b/01.jpg, \.\."
    with pytest.warns(UserWarning, match=message) as told:
        memory, disk = both(folder, image_size=16, skip_corrupt=True)
    assert len(told) == 2
    assert (len(disk.train_images), len(disk.test_images)) == (15, 5)
    np.testing.assert_array_equal(disk.train_images[:], memory.train_images)
    np.testing.assert_array_equal(disk.train_labels, memory.train_labels)
    np.testing.assert_array_equal(disk.test_images[:], memory.test_images)


def test_the_list_of_corrupt_images_is_kept(folder, looks, monkeypatch):
    spoil(folder, CORRUPT[0])
    for again in (False, True):
        if again:
            monkeypatch.setattr(index, "decoded", None)
        with pytest.warns(UserWarning, match=r"1 corrupt image is left out: train/a/00.jpg\.$"):
            load_images(str(folder), image_size=16, cache="disk", progress=False, workers=0,
                        skip_corrupt=True)  # fmt: skip


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_split_without_an_image_that_can_be_decoded_is_refused(folder, cache):
    for file in (folder / "val").rglob("*.jpg"):
        file.write_bytes(b"nothing")
    with pytest.raises(InvalidArgument, match=r"at least one image in every .* All 6 of 'val' are"):
        load_images(str(folder), image_size=16, cache=cache, progress=False, workers=0,
                    skip_corrupt=True)  # fmt: skip


def test_a_header_that_cannot_be_read_is_named_before_training(folder):
    (folder / "val" / "b" / "03.jpg").write_bytes(b"nothing")
    with pytest.raises(InvalidArgument, match=r"corrupt image='val/b/03.jpg'"):
        load_images(str(folder), image_size=16, cache="disk", progress=False, workers=0)


@pytest.mark.parametrize("gone", [False, True], ids=["corrupt", "gone"])
def test_an_image_that_goes_bad_is_named_when_its_batch_is_read(folder, gone):
    data = load_images(str(folder), image_size=16, cache="disk", progress=False, workers=0)
    (folder / CORRUPT[0]).unlink() if gone else spoil(folder, CORRUPT[0])
    for take in (
        lambda: data.train_images[:],
        lambda: data.train_images.crops(np.arange(18), crop_draws(18, 2, 0, 0), Photo()),
    ):
        with pytest.raises(InvalidArgument, match=r"--resume.*--skip-corrupt.*'train/a/00.jpg'"):
            take()


# Memory or disk


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [None, 8])
def test_auto_takes_the_memory_that_is_there(tmp_path, monkeypatch, mode, size):
    for number in range(10):
        (tmp_path / "set").mkdir(exist_ok=True)
        noise(8, 8, mode).save(tmp_path / "set" / f"{number}.png")
    need = 10 * 64 * (3 if mode == "RGB" else 1)

    def chosen(free):
        monkeypatch.setattr(places, "free_memory", lambda: free)
        data = load_images(str(tmp_path / "set"), image_size=size, cache="auto", progress=False)
        return isinstance(data.train_images, StoredImages)

    assert not chosen(2 * need)
    assert chosen(2 * need - 1)


def test_what_is_too_large_for_memory_is_refused_with_the_way_out(folder, monkeypatch):
    monkeypatch.setattr("fmicl_recipes.data.arrays.free_memory", lambda: 1000)
    with pytest.raises(InvalidArgument, match=r"With cache = 'disk' they stay in their files"):
        load_images(str(folder), image_size=16, progress=False)


# Labels that are missing


@pytest.mark.parametrize("cache", ["memory", "disk"])
@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_a_test_split_whose_labels_are_all_minus_one_is_passed_over(tmp_path, cache, kind):
    picture = content(noise(4, 4))
    splits = {"train": [0, 1, 0], "validation": [1, 0], "test": [-1, -1]}
    for key, labels in splits.items():
        rows = datasets.Dataset.from_dict({"image": [picture] * len(labels), "label": labels})
        if kind == "parquet":
            rows.to_parquet(tmp_path / "set" / f"{key}.parquet")
        else:
            rows.save_to_disk(tmp_path / "set" / key)
    with pytest.warns(UserWarning, match="evaluated on 'validation'"):
        data = load_images(str(tmp_path / "set"), cache=cache, progress=False, workers=0)
    assert data.test_labels.tolist() == [1, 0]


# Shards


def test_web_datasets_are_read(tmp_path):
    import tarfile

    for shard in range(2):
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as tar:
            for number in range(4):
                for ending, what in (("png", KINDS["RGB"]), ("cls", b"%d" % (number % 2))):
                    entry = tarfile.TarInfo(f"{shard}{number}.{ending}")
                    entry.size = len(what)
                    tar.addfile(entry, io.BytesIO(what))
    memory, disk = both(tmp_path)
    assert disk.train_images.shape == (6, 5, 7, 3)
    assert disk.labels is not None
    np.testing.assert_array_equal(disk.train_images[:], memory.train_images)


@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_a_shard_that_ends_early_is_named(tmp_path, kind):
    rows = datasets.Dataset.from_dict({"image": [content(noise(30, 30))] * 20})
    if kind == "parquet":
        (tmp_path / "set").mkdir()
        for number in (0, 1):
            rows.to_parquet(tmp_path / "set" / f"train-{number}.parquet")
    else:
        rows.save_to_disk(tmp_path / "set", num_shards=2)
    shard = sorted((tmp_path / "set").glob("*-*0001*" if kind == "saved" else "*-1*"))[0]
    shard.write_bytes(shard.read_bytes()[:-3000])
    with pytest.raises(InvalidArgument, match=f"{shard.name} cannot be read to its end"):
        load_images(str(tmp_path / "set"), progress=False)


def test_no_warning_where_nothing_is_left_out(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both(folder, image_size=16, skip_corrupt=True)
