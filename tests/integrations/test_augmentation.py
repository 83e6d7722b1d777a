"""Random views, the same contract in every framework.

Keras chooses its backend at import, so test_keras_trainers.py runs this file again
in a process for each, with KERAS_BACKEND set; it then tests Keras alone.
"""

import colorsys
import importlib
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fmicl_recipes import TrainSettings
from fmicl_recipes.augmentation import PHOTO, VIEWS, YIQ, Photo

BACKEND = os.environ.get("KERAS_BACKEND", "")
FRAMEWORKS = ("tensorflow",) if BACKEND else ("torch", "jax")
#: No step at all; of these the tests switch on one.
OFF = Photo(crop_scale=1.0, jitter=0.0, blur=0.0, grayscale=0.0, flip=0.0)
CHANNELS = (1, 3, 4)


class InTorch:
    package = "fmicl_lightning"

    def __init__(self, require):
        self.torch = require("torch")

    def build(self, name, shape, strengths):
        from fmicl_lightning import build_augmentation

        augment = build_augmentation(name, shape[:2], strengths)

        def draw(images, seed=0):
            self.torch.manual_seed(seed)
            views = augment(self.torch.from_numpy(images.copy()).permute(0, 3, 1, 2))
            return views.permute(0, 2, 3, 1).numpy()

        return draw


class InJax:
    package = "fmicl_flax"

    def __init__(self, require):
        self.jax = require("jax")
        require("flax")

    def build(self, name, shape, strengths):
        from fmicl_flax import build_augmentation

        augment = self.jax.jit(self.jax.vmap(build_augmentation(name, strengths)))

        def draw(images, seed=0):
            keys = self.jax.random.split(self.jax.random.key(seed), len(images))
            return np.asarray(augment(keys, images))

        return draw


class InKeras:
    package = "fmicl_keras"

    def __init__(self, require):
        self.ops = require("keras").ops

    def build(self, name, shape, strengths):
        from fmicl_keras.augment import build_augmentation

        def draw(images, seed=0, call=1):
            augment = build_augmentation(name, shape, seed, strengths)
            for _ in range(call):
                views = augment(self.ops.convert_to_tensor(images), training=True)
            return self.ops.convert_to_numpy(views)

        return draw


@pytest.fixture(scope="module", params=FRAMEWORKS)
def framework(request, require):
    return {"torch": InTorch, "jax": InJax, "tensorflow": InKeras}[request.param](require)


@pytest.fixture(scope="module")
def views_of(framework):
    """From float images (N, H, W, C) and strengths of "photo" to one view of each."""

    def draw(images, strengths):
        images = np.asarray(images, np.float32)
        return framework.build("photo", images.shape[1:], strengths)(images)

    return draw


def noise(count, height, width, channels, low=0.0, high=1.0):
    draw = np.random.default_rng(0)
    return draw.uniform(low, high, (count, height, width, channels)).astype(np.float32)


STRONG = Photo(0.08, 1.0, 0.5, 0.2, 0.5)


@pytest.mark.parametrize(
    ("name", "strengths", "channels"),
    [("photo", PHOTO, 1), ("photo", PHOTO, 3), ("photo", PHOTO, 4), ("photo", STRONG, 3),
     ("digits", PHOTO, 1), ("digits", PHOTO, 4)],
)  # fmt: skip
def test_views_are_random_per_image_and_keep_shape_and_range(framework, name, strengths, channels):
    images = np.tile(noise(1, 8, 8, channels), (64, 1, 1, 1))
    draw = framework.build(name, images.shape[1:], strengths)
    views = draw(images)
    assert views.shape == images.shape
    assert np.isfinite(views).all()
    assert len(np.unique(views.reshape(64, -1), axis=0)) > 60  # two may be the whole image
    slack = 0.5 if name == "digits" else 1e-6  # noise is not cut
    assert -slack <= views.min() < views.max() <= 1.0 + slack
    np.testing.assert_array_equal(draw(images), views)
    assert not np.allclose(draw(images, seed=1), views)
    if framework.package == "fmicl_keras":  # whose layers keep the state of their generators
        assert not np.allclose(draw(images, call=2), views)


@pytest.mark.parametrize("channels", CHANNELS)
def test_with_every_step_off_a_view_is_the_image(views_of, channels):
    images = noise(4, 6, 8, channels)
    np.testing.assert_array_equal(views_of(images, OFF), images)


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_flip_alone_is_the_mirror_image(views_of, channels):
    images = noise(4, 6, 8, channels)
    np.testing.assert_array_equal(views_of(images, OFF._replace(flip=1.0)), images[:, :, ::-1])


@pytest.mark.parametrize("channels", CHANNELS)
def test_grey_has_the_luminance_of_the_colours_and_needs_three(views_of, channels):
    images = noise(4, 6, 8, channels)
    want = images
    if channels == 3:
        want = np.repeat(images @ YIQ[0][:, None], 3, axis=3)
    views = views_of(images, OFF._replace(grayscale=1.0))
    np.testing.assert_allclose(views, want, atol=1e-6)


