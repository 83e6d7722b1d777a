"""Optimisers, encoders and views of the Keras trainers."""

import os

import keras
import numpy as np
import pytest
from keras import ops

from fmicl_keras import build_encoder
from fmicl_keras.build import state
from fmicl_keras.geometry import RandomAffine, bilinear, crop
from fmicl_keras.optimizers import LARS, SGD, WarmupCosine, build_optimizer
from fmicl_keras.vit import vit
from fmicl_keras.weights import set_arrays
from fmicl_recipes.augmentation import PhotoDraws
from fmicl_recipes.weights import Architecture
from fmicl_recipes.weights.layouts import from_native, keras_name, to_native

BACKEND = os.environ["KERAS_BACKEND"]
#: Of what Keras computes alike on every backend: in short on the one that compiles nothing.
once = pytest.mark.many_compilations


# Optimiser and schedule


def test_sgd_and_lars_move_by_hand(numpy):
    """Two steps of a weight and of a bias, against the updates written out in NumPy."""
    for trust, optimizer in (
        (None, SGD(0.5, momentum=0.9, decay=0.1)),
        (0.01, LARS(0.5, momentum=0.9, decay=0.1, trust=0.01)),
    ):
        weight, bias = keras.Variable([[3.0, 4.0]]), keras.Variable([1.0, 1.0])
        optimizer.build([weight, bias])
        w, b, v, u = np.array([[3.0, 4.0]]), np.ones(2), 0.0, 0.0
        for g in (np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]])):
            given = [ops.convert_to_tensor(a, "float32") for a in (g, [0.5, -0.5])]
            optimizer.apply(given, [weight, bias])
            d = g + 0.1 * w
            d = d if trust is None else d * trust * np.linalg.norm(w) / np.linalg.norm(d)
            v, u = 0.9 * v + d, 0.9 * u + np.array([0.5, -0.5])
            w, b = w - 0.5 * v, b - 0.5 * u
        np.testing.assert_allclose(numpy([weight])[0], w, rtol=1e-5)
        np.testing.assert_allclose(numpy([bias])[0], b, rtol=1e-5)
        again = type(optimizer).from_config(optimizer.get_config())
        assert again.get_config() == optimizer.get_config()


@once
def test_lars_leaves_a_zero_weight_finite(numpy):
    weight, optimizer = keras.Variable(np.zeros((2, 2), np.float32)), LARS(1.0, momentum=0.0)
    optimizer.build([weight])
    for gradient, expected in ((0.0, 0.0), (1.0, -1.0)):
        optimizer.apply([ops.full((2, 2), gradient)], [weight])
        np.testing.assert_array_equal(numpy([weight])[0], np.full((2, 2), expected))


@once
def test_adamw_leaves_norms_and_biases_undecayed(numpy):
    weights = [keras.Variable(np.ones((2, 2), np.float32)), keras.Variable([1.0, 1.0])]
    optimizer = build_optimizer(weights, "adamw", 3e-3, 0.9, 0.1)
    optimizer.build(weights)
    optimizer.apply([ops.zeros((2, 2)), ops.zeros((2,))], weights)
    np.testing.assert_allclose(numpy(weights[:1])[0], 1.0 - 0.1 * 3e-3, rtol=1e-6)
    np.testing.assert_array_equal(numpy(weights[1:])[0], [1.0, 1.0])


@once
@pytest.mark.parametrize("warmup", [0, 4])
def test_the_rate_warms_up_and_falls_by_a_cosine(warmup):
    rates = [float(WarmupCosine(2.0, 20, warmup)(step)) for step in range(21)]
    t = np.arange(21)
    ramp = 2.0 * (1.0 + (warmup - 1) * t / max(warmup, 1)) / max(warmup, 1)
    cosine = 1.0 + np.cos(np.pi * (t - warmup) / (20 - warmup))
    np.testing.assert_allclose(rates, np.where(t < warmup, ramp, cosine), rtol=1e-5, atol=1e-6)


# Encoders, against those of Lightning


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of the layers of another library")
@pytest.mark.parametrize(
    ("name", "side", "width"),
    [("resnet18", 16, 4), ("smallconv", 8, 8), ("vit-s6", 8, 4), ("resnet18", 9, 4),
     ("resnet50", 33, 2)],
)  # fmt: skip
def test_encoders_are_those_of_lightning(name, side, width, require):
    """The same weights give the same features, in training mode and out of it."""
    torch = require("torch")
    require("lightning")
    from fmicl_lightning import build_encoder as build_torch_encoder
    from fmicl_lightning.weights import get_arrays as get_torch_arrays

    theirs = build_torch_encoder(name, 3, width, patch_size=4)
    ours = build_encoder(name, (side, side, 3), width, patch_size=4)
    count = sum(int(np.prod(w.shape)) for w in ours.trainable_weights)
    assert count == sum(p.numel() for p in theirs.parameters())
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    entries = Architecture(name, 3, width).entries()
    weights = from_native(get_torch_arrays(theirs), entries, "torch")
    set_arrays(ours, to_native(weights, entries, "tensorflow"))
    images = np.random.default_rng(0).standard_normal((4, side, side, 3)).astype(np.float32)
    for training in (False, True):  # running variances are unbiased in PyTorch alone
        theirs.train(training)
        want = theirs(torch.from_numpy(images).permute(0, 3, 1, 2)).detach().numpy()
        np.testing.assert_allclose(
            ops.convert_to_numpy(ours(images, training=training)), want, rtol=2e-3, atol=2e-4
        )


