"""One Keras backend, from KERAS_BACKEND; without it ../test_keras_trainers.py runs all of them."""

import os

import numpy as np
import pytest

BACKEND = os.environ.get("KERAS_BACKEND", "")
collect_ignore_glob = [] if BACKEND else ["test_*.py"]

if BACKEND == "jax":  # before JAX starts: two devices to train on
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=2"
if BACKEND == "tensorflow":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(scope="session")
def tiny():
    """Settings of a run of seconds, from a method and options."""
    from fmicl_recipes import resolve

    small = {"width": 8, "batch_size": 64, "limit": 256, "epochs": 3, "warmup_epochs": 1,
             "projection_hidden": 16, "projection_dim": 8, "device": "cpu",
             "framework": "tensorflow", "keras_backend": BACKEND}  # fmt: skip

    def settings(method, **options):
        queue = {"queue_size": 100} if method == "moco" else {}
        return resolve("digits", {"method": method, **small, **queue, **options})

    return settings


@pytest.fixture(scope="session")
def numpy():
    """Variables and tensors as a list of new NumPy arrays."""
    import keras

    from fmicl_keras.checkpoints import to_numpy

    def convert(value):
        variable = isinstance(value, keras.Variable)
        return np.array(to_numpy(value) if variable else keras.ops.convert_to_numpy(value))

    return lambda values: [convert(value) for value in values]


@pytest.fixture(scope="session")
def trainer_of():
    """The untrained trainer of settings."""
    from fmicl_keras import MethodTrainer
    from fmicl_recipes.data import load_images

    return lambda settings: MethodTrainer(settings, load_images("digits", limit=settings.limit))


@pytest.fixture(scope="session")
def check_same_run(numpy):
    """Check that two trainers ended with the same bits, whatever the time they took."""
    from fmicl_keras.build import state

    def check(ours, theirs):
        for group in (lambda t: state(t.model), lambda t: t.model.optimizer.variables):
            pairs = zip(group(ours), numpy(group(ours)), numpy(group(theirs)), strict=True)
            for variable, a, b in pairs:
                np.testing.assert_array_equal(a, b, err_msg=variable.path)
        for name in ("epoch", "step", "loss", "alignment", "uniformity", "embedding_rank"):
            assert [r[name] for r in ours.history] == [r[name] for r in theirs.history]

    return check


@pytest.fixture(scope="session")
def fit(trainer_of):
    """The trainer of settings, trained in a folder."""

    def train(settings, folder, resume=False):
        trainer = trainer_of(settings)
        trainer.fit(folder, resume=resume, progress=False)
        return trainer

    return train
