"""The same draws give the same views in every framework, as the conventions say them.

The reference follows the sentences of `fmicl_recipes.augmentation` in NumPy and SciPy, image by
image and in float64. Keras chooses its backend at import, so test_keras_trainers.py runs this file
again in a process for each, with KERAS_BACKEND set; it then tests Keras alone.
"""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmicl_recipes.augmentation import DIGITS, JITTERED, DigitDraws, Photo, PhotoDraws

BACKEND = os.environ.get("KERAS_BACKEND", "")
FRAMEWORKS = ("keras",) if BACKEND else ("torch", "jax")
TOLERANCE = 1e-5
#: Every step, taken half of the time.
STRONG = Photo(crop_scale=0.1, jitter=0.5, blur=0.5, grayscale=0.5, flip=0.5)
#: Height, width and channels: colour, and none; square, and not; a blur of one pixel and of two.
SHAPES = ((12, 12, 3), (40, 24, 4), (9, 16, 1))
COUNT = 24


# The reference


def between(draw, low, high):
    return low + (high - low) * draw


def read(image, rows, columns, mode):
    """The image at places in pixels, whose centres are at a half; SciPy has them at 0."""
    from scipy.ndimage import map_coordinates

    places = np.broadcast_arrays(rows - 0.5, columns - 0.5)
    channels = [map_coordinates(c, places, order=1, mode=mode) for c in np.moveaxis(image, 2, 0)]
    return np.stack(channels, axis=2)


def box(shape, draws, areas, aspects):
    """Top, left, height and width of a box in pixels."""
    area = between(draws.area, *areas)
    aspect = np.exp(between(draws.aspect, *np.log(aspects)))
    high, wide = min(1.0, np.sqrt(area * aspect)), min(1.0, np.sqrt(area / aspect))
    top, left = draws.top * (1.0 - high) * shape[0], draws.left * (1.0 - wide) * shape[1]
    return top, left, high * shape[0], wide * shape[1]


def photo(image, draws, strengths, size=None):
    size = size or image.shape[:2]
    colour = image.shape[2] == 3
    y = np.array([0.299, 0.587, 0.114])
    top, left, high, wide = box(image.shape, draws, (strengths.crop_scale, 1), strengths.aspect)
    rows = top + high * (np.arange(size[0]) + 0.5) / size[0]
    columns = left + wide * (np.arange(size[1]) + 0.5) / size[1]
    image = read(image, rows[:, None], columns[None, :], "nearest")
    if draws.flip < strengths.flip:
        image = image[:, ::-1]
    if draws.jitter < JITTERED:
        low, high = strengths.factors
        image = image * between(draws.brightness, low, high)
        mean = (image @ y).mean() if colour else image.mean()
        image = mean + between(draws.contrast, low, high) * (image - mean)
        if colour:
            ntsc = np.array([y, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
            turn = 2 * np.pi * between(draws.hue, -strengths.turn, strengths.turn)
            factor = between(draws.saturation, low, high)
            luminance, i, q = np.moveaxis(image @ ntsc.T, 2, 0)
            plane = factor * np.exp(1j * turn) * (i + 1j * q)
            image = np.stack([luminance, plane.real, plane.imag], axis=2) @ np.linalg.inv(ntsc).T
        image = np.clip(image, 0.0, 1.0)
    if colour and draws.grey < strengths.grayscale:
        image = np.repeat((image @ y)[:, :, None], 3, axis=2)
    if draws.blur < strengths.blur:
        image = blurred(image, between(draws.sigma, 0.1, 2.0))
    return image


def blurred(image, sigma):
    from scipy.ndimage import correlate1d

    for axis in (0, 1):
        radius = max(image.shape[axis] // 20, 1)
        weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2.0 * sigma**2))
        image = correlate1d(image, weights / weights.sum(), axis, mode="mirror")
    return image


def digits(image, draws):
    """The map of a point (x right, y down) is written forwards, and inverted as a matrix."""
    height, width = image.shape[:2]
    bound = np.radians(DIGITS.degrees)
    angle, shear = between(draws.angle, -bound, bound), between(draws.shear, -bound, bound)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    sheared = np.array([[1.0, np.tan(shear)], [0.0, 1.0]])
    forwards = between(draws.scale, *DIGITS.scale) * sheared @ turned
    shift = [between(d, -DIGITS.shift, DIGITS.shift) for d in (draws.right, draws.down)]
    middle = np.array([width, height]) / 2.0
    view = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=2)
    points = (view - middle - np.array([width, height]) * shift) @ np.linalg.inv(forwards).T
    image = read(image, points[..., 1] + middle[1], points[..., 0] + middle[0], "grid-constant")
    image = image + DIGITS.noise * draws.noise
    if draws.erased < DIGITS.erased:
        top, left, high, wide = box(image.shape, draws, DIGITS.erased_area, DIGITS.erased_aspect)
        x, y = view[..., 0], view[..., 1]
        image[(top <= y) & (y < top + high) & (left <= x) & (x < left + wide)] = 0.0
    return image


