"""The Keras trainers learn, resume exactly, and stop cleanly."""

import json
import os
import shutil

import keras
import numpy as np
import pytest
from keras import ops

from fmicl_keras import MethodTrainer, build_encoder
from fmicl_keras.build import state
from fmicl_keras.checkpoints import load_checkpoint, save_checkpoint
from fmicl_recipes import RunFolder, resolve
from fmicl_recipes.choices import LOSSES, METHODS
from fmicl_recipes.data import load_images
from fmicl_recipes.draws import epoch_batches
from fmicl_recipes.history import knn
from fmicl_recipes.run import evaluate_run, train_run
from fmicl_recipes.trainer import NonFiniteLossError

BACKEND = os.environ["KERAS_BACKEND"]
#: On the backend that compiles nothing.
once = pytest.mark.skipif(BACKEND != "torch", reason="the same on every backend")


#: MoCo has the most to keep, a queue; whole runs of the others compile for half a minute each.
one_quick = pytest.mark.parametrize(
    "method", [m if m == "moco" else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]
)


@one_quick
def test_an_interrupted_run_resumes_bit_for_bit(
    tmp_path, monkeypatch, method, tiny, fit, trainer_of, numpy, check_same_run
):
    """In the middle of an epoch, of 4 steps. A queue also keeps labels.

    Two parts of MoCo's batch norms are shuffled as four are, in half of the graph.
    """
    options = {"supervised": True, "bn_splits": 2} if method == "moco" else {}
    settings = tiny(method, checkpoint_every=3, **options)
    folder, cut = RunFolder.create(tmp_path / "whole", settings), tmp_path / "cut"
    save, kept = MethodTrainer._save, []

    def keep(trainer, to, step):
        save(trainer, to, step)
        kept.append(step)
        if step == 6:  # as the folder looks to a run killed after that
            shutil.copytree(folder.path, cut)

    monkeypatch.setattr(MethodTrainer, "_save", keep)
    whole = fit(settings, folder)
    monkeypatch.undo()
    assert kept == [3, 4, 6, 8, 9, 12]
    assert len(RunFolder(cut).read_history()) == 1
    resumed = fit(settings, RunFolder(cut), resume=True)
    check_same_run(resumed, whole)
    if method == "moco":  # 4 batches of 64 an epoch, 3 epochs, 100 slots
        assert int(resumed.model.pointer) == 12 * 64 % 100
        last, slots = epoch_batches(256, 64, 0, 2)[-1], np.arange(11 * 64, 12 * 64) % 100
        kept = numpy([resumed.model.queue_labels])[0][slots]
        np.testing.assert_array_equal(kept, resumed.data.train_labels[last])
    restored = trainer_of(settings)
    restored.load(folder)
    images = restored.data.test_images[:64]
    np.testing.assert_allclose(restored.encode(images), whole.encode(images), rtol=1e-6)
    assert restored.history == whole.history == RunFolder(folder.path).read_history()
    assert restored.seconds == whole.seconds


@once
@one_quick
def test_training_beats_the_random_encoder(tmp_path, method, capsys):
    settings = resolve("digits", {"method": method, "epochs": 4, "width": 8, "knn_every": 2,
                                  "device": "cpu", "framework": "tensorflow",
                                  "keras_backend": BACKEND})  # fmt: skip
    data = load_images("digits")
    trainer = MethodTrainer(settings, data)
    before = knn(trainer)["knn_accuracy"]
    trainer.fit(RunFolder.create(tmp_path / "run", settings), resume=False, progress=True)
    assert "epoch=4/4" in capsys.readouterr().err
    history = RunFolder(tmp_path / "run").read_history()
    assert history == trainer.history
    assert history[-1]["loss"] < history[0]["loss"]
    assert [row["epoch"] for row in history if "knn_accuracy" in row] == [2, 4]
    assert history[-1]["knn_accuracy"] == knn(trainer)["knn_accuracy"] > before
    columns = {"epoch", "step", "loss", "alignment", "uniformity", "embedding_rank"}
    assert all(columns | {"images_per_second"} <= set(row) for row in history)
    assert all(0 < row["data_wait"] < 0.5 for row in history)


@once
@pytest.mark.filterwarnings("ignore:Neyman")
def test_collapse_is_reported_once_and_runs_evaluate_again(tmp_path, tiny):
    settings = tiny("simclr", divergence="neyman", alpha=40.0, epochs=10, lr=0.01)
    with pytest.warns(UserWarning, match="The features have collapsed by epoch") as caught:
        metrics = train_run(MethodTrainer, settings, tmp_path / "run", progress=False)
    assert sum("have collapsed" in str(w.message) for w in caught) == 1
    assert metrics["collapsed"] is True
    assert metrics["embedding_rank"] < 2.0
    assert (metrics["framework"], metrics["keras_backend"]) == ("tensorflow", BACKEND)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    again = evaluate_run(MethodTrainer, RunFolder(tmp_path / "run"))
    for name in ("knn_accuracy", "alignment", "loss_history", "seconds"):
        assert again[name] == pytest.approx(metrics[name])


