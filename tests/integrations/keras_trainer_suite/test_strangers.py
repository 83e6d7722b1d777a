"""A checkpoint of Keras' trainer may be a stranger's: it is arrays and facts, and runs no code."""

import json

import keras
import numpy as np
import pytest

from fmicl_core.checks import InvalidArgument
from fmicl_keras import MethodTrainer
from fmicl_keras.checkpoints import load_checkpoint, save_checkpoint
from fmicl_recipes import RunFolder
from fmicl_recipes.run import evaluate_run, train_run
from fmicl_recipes.weights import write_model
from fmicl_recipes.weights.start import starting_weights

DAMAGED = "a folder whose checkpoint is whole"
FACTS = {"history": [{"epoch": 1, "loss": 0.5}], "seconds": 1.0, "losses": []}


@pytest.fixture
def variables():
    """Variables of a small model."""
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    return {"model": layer.weights}


def written(path, variables, facts=FACTS, **arrays):
    """A checkpoint with other facts or arrays."""
    save_checkpoint(path, variables, facts)
    with np.load(path) as stored:
        content = dict(stored) | {name.replace("_", "/"): a for name, a in arrays.items()}
    with open(path, "wb") as file:
        np.savez(file, **content)
    return path


def test_the_file_of_ones_own_is_read(tmp_path, variables):
    state = load_checkpoint(written(tmp_path / "a.ckpt", variables), variables)
    assert state == ([{"epoch": 1, "loss": 0.5}], 1.0, [])


def test_arrays_of_objects_run_nothing(tmp_path, bomb, variables):
    trace, objects = tmp_path / "trace", np.empty((3, 2), object)
    objects[:] = 0
    objects[0, 0] = bomb(trace)
    path = written(tmp_path / "a.ckpt", variables, model_0=objects)
    with np.load(path, allow_pickle=True) as stored:
        _ = stored["model/0"]
    assert trace.is_dir(), "the bomb does not go off"
    trace.rmdir()
    with pytest.raises(InvalidArgument, match=DAMAGED):
        load_checkpoint(path, variables)
    assert not trace.exists()


def test_an_archive_of_keras_is_no_checkpoint(tmp_path, variables, monkeypatch):
    """Whose layers of code Keras would run, where it is told to."""
    trace = tmp_path / "trace"
    monkeypatch.setenv("TRACE", str(trace))

    code = lambda x: (  # noqa: E731
        __import__("os").makedirs(__import__("os").environ["TRACE"], exist_ok=True),
        x,
    )[1]
    layer = keras.layers.Lambda(code, output_shape=(3,))
    keras.Sequential([keras.Input((3,)), layer]).save(tmp_path / "model.keras")
    if trace.exists():  # some backends try a layer when it is built
        trace.rmdir()
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=False)
    loaded(np.zeros((1, 3), np.float32))
    assert trace.is_dir(), "the bomb does not go off"
    trace.rmdir()
    path = (tmp_path / "model.keras").rename(tmp_path / "checkpoint.ckpt")
    with pytest.raises(InvalidArgument, match=DAMAGED):
        load_checkpoint(path, variables)
    assert not trace.exists()


@pytest.mark.parametrize(
    "facts",
    [
        {**FACTS, "history": [1]},
        {**FACTS, "history": [{"loss": True}]},
        {**FACTS, "seconds": "1"},
        {**FACTS, "losses": 5},
        {**FACTS, "losses": [float("inf")]},
        {},
        [1],
    ],
    ids=str,
)
def test_facts_that_are_none(tmp_path, variables, facts):
    path = written(tmp_path / "a.ckpt", variables, facts)
    with pytest.raises(InvalidArgument, match=DAMAGED):
        load_checkpoint(path, variables)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"seconds": "\\u001b[2J"}', "{"])