# The frameworks: called, they apply draws; `random` gives a random view and what was drawn for it


class InTorch:
    def __init__(self, require):
        self.torch = require("torch")

    def __call__(self, name, images, draws, size=None):
        from fmicl_lightning import build_augmentation

        augment = build_augmentation(name, size or images.shape[1:3], STRONG)
        parts = {}
        for field, draw in draws._asdict().items():
            draw = self.torch.from_numpy(draw)
            ones = [1] * (3 if name == "photo" else 2)
            parts[field] = draw.permute(0, 3, 1, 2) if draw.ndim > 1 else draw.reshape(-1, *ones)
        inputs = self.torch.from_numpy(images).permute(0, 3, 1, 2)
        return augment.view(inputs, type(draws)(**parts)).permute(0, 2, 3, 1).numpy()

    def random(self, name, images):
        from fmicl_lightning import build_augmentation

        augment = build_augmentation(name, images.shape[1:3], STRONG)
        inputs = self.torch.from_numpy(images).permute(0, 3, 1, 2)
        self.torch.manual_seed(0)
        draws = augment.draw(inputs)
        self.torch.manual_seed(0)
        views = augment(inputs).permute(0, 2, 3, 1).numpy()
        fields = {
            n: d.permute(0, 2, 3, 1) if n == "noise" else d for n, d in draws._asdict().items()
        }
        return views, {n: d.numpy() for n, d in fields.items()}


class InJax:
    def __init__(self, require):
        self.jax = require("jax")
        require("flax")
        from fmicl_flax import augment

        self.augment = augment
        self.views = {
            "photo": self.jax.jit(self.jax.vmap(lambda x, d: augment.photo_view(x, d, STRONG))),
            "digits": self.jax.jit(self.jax.vmap(augment.digit_view)),
        }

    def __call__(self, name, images, draws):
        return np.asarray(self.views[name](images, draws))

    def random(self, name, images):
        keys = self.jax.random.split(self.jax.random.key(0), len(images))
        views = self.jax.vmap(self.augment.build_augmentation(name, STRONG))(keys, images)
        if name == "photo":
            draws = self.jax.vmap(self.augment.photo_draws)(keys)
        else:
            draws = self.jax.vmap(self.augment.digit_draws)(keys, images)
        return np.asarray(views), {n: np.asarray(d) for n, d in draws._asdict().items()}


class InKeras:
    def __init__(self, require):
        self.ops = require("keras").ops

    def __call__(self, name, images, draws):
        from fmicl_keras import augment

        tensor = self.ops.convert_to_tensor
        ones = [1] * (3 if name == "photo" else 2)
        parts = {
            field: tensor(draw if draw.ndim > 1 else draw.reshape(-1, *ones))
            for field, draw in draws._asdict().items()
        }
        given = tensor(images), type(draws)(**parts)
        views = (
            augment.photo_view(*given, STRONG) if name == "photo" else augment.digit_view(*given)
        )
        return self.ops.convert_to_numpy(views)

    def random(self, name, images):
        from fmicl_keras.augment import build_augmentation

        tensor = self.ops.convert_to_tensor(images)
        model, again = (build_augmentation(name, images.shape[1:], 0, STRONG) for _ in range(2))
        draws = again.layers[-1].draw(tensor)
        fields = {n: d for n, d in draws._asdict().items() if d is not None}
        views = self.ops.convert_to_numpy(model(tensor, training=True))
        return views, {n: self.ops.convert_to_numpy(d) for n, d in fields.items()}


@pytest.fixture(scope="module", params=FRAMEWORKS)
def framework(request, require):
    require("scipy")
    return {"torch": InTorch, "jax": InJax, "keras": InKeras}[request.param](require)