def test_a_non_finite_loss_stops_and_keeps_the_last_checkpoint(tmp_path, tiny, trainer_of, numpy):
    trainer = trainer_of(tiny("simclr"))
    real = trainer.model.loss_of
    trainer.model.bad = trainer.model.add_weight((), "zeros", trainer.model.dtype, trainable=False)

    def breaking(x, y):
        trainer.model.bad.assign(trainer.model.bad + 1.0)
        return real(x, y) * ops.where(trainer.model.bad == 7.0, float("nan"), 1.0)

    trainer.model.loss_of = breaking
    folder = RunFolder.create(tmp_path / "run", trainer.settings)
    with pytest.raises(NonFiniteLossError, match=r"The loss is nan at step 6 \(epoch 2\)"):
        trainer.fit(folder, resume=False, progress=False)
    kept = trainer_of(trainer.settings)
    kept.model.bad = kept.model.add_weight((), "zeros", kept.model.dtype, trainable=False)
    kept.load(folder)
    assert float(kept.model.bad) == 4
    assert all(np.isfinite(v).all() for v in numpy(state(kept.model)))


@once
def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    model = build_encoder("smallconv", (8, 8, 1), 4)
    save_checkpoint(tmp_path / "c", {"model": model.weights}, {"history": [], "seconds": 0.0})
    other = build_encoder("smallconv", (8, 8, 1), 6)
    with pytest.raises(ValueError, match="Expected a checkpoint with the model of these settings"):
        load_checkpoint(tmp_path / "c", {"model": other.weights})


@pytest.mark.parametrize(
    "options",
    [
        {"views": 4, "alpha": "auto"},
        pytest.param({"views": 3, "supervised": True, "alpha": "auto"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_runs_with_more_views_and_labels_train(tmp_path, options, tiny, fit):
    settings = tiny("simclr", epochs=1, warmup_epochs=0, **options)
    trainer = fit(settings, RunFolder.create(tmp_path / "run", settings))
    assert np.isfinite(trainer.history[0]["loss"])
    assert 1.0 < trainer.history[0]["alpha"] < 1e3
    x, y = trainer.project(trainer.data.test_images[:9])
    assert x.shape == y.shape == (9, 8)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "fmicl"])
def test_every_loss_trains(tmp_path, loss, tiny, fit):
    settings = tiny("simclr", loss=loss, epochs=2)
    trainer = fit(settings, RunFolder.create(tmp_path / "run", settings))
    assert np.isfinite([row["loss"] for row in trainer.history]).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_bf16_trains(tmp_path, method, tiny, fit):
    settings = tiny(method, precision="bf16", epochs=2, optimizer="lars")
    trainer = fit(settings, RunFolder.create(tmp_path / "run", settings))
    assert np.isfinite([row["loss"] for row in trainer.history]).all()
    assert trainer.encode(trainer.data.test_images).dtype == np.float32


@pytest.fixture
def float64():
    """That JAX computes in float64, which other frameworks do when asked."""
    if BACKEND != "jax":
        yield
        return
    import jax

    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "torch", reason="Keras trains on one device with PyTorch")
@pytest.mark.parametrize(("method", "more"), [
    *((method, {}) for method in METHODS), ("simclr", {"views": 4}),
    ("simclr", {"supervised": True, "loss": "info-nce"}), ("moco", {"supervised": True}),
    ("simclr", {"views": 3, "loss": "info-nce"}),
])  # fmt: skip
def test_two_devices_train_as_one(tmp_path, monkeypatch, method, more, tiny, fit, float64):
    """Without augmentation: the same batches, losses and features.

    MoCo's batch norms have statistics of their own on every device, so that its networks have none
    here. In float64, since rounding would part the runs at the kinks of ReLUs.
    """
    from fmicl_keras import build

    plain = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Identity()])
    monkeypatch.setattr(build, "build_augmentation", lambda *_: plain)
    options = {"encoder": "vit-s6", "head_norm": "none"} if method == "moco" else {}
    runs = []
    for devices in (1, 2):
        settings = tiny(
            method,
            devices=devices,
            epochs=2,
            optimizer="sgd",
            lr=1e-4,
            precision="64",
            **options,
            **more,
        )
        folder = RunFolder.create(tmp_path / str(devices), settings)
        trainer = fit(settings, folder)
        runs.append((trainer.history[-1], trainer.encode(trainer.data.test_images)))
    (one, features), (two, others) = runs
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-9)
    assert two["embedding_rank"] == pytest.approx(one["embedding_rank"], rel=1e-5)
    np.testing.assert_allclose(others, features, rtol=1e-5, atol=1e-6)


def test_another_backend_than_the_settings_name_is_refused_before_anything_is_written(
    tmp_path, tiny
):
    """As where this process had imported Keras before: the run would say who did not train it."""
    other = "jax" if BACKEND == "torch" else "torch"
    settings, run = tiny("simclr", keras_backend=other), tmp_path / "run"
    message = rf"`keras_backend`. Expected '{BACKEND}', the backend Keras runs on\. .*'{other}'"
    with pytest.raises(ValueError, match=message):
        train_run(MethodTrainer, settings, run, progress=False)
    assert not run.exists()
    folder = RunFolder.create(run, settings)
    folder.checkpoint.touch()
    with pytest.raises(ValueError, match=message):
        evaluate_run(MethodTrainer, folder)


def test_more_devices_than_there_are_are_refused(tiny, trainer_of):
    expected = "1 with the torch backend" if BACKEND == "torch" else "at most 2, the cpu devices"
    with pytest.raises(ValueError, match=f"`devices`. Expected {expected}"):
        trainer_of(tiny("simclr", devices=4))