@pytest.mark.parametrize("step", ["flip", "grayscale", "blur"])
def test_a_step_is_taken_with_its_probability(views_of, step):
    """Within five standard deviations; a blur by less than a fifth of a pixel is not seen."""
    images = noise(400, 6, 6, 3)
    changed = np.abs(views_of(images, OFF._replace(**{step: 0.25})) - images).max(axis=(1, 2, 3))
    assert abs((changed > 1e-6).sum() - 100) < 5 * np.sqrt(400 * 0.25 * 0.75)


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_blur_is_a_gaussian_of_a_tenth_of_the_side(views_of, channels):
    """Of a point: 5 x 7 pixels of a 40 x 60 image, with a sigma of its own for each."""
    images = np.zeros((32, 40, 60, channels), np.float32)
    images[:, 20, 30] = 1.0
    views = views_of(images, OFF._replace(blur=1.0))
    np.testing.assert_allclose(views.sum(axis=(1, 2)), 1.0, rtol=1e-5)
    rows, columns = views.sum(axis=2)[..., 0], views.sum(axis=1)[..., 0]
    np.testing.assert_allclose(
        views, (rows[:, :, None] * columns[:, None])[..., None].repeat(channels, 3), atol=1e-6
    )
    assert set(np.flatnonzero(rows.max(axis=0) > 1e-6)) == set(range(18, 23))
    assert set(np.flatnonzero(columns.max(axis=0) > 1e-6)) == set(range(27, 34))
    for line, middle in ((rows, 20), (columns, 30)):
        ratio = line[:, middle + 1] / line[:, middle]  # exp(-1 / (2 sigma^2))
        assert ratio.max() <= np.exp(-0.5 / 2.0**2) + 1e-5
        assert ratio.max() > np.exp(-0.5 / 1.6**2)
        assert ratio.min() < np.exp(-0.5 / 0.5**2)
        np.testing.assert_allclose(line[:, middle + 2], line[:, middle] * ratio**4, atol=1e-5)


def test_a_blur_keeps_what_is_constant_and_smooths_the_rest(views_of):
    blur = OFF._replace(blur=1.0)
    flat = np.full((4, 2, 24, 1), 0.7)  # two rows are the fewest there can be
    np.testing.assert_allclose(views_of(flat, blur), flat, atol=1e-6)
    images = noise(64, 16, 16, 3)
    views = views_of(images, blur)
    np.testing.assert_allclose(views.mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=0.02)
    assert (views.var(axis=(1, 2)) <= images.var(axis=(1, 2)) * (1 + 1e-5)).all()
    assert views.var() < 0.6 * images.var()


@pytest.mark.parametrize("least", [0.08, 0.2, 0.9])
def test_a_crop_keeps_the_least_share_of_the_area_at_least(views_of, least):
    """Seen by two ramps, of which a crop shows a part; a pixel is 1/63 of them."""
    across, down = np.meshgrid(np.linspace(0, 1, 64), np.linspace(0, 1, 64))
    images = np.tile(np.stack([across, down], axis=2), (300, 1, 1, 1))
    views = views_of(images, OFF._replace(crop_scale=least))
    width, height = (np.ptp(views[..., c], axis=(1, 2)) for c in (0, 1))
    area, pixel = width * height, 1 / 63
    assert ((width + pixel) * (height + pixel) >= least).all()
    assert area.min() < least + 0.1 * (1.0 - least)
    assert area.max() > 0.9
    assert (width <= 1.35 * (height + pixel)).all()
    assert (height <= 1.35 * (width + pixel)).all()
    assert np.ptp(views[:, 0, 0], axis=0).min() > 0.5 * (1.0 - least**0.5)  # anywhere


@pytest.mark.parametrize(("strength", "channels"), [(0.25, 3), (0.5, 1), (0.5, 4), (1.0, 3)])
def test_jitter_changes_brightness_and_contrast_by_their_factors(views_of, strength, channels):
    """Of a picture without colours, which saturation and hue leave alone: mean and contrast."""
    images = np.full((300, 8, 8, channels), 0.3)
    images[:, :, 4:] = 0.34
    views = views_of(images, OFF._replace(jitter=strength))
    bright = views.mean(axis=(1, 2, 3)) / 0.32
    dark, light = views[:, 0, 0, 0], views[:, 0, 7, 0]
    contrast = (light - dark) / 0.04 / bright
    bound = 0.8 * strength
    for factor in (bright, contrast):
        assert 1.0 - bound - 1e-4 <= factor.min() < 1.0 - 0.8 * bound
        assert 1.0 + 0.8 * bound < factor.max() <= 1.0 + bound + 1e-4
    alone = (np.abs(views - images).max(axis=(1, 2, 3)) < 1e-6).sum()
    assert abs(alone - 60) < 5 * np.sqrt(300 * 0.2 * 0.8)


