"""A run's encoder in Keras: in one line, with the preprocessing of training; how runs end."""

import os
import shutil
import signal

import keras
import numpy as np
import pytest
from keras import ops

from fmicl_keras import MethodTrainer, features, load_encoder
from fmicl_keras.callbacks import Run
from fmicl_recipes import RunFolder
from fmicl_recipes.choices import METHODS
from fmicl_recipes.run import train_run
from fmicl_recipes.trainer import NonFiniteLossError

BACKEND = os.environ["KERAS_BACKEND"]


@pytest.fixture(scope="module")
def interrupted(tiny, trainer_of, tmp_path_factory, give_away):
    """Folder and trainer of a run that Ctrl-C ended in its second epoch."""
    trainer = trainer_of(tiny("simclr", epochs=3))
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "run", trainer.settings)
    step = Run.on_train_batch_end

    def interrupt(run, batch, logs=None):
        step(run, batch, logs)
        if trainer.history:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "on_train_batch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(folder, resume=False, progress=True)
    trainer.load(folder)
    give_away(folder, trainer)
    return folder, trainer


def test_ctrl_c_comes_out_as_it_went_in(interrupted):
    folder, trainer = interrupted
    assert len(folder.read_history()) == len(trainer.history) == 1


def test_features_are_those_of_the_trainer(interrupted):
    folder, trainer = interrupted
    images = trainer.data.test_images[:30]
    want = trainer.encode(images)
    for given in (images, images[..., 0]):
        found = features(folder.path, given)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-6)


def test_the_encoder_is_a_model_for_bytes_and_floats_that_can_be_saved_and_trained(
    interrupted, tmp_path
):
    folder, trainer = interrupted
    images = trainer.data.test_images[:16]
    want = trainer.encode(images)
    encoder = load_encoder(str(folder.path))
    assert encoder.image_shape == (8, 8, 1)
    assert encoder.num_features == want.shape[1]
    for given in (images, images / 255.0, (images / 255.0).astype(np.float32)):
        np.testing.assert_allclose(
            ops.convert_to_numpy(encoder(given)), want, rtol=1e-4, atol=1e-5
        )  # fmt: skip
    np.testing.assert_allclose(encoder.predict(images, verbose=0), want, rtol=1e-4, atol=1e-5)
    encoder.save(tmp_path / "encoder.keras")
    again = keras.saving.load_model(tmp_path / "encoder.keras")
    np.testing.assert_allclose(again.predict(images, verbose=0), want, rtol=1e-4, atol=1e-5)
    probe = keras.Sequential([keras.Input((8, 8, 1)), encoder, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    probe.compile("sgd", loss)
    before = encoder.get_weights()
    labels = trainer.data.test_labels[:16]
    probe.fit(images / 255.0, labels, batch_size=16, verbose=0)
    assert all(not np.array_equal(a, b) for a, b in zip(before, encoder.get_weights(), strict=True))


def test_a_projection_of_patches_that_was_frozen_can_be_trained_further(
    tiny, trainer_of, give_away, tmp_path
):  # fmt: skip
    trainer = trainer_of(tiny("moco-v3", encoder="vit-s6"))
    folder = RunFolder.create(tmp_path / "run", trainer.settings)
    give_away(folder, trainer)
    frozen = trainer.model.encoder
    assert len(frozen.trainable_weights) < len(frozen.weights)
    encoder = load_encoder(folder.path)
    assert len(encoder.trainable_weights) == len(encoder.weights) == len(frozen.weights)


@pytest.mark.parametrize(
    ("images", "message"),
    [(np.zeros((2, 8, 8, 3), np.float32), r"Expected \(N, H, W, 1\)"),
     (np.zeros((2, 8, 8, 1), np.int32), "Expected uint8, or float in .*'int32'")],
)  # fmt: skip
def test_the_encoder_refuses_what_it_was_not_trained_on(interrupted, images, message):
    with pytest.raises(ValueError, match=f"`images`. {message}"):
        load_encoder(interrupted[0].path)(images)


def test_checkpoints_that_are_damaged_are_refused(interrupted, tmp_path):
    folder, trainer = interrupted
    copy = RunFolder(shutil.copytree(folder.path, tmp_path / "copy"))

    def refused(message="a folder whose checkpoint is whole"):
        with pytest.raises(ValueError, match=f"`run`. Expected {message}"):
            trainer.load(copy)

    whole = copy.checkpoint.read_bytes()
    for kept in (0, 100, len(whole) // 2):
        copy.checkpoint.write_bytes(whole[:kept])
        refused()
    damaged = bytearray(whole)
    damaged[len(whole) // 5] ^= 0xFF  # in the model; behind it is the optimiser's state
    copy.checkpoint.write_bytes(damaged)
    refused()
    for missing in ("facts", "model/3"):
        with np.load(folder.checkpoint) as stored:
            arrays = {name: stored[name] for name in stored.files if name != missing}
        with open(copy.checkpoint, "wb") as file:
            np.savez(file, **arrays)
        refused("a (folder whose checkpoint is whole|checkpoint with the model)")


@pytest.mark.parametrize(
    "method", [m if m == "simclr" else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]
)
def test_a_run_that_diverges_does_not_look_finished(method, tiny, tmp_path):
    settings = tiny(method, lr=1e6, epochs=4, warmup_epochs=0)
    with pytest.raises(NonFiniteLossError, match=r"Try a smaller --lr"):
        train_run(MethodTrainer, settings, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "metrics.json").exists()