def table(kind, shape, seed):
    """Images and draws in float32: no framework draws, and all of them are given the same bits."""
    draw = np.random.default_rng(seed)
    fields = {name: draw.random(COUNT, np.float32) for name in kind._fields}
    images = draw.random((COUNT, *shape), np.float32)
    if kind is DigitDraws:
        fields["noise"] = draw.standard_normal(images.shape, np.float32)
    return images, kind(**fields)


def row(draws, index):
    return type(draws)(*(np.asarray(draw[index], np.float64) for draw in draws))


def expected(name, images, draws, **options):
    if name == "photo":
        views = (photo(x, row(draws, i), STRONG, **options) for i, x in enumerate(images))
    else:
        views = (digits(x, row(draws, i)) for i, x in enumerate(images))
    return np.stack(list(views))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "kind"), [("photo", PhotoDraws), ("digits", DigitDraws)])
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_same_draws_give_the_views_of_the_reference(framework, name, kind, shape, seed):
    images, draws = table(kind, shape, seed)
    want = expected(name, images.astype(np.float64), draws)
    np.testing.assert_allclose(framework(name, images, draws), want, rtol=0, atol=TOLERANCE)


@pytest.mark.skipif(bool(BACKEND), reason="of PyTorch alone, whose views may have another size")
def test_a_crop_of_another_size_keeps_the_conventions(require):
    images, draws = table(PhotoDraws, (12, 20, 3), 0)
    want = expected("photo", images.astype(np.float64), draws, size=(30, 8))
    views = InTorch(require)("photo", images, draws, size=(30, 8))
    np.testing.assert_allclose(views, want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("name", "kind"), [("photo", PhotoDraws), ("digits", DigitDraws)])
def test_random_views_are_those_of_what_was_drawn(framework, name, kind):
    """So that what is compared above is what trains; every number is drawn for itself."""
    images, _ = table(kind, SHAPES[0], 1)
    views, drawn = framework.random(name, images)
    draws = kind(**{n: d if n == "noise" else d.reshape(COUNT) for n, d in drawn.items()})
    np.testing.assert_allclose(views, expected(name, images, draws), rtol=0, atol=TOLERANCE)
    numbers = np.stack([draw for draw in draws if draw.ndim == 1])
    assert 0.0 <= numbers.min() < numbers.max() < 1.0
    assert len(np.unique(numbers)) == numbers.size
    assert np.abs(np.corrcoef(numbers) - np.eye(len(numbers))).max() < 0.8


@pytest.mark.parametrize(
    ("moved", "place"),
    [({"angle": 1.0}, "turned clockwise"), ({"shear": 1.0}, "lower part to the right"),
     ({"scale": 1.0}, "larger"), ({"right": 1.0}, "right"), ({"down": 1.0}, "down")],
)  # fmt: skip
def test_positive_numbers_move_a_point_as_the_conventions_say(framework, moved, place):
    """Two points of a 41 x 41 image, 10 pixels to the right of and below the centre."""
    images = np.zeros((1, 41, 41, 1), np.float32)
    still = dict.fromkeys(DigitDraws._fields, 0.5) | moved
    fields = {name: np.full(1, draw, np.float32) for name, draw in still.items()}
    fields["noise"] = np.zeros_like(images)
    draws = DigitDraws(**fields)
    ends = []
    for i, j in ((20, 30), (30, 20)):
        images[:] = 0.0
        images[0, i, j] = 1.0
        view = framework("digits", images, draws)[0, :, :, 0]
        down, right = (np.arange(41) - 20) @ view, view @ (np.arange(41) - 20)
        ends.append((down.sum() / view.sum(), right.sum() / view.sum()))
    (beside_down, beside_right), (below_down, below_right) = ends
    sine, tangent = 10 * np.sin(np.radians(12)), 10 * np.tan(np.radians(12))
    want = {
        "turned clockwise": (sine, np.sqrt(100 - sine**2), np.sqrt(100 - sine**2), -sine),
        "lower part to the right": (0.0, 10.0, 10.0, tangent),
        "larger": (0.0, 11.5, 11.5, 0.0),
        "right": (0.0, 10 + 0.12 * 41, 10.0, 0.12 * 41),
        "down": (0.12 * 41, 10.0, 10 + 0.12 * 41, 0.0),
    }[place]
    found = (beside_down, beside_right, below_down, below_right)
    np.testing.assert_allclose(found, want, atol=0.15)  # a point is not resampled to its centre
