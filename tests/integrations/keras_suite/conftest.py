"""One Keras backend, from KERAS_BACKEND; without it ../test_keras_loss.py runs all of them."""

import os

import numpy as np
import pytest

BACKEND = os.environ.get("KERAS_BACKEND", "")
collect_ignore_glob = [] if BACKEND else ["test_*.py"]

if BACKEND == "jax":  # before JAX starts: float64 where asked for, and four devices to share among
    os.environ["JAX_ENABLE_X64"] = "1"
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=4"
if BACKEND == "tensorflow":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    four = [tf.config.LogicalDeviceConfiguration()] * 4
    tf.config.set_logical_device_configuration(cpu, four)


def pytest_collection_modifyitems(items):
    """JAX, which compiles most, has the losses and towers alone in short.

    What goes through `fit` is Keras' own, and TensorFlow and PyTorch go through it.
    """
    for item in items:
        if BACKEND == "jax" and item.path.stem not in ("test_loss", "test_towers"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def seeded():
    """Random numbers do not depend on which tests ran before."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture
def told():
    """Calls a function and gives what it returned and how often it warned of no pairs."""
    import warnings

    from fmicl_keras.small_batches import NO_NEGATIVE, NO_PAIRS, warn_once

    def call(function):
        warn_once.cache_clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = function()
        return value, sum(str(w.message) in (NO_NEGATIVE, NO_PAIRS) for w in caught)

    return call


@pytest.fixture
def value_and_gradient():
    """From a function of y_pred and a NumPy y_pred, its value and gradient in NumPy."""
    import keras

    def tensorflow(function, array):
        array = tf.constant(array)
        with tf.GradientTape() as tape:
            tape.watch(array)
            value = function(array)
        return value, tape.gradient(value, array)

    def jax(function, array):
        import jax

        return jax.value_and_grad(function)(jax.numpy.asarray(array))

    def torch(function, array):
        import torch

        array = torch.tensor(array, requires_grad=True)
        value = function(array)
        return value, torch.autograd.grad(value, array)[0]

    of = {"tensorflow": tensorflow, "jax": jax, "torch": torch}[BACKEND]

    def call(function, array):
        return tuple(keras.ops.convert_to_numpy(v) for v in of(function, array))

    return call


@pytest.fixture
def set_tile(monkeypatch):
    """Let the tiles have at most so many rows and columns."""
    from fmicl_core import forms

    return lambda size: monkeypatch.setitem(forms.TILE, "cpu", size)


@pytest.fixture
def views():
    """A function to y_pred (n, 2, d), pairs that are close, float64."""

    def draw(n=11, d=5):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(n, d))
        return np.stack([x, x + 0.5 * rng.normal(size=(n, d))], axis=1)

    return draw