def test_facts_that_are_no_json(tmp_path, variables, text):
    path = written(tmp_path / "a.ckpt", variables, facts=FACTS)
    with np.load(path) as stored:
        content = dict(stored) | {"facts": np.array(text)}
    with open(path, "wb") as file:
        np.savez(file, **content)
    with pytest.raises(InvalidArgument, match=DAMAGED):
        load_checkpoint(path, variables)


def test_arrays_of_texts_or_of_another_shape(tmp_path, variables):
    path = written(tmp_path / "a.ckpt", variables, model_0=np.full((3, 2), "a"))
    with pytest.raises(InvalidArgument, match=DAMAGED):
        load_checkpoint(path, variables)
    path = written(tmp_path / "a.ckpt", variables, model_0=np.zeros((3, 3)))
    with pytest.raises(InvalidArgument, match="a checkpoint with the model of these settings"):
        load_checkpoint(path, variables)


def test_a_compressed_checkpoint_is_refused(tmp_path, variables):
    path = written(tmp_path / "a.ckpt", variables)
    with np.load(path) as stored:
        content = dict(stored)
    with open(path, "wb") as file:
        np.savez_compressed(file, **content)
    with pytest.raises(InvalidArgument, match=DAMAGED):
        load_checkpoint(path, variables)


def test_a_run_begins_with_the_weights_of_another(tmp_path, tiny, trainer_of):
    """Of another method, whose encoder is taken alone, and of the same one, taken whole."""
    before = trainer_of(tiny("moco", encoder="smallconv", limit=64, seed=3))
    folder = RunFolder.create(tmp_path / "before", before.settings)
    write_model(folder, before.settings, (8, 8, 1), before.weights(), {})
    same = trainer_of(tiny("moco", encoder="smallconv", limit=64))
    start = starting_weights(same, folder.path)
    same.set_weights(start.weights)
    assert start.left == []
    for name, array in same.weights().items():
        np.testing.assert_array_equal(array, before.weights()[name], err_msg=name)
    other = trainer_of(tiny("simclr", encoder="smallconv", limit=64))
    start = starting_weights(other, folder.path)
    other.set_weights(start.weights)
    assert (start.taken, start.left) == (["encoder"], ["head"])
    images = other.data.test_images[:9]
    np.testing.assert_array_equal(other.encode(images), before.encode(images))


@pytest.mark.slow
def test_folders_of_format_1_are_evaluated_and_resumed(tmp_path, tiny):
    """As fmicl made them before they had a version, and weights for all frameworks."""
    settings = tiny("simclr", encoder="smallconv", width=4, limit=64, batch_size=32, epochs=2)
    train_run(MethodTrainer, settings, tmp_path / "run", progress=False)
    folder = RunFolder(tmp_path / "run")
    stored = json.loads((folder.path / "settings.json").read_text())
    assert stored.pop("format_version") == 2
    folder.write_json("settings.json", stored)
    own = {"model.json", "encoder.safetensors", "method.safetensors"}
    for again in (
        lambda: evaluate_run(MethodTrainer, folder),
        lambda: train_run(
            MethodTrainer, folder.settings(), folder.path, resume=True, progress=False
        ),
    ):
        for name in own:
            (folder.path / name).unlink()
        again()
        assert own <= {path.name for path in folder.path.iterdir()}
    assert "format_version" not in folder.read_json("settings.json")


def test_velocities_of_format_1_are_refused(tmp_path, tiny, trainer_of):
    """They had the learning rates in them."""
    for optimizer in ("sgd", "lars"):
        settings = tiny("simclr", encoder="smallconv", limit=64, optimizer=optimizer)
        folder = RunFolder.create(tmp_path / optimizer, settings)
        stored = folder.read_json("settings.json")
        del stored["format_version"]
        folder.write_json("settings.json", stored)
        folder.checkpoint.write_bytes(b"")
        with pytest.raises(InvalidArgument, match=r"`resume`. Expected a run of format 2"):
            trainer_of(settings).fit(folder, resume=True, progress=False)