@pytest.mark.parametrize("side", [32, 37])
def test_resnet50_is_that_of_the_paper_written_out(side, require):
    """By PyTorch's functions, which pad on both sides; on every backend."""
    torch = require("torch")
    from torch.nn import functional

    encoder, rng = build_encoder("resnet50", (side, side, 3), 2), np.random.default_rng(0)
    entries = Architecture("resnet50", 3, 2).entries()
    names = list(dict.fromkeys(keras_name(e.name.rpartition(".")[0]) for e in entries))
    kernels, norms = (list(map(encoder.get_layer, names[first::2])) for first in (0, 1))
    for norm in norms:
        norm.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in norm.weights])
    parts = zip(kernels, norms, strict=True)

    def conv(x, stride=1, padding=0):
        kernel, norm = (layer.get_weights() for layer in next(parts))
        gamma, beta, mean, variance = map(torch.from_numpy, norm)
        weight = torch.from_numpy(kernel[0]).permute(3, 2, 0, 1)
        y = functional.conv2d(x, weight, stride=stride, padding=padding)
        return functional.batch_norm(y, mean, variance, gamma, beta)

    images = rng.standard_normal((2, side, side, 3)).astype(np.float32)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    x = functional.max_pool2d(torch.relu(conv(x, 2, 3)), 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            y = torch.relu(conv(torch.relu(conv(x)), stride, 1))
            y = conv(y)
            x = torch.relu(y + (conv(x, stride) if block == 0 else x))
    assert next(parts, None) is None
    ours = ops.convert_to_numpy(encoder(images, training=False))
    assert ours.shape == (2, 64)
    np.testing.assert_allclose(ours, x.mean((2, 3)).numpy(), rtol=1e-3)


@once
def test_resnets_and_vit_s_are_the_standard_ones():
    def count(model):
        return sum(int(np.prod(w.shape)) for w in model.trainable_weights)

    assert count(build_encoder("resnet18", (32, 32, 3), 64)) == 11_168_832
    assert count(build_encoder("resnet50", (64, 64, 3), 64)) == 23_508_032
    # ViT-S/16 has 22,050,664 with its classifier and learned positions.
    classifier, positions = 384 * 1000 + 1000, 197 * 384
    vit_s = build_encoder("vit-s12", (32, 32, 3), 64, patch_size=16)
    assert count(vit_s) == 22_050_664 - classifier - positions


@once
def test_encoders_that_do_not_fit_are_named():
    with pytest.raises(
        ValueError, match=r"Expected one of resnet18, resnet50, smallconv, vit-s6, vit-s12"
    ):
        build_encoder("timm:resnet18", (8, 8, 1), 8)
    with pytest.raises(ValueError, match=r"`patch_size`. Expected a divisor of .* 10 x 8"):
        vit((10, 8, 1), 4, 1, patch_size=4)
    with pytest.raises(ValueError, match=r"`width`. Expected an even number"):
        vit((8, 8, 1), 3, 1, patch_size=4)


# Views


@once
def test_a_crop_of_everything_and_no_change_are_the_image():
    images = np.random.default_rng(0).random((3, 6, 8, 2)).astype(np.float32)
    draws = PhotoDraws(*[ops.full((3, 1, 1, 1), 0.7)] * len(PhotoDraws._fields))
    for change in (
        lambda x: crop(x, draws, (1.0, 1.0), (1.0, 1.0)),
        RandomAffine(0.0, 0.0, (1.0, 1.0), 0.0, seed=0),
    ):
        views = ops.convert_to_numpy(change(ops.convert_to_tensor(images)))
        np.testing.assert_allclose(views, images, atol=1e-6)


@once
def test_reading_between_pixels_is_bilinear():
    from scipy.ndimage import map_coordinates

    draw = np.random.default_rng(0)
    images = draw.random((2, 6, 8, 1)).astype(np.float32)
    x, y = draw.uniform(-2, 9, (2, 6, 8)), draw.uniform(-2, 7, (2, 6, 8))
    want = [
        map_coordinates(np.pad(image[..., 0], 3), [b + 3, a + 3], order=1)
        for image, a, b in zip(images, x, y, strict=True)
    ]
    found = bilinear(images, *(ops.convert_to_tensor(v, "float32") for v in (x, y)))
    np.testing.assert_allclose(ops.convert_to_numpy(found)[..., 0], want, atol=1e-5)


@once
def test_projections_are_drawn_by_the_seed_alone_and_leave_the_run_alone(tiny, trainer_of, numpy):
    trainer = trainer_of(tiny("simclr"))
    images = trainer.data.test_images[:70]
    first = trainer.project(images)
    trainer.model.views(images)  # moves the generators on
    before = numpy(state(trainer.model))
    for a, b in zip(first, trainer.project(images), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(before, numpy(state(trainer.model)), strict=True):
        np.testing.assert_array_equal(a, b)


@once
def test_views_of_crops_are_those_of_the_crops_in_their_order(tiny, trainer_of, numpy):
    """Of the same crop twice they are those of the image, seed by seed."""
    trainer = trainer_of(tiny("simclr"))
    method, images = trainer.model, trainer.data.test_images[:6]
    seeds = numpy(method.augment.non_trainable_variables)

    def views(of):
        trainer._set_seeds(seeds)
        return numpy(method.views(of))

    for a, b in zip(views(images), views(np.stack([images, images], axis=1)), strict=True):
        np.testing.assert_array_equal(a, b)
    first, _ = views(np.stack([images, 255 - images], axis=1))
    _, second = views(np.stack([255 - images, images], axis=1))
    for a, b in zip(views(images), (first, second), strict=True):
        np.testing.assert_array_equal(a, b)