@pytest.mark.parametrize("strength", [0.25, 0.5])
def test_jitter_turns_the_hue_and_stretches_the_saturation(views_of, strength):
    """As far as HSV can say it of a turn in the plane of the chrominances of YIQ."""
    images = np.tile(np.array([0.5, 0.4, 0.4]), (300, 2, 2, 1))
    views = views_of(images, OFF._replace(jitter=strength))[:, 0, 0]
    hue = np.array([colorsys.rgb_to_hsv(*map(float, view))[0] for view in views])
    turn = (hue + 0.5) % 1.0 - 0.5
    assert 0.7 * 0.2 * strength < turn.max() < 1.5 * 0.2 * strength
    assert 0.7 * 0.2 * strength < -turn.min() < 1.5 * 0.2 * strength
    vivid = np.ptp(views, axis=1) / views.mean(axis=1) / (0.1 / images.mean())
    bound = 0.8 * strength
    assert vivid.min() < 1.0 - 0.7 * bound
    assert vivid.max() > 1.0 + 0.7 * bound


@pytest.mark.parametrize("name", ["auto", "photos"])
def test_names_that_are_none_are_refused(framework, name):
    with pytest.raises(ValueError, match=r"`augmentation`. Expected one of 'photo', 'digits'"):
        framework.build(name, (8, 8, 1), PHOTO)(noise(2, 8, 8, 1))


@pytest.mark.parametrize(
    ("strength", "value"), [("crop_scale", 0.0), ("jitter", 1.5), ("blur", -0.1), ("flip", 2)]
)
def test_strengths_out_of_range_are_refused(framework, strength, value):
    with pytest.raises(
        ValueError, match=rf"`{strength}`. Expected .* Received: {strength}={value}"
    ):
        framework.build("photo", (8, 8, 1), PHOTO._replace(**{strength: value}))(noise(2, 8, 8, 1))
    with pytest.raises(ValueError, match=f"`{strength}`. Expected "):
        TrainSettings(augmentation="photo", **{strength: value})


def test_the_settings_reach_the_augmentation(framework, monkeypatch):
    """Up to where the method would be made, without networks."""
    build = importlib.import_module(f"{framework.package}.build")

    class Reached(Exception):
        pass

    def augmentation(name, *others):
        raise Reached(name, others[-1])

    monkeypatch.setattr(build, "build_augmentation", augmentation)
    monkeypatch.setattr(build, "build_encoder", lambda *_, **__: None)
    if hasattr(build, "feature_width"):
        monkeypatch.setattr(build, "feature_width", lambda *_: 8)
    photo = Photo(crop_scale=0.3, jitter=0.1, blur=0.4, grayscale=0.6, flip=0.7)
    settings = TrainSettings(augmentation="photo", **photo._asdict())
    steps = (10,) if framework.package == "fmicl_keras" else ()
    with pytest.raises(Reached) as reached:
        build.build_method(settings, (8, 8, 1), *steps)
    assert reached.value.args == ("photo", photo)


@pytest.mark.skipif(bool(BACKEND), reason="of JAX alone")
def test_equal_augmentations_in_jax_are_one_object(require):
    """So that equal runs share one compiled step."""
    require("flax")
    from fmicl_flax import build_augmentation

    for name in VIEWS:
        assert build_augmentation(name, Photo(flip=0.1)) is build_augmentation(
            name, Photo(flip=0.1)
        )
    assert build_augmentation("photo") is not build_augmentation("photo", Photo(flip=0.1))


@pytest.fixture(scope="module")
def grey_pictures(tmp_path_factory):
    """A folder of grey PNGs, one sub-folder a class: bars that lie and bars that stand."""
    folder, draw = tmp_path_factory.mktemp("grey"), np.random.default_rng(0)
    for name, stands in (("lying", False), ("standing", True)):
        (folder / name).mkdir()
        for i in range(48):
            picture = draw.integers(0, 100, (16, 16)).astype(np.uint8)
            start = draw.integers(0, 12)
            picture[start : start + 4] += 120
            Image.fromarray(picture.T if stands else picture).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.long
@pytest.mark.skipif(bool(BACKEND), reason="the command starts Keras itself")
@pytest.mark.parametrize(
    "name",
    ["torch", pytest.param("jax", marks=pytest.mark.slow),
     pytest.param("tensorflow", marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_folder_of_grey_pictures_is_trained_on(tmp_path, require, grey_pictures, fmicl, name):
    require({"torch": "lightning", "jax": "flax", "tensorflow": "keras"}[name])
    require("typer")
    run, options = tmp_path / "run", ["--epochs", "1", "--batch-size", "32", "--width", "8"]
    command = ["train", "simclr", "--data", grey_pictures, "--framework", name, *options,
               "--encoder", "smallconv", "--blur", "0.5", "--device", "cpu",
               "--out", run]  # fmt: skip
    if name == "torch":
        code, _, err = fmicl(*command)
    else:  # Keras takes its backend when it is imported, and JAX its devices
        done = subprocess.run(
            [sys.executable, "-m", "fmicl_cli", *command], capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        code, err = done.returncode, done.stderr
    assert code == 0, err
    assert (run / "metrics.json").exists()
    assert '"augmentation": "photo"' in (run / "settings.json").read_text()
