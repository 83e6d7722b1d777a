"""A run's encoder in Keras, whoever trained it: the same arrays, and the features of PyTorch."""

import contextlib
import os

import keras
import numpy as np
import pytest
from keras import ops

from fmicl_core.checks import InvalidArgument
from fmicl_keras import features, load_encoder, loading
from fmicl_keras.build import state
from fmicl_keras.weights import get_arrays, variables
from fmicl_recipes.weights import method_arrays, open_model
from fmicl_recipes.weights.networks import count_numbers

BACKEND = os.environ["KERAS_BACKEND"]
TOLERANCES = {"float32": 1e-5, "float64": 1e-12}
#: Methods, with what decides over their arrays.
METHODS = [
    ("simclr", {}),
    ("moco", {}),
    ("moco", {"supervised": True, "head_norm": "none"}),
    ("moco-v3", {"encoder": "vit-s6", "patch_projection": "learned"}),
    ("moco-v3", {"encoder": "vit-s6"}),
]


@pytest.fixture
def pytorchs(require):
    """The features that a run's encoder gives in PyTorch."""
    torch, lightning = require("torch"), require("fmicl_lightning")

    def computed(run, dtype="float32"):
        with torch.inference_mode():
            images = torch.from_numpy(run.images).permute(0, 3, 1, 2)
            return lightning.load_encoder(run.path, dtype=dtype)(images).numpy()

    return computed


def test_features_are_those_of_pytorch(random_run, pytorchs):
    want = pytorchs(random_run)
    found = features(random_run.path, random_run.images)
    assert found.dtype == want.dtype == np.float32
    assert np.abs(found - want).max() < TOLERANCES["float32"] * np.abs(want).max()


@pytest.fixture
def float64(require):
    """A block in which the backend may compute in float64."""
    return require("jax").enable_x64 if BACKEND == "jax" else contextlib.nullcontext


def test_features_are_those_of_pytorch_in_float64(random_run, pytorchs, float64):
    want = pytorchs(random_run, "float64")
    with float64(True):
        encoder = load_encoder(random_run.path, dtype="float64")
        assert {variable.dtype for variable in encoder.weights} == {"float64"}
        floats = random_run.images / 255.0
        found = [ops.convert_to_numpy(encoder(given)) for given in (random_run.images, floats)]
    for of in found:
        assert of.dtype == np.float64
        assert np.abs(of - want).max() < TOLERANCES["float64"] * np.abs(want).max()


def test_float64_without_jax_being_told_is_refused(small_run):
    if BACKEND != "jax":
        load_encoder(small_run.path, dtype="float64")
        return
    with pytest.raises(InvalidArgument, match=r"`dtype`. Expected 'float32' .*JAX_ENABLE_X64"):
        load_encoder(small_run.path, dtype="float64")


def test_a_network_has_as_many_numbers_as_its_entries(random_run):
    model = open_model(random_run.path)
    network = load_encoder(random_run.path).network
    assert network.count_params() == count_numbers(model.architecture.entries())
    arrays, native = get_arrays(network), model.native("tensorflow")
    assert arrays.keys() == native.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, native[name].astype(np.float32), err_msg=name)
    assert len(load_encoder(random_run.path).trainable_weights) == sum(
        "running" not in entry.name for entry in model.architecture.entries()
    )


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_the_entries_are_all_arrays_of_a_method_but_seeds_and_a_counter(
    tiny, trainer_of, method, options
):
    trainer = trainer_of(tiny(method, **options))
    entries = method_arrays(trainer.settings, trainer.architecture)
    known = variables(trainer.model)
    assert known.keys() == {name for entry in entries for name in entry.names["tensorflow"]}
    ids = {id(variable) for variable in known.values()}
    others = [v for v in state(trainer.model) if id(v) not in ids]
    counters = [v for v in others if "seed_generator" not in v.path]
    assert len(counters) == (method == "moco-v3")  # of steps, on which the momentum depends
    assert all(tuple(v.shape) == () for v in counters)
    weights = trainer.weights()
    assert {n: w.shape for n, w in weights.items()} == {e.name: e.shape for e in entries}
    trainer.set_weights({name: np.zeros_like(array) for name, array in weights.items()})
    trainer.set_weights(weights)
    for name, array in trainer.weights().items():
        np.testing.assert_array_equal(array, weights[name], err_msg=name)


def test_wide_networks_and_other_dtypes_are_refused_before_anything_is_built(
    small_run, monkeypatch
):
    monkeypatch.setattr(loading, "build_encoder", None)
    for dtype in ("float16", "double", None):
        with pytest.raises(InvalidArgument, match=r"`dtype`. Expected one of 'float32', 'float64'"):
            load_encoder(small_run.path, dtype=dtype)
    facts = small_run.folder.read_json("model.json")
    for width, said in ((2**20, "bn1.bias of the shape"), (2**21, "whole numbers from 1 to 2")):
        facts["options"]["width"] = width
        small_run.folder.write_json("model.json", facts)
        with pytest.raises(InvalidArgument, match=f"`run`. Expected .*{said}"):
            load_encoder(small_run.path)
    facts |= {"architecture": "timm:resnet18", "options": {"channels": 3}}
    small_run.folder.write_json("model.json", facts)
    with pytest.raises(InvalidArgument, match="That one needs PyTorch: fmicl_lightning loads it"):
        load_encoder(small_run.path)


def test_an_encoder_trained_elsewhere_goes_into_a_file_of_keras(small_run, pytorchs, tmp_path):
    load_encoder(small_run.path).save(tmp_path / "encoder.keras")
    again = keras.saving.load_model(tmp_path / "encoder.keras")
    want = pytorchs(small_run)
    found = ops.convert_to_numpy(again(small_run.images))
    assert np.abs(found - want).max() < TOLERANCES["float32"] * np.abs(want).max()
