"""Weights that travel: names and layouts of every network, and the files that hold them."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("safetensors", reason="weights are in safetensors files")

from fmicl_core.checks import InvalidArgument
from fmicl_recipes import RunFolder, TrainSettings
from fmicl_recipes.choices import CONVOLUTIONAL, FRAMEWORKS, METHODS, VITS
from fmicl_recipes.text import TextSettings
from fmicl_recipes.weights import Architecture, method_arrays, open_model
from fmicl_recipes.weights.layouts import from_native, to_native
from fmicl_recipes.weights.model import ENCODER, MODEL
from fmicl_recipes.weights.networks import count_numbers
from fmicl_recipes.weights.tensors import read_weights, write_weights

NORM = ("weight", "bias", "running_mean", "running_var")
#: Encoders of ours, with options.
architectures = st.builds(
    Architecture,
    st.sampled_from([*CONVOLUTIONAL, *VITS]),
    st.integers(1, 4),
    st.sampled_from([2, 4]),
    st.integers(1, 2),
    st.integers(1, 4),
)
#: Methods, with what decides over their arrays.
methods = st.sampled_from(list(METHODS)).flatmap(
    lambda method: st.builds(
        lambda **options: TrainSettings(
            method=method, projection_hidden=6, projection_dim=4,
            **(options if method == "moco" else {}),
        ),
        supervised=st.booleans(), head_norm=st.sampled_from(["batch", "none"]),
        queue_size=st.integers(1, 3),
    )
)  # fmt: skip


def numbered(entries):
    """Arrays in which no two numbers are equal."""
    total, arrays = 0, {}
    for entry in entries:
        size = int(np.prod(entry.shape))
        arrays[entry.name] = np.arange(total, total + size, dtype=np.float64).reshape(entry.shape)
        total += size
    assert total == count_numbers(entries)
    return arrays


@given(architectures, methods, st.sampled_from(FRAMEWORKS))
def test_what_goes_to_a_framework_comes_back_and_every_name_means_one_array(
    architecture, settings, framework
):
    entries = method_arrays(settings, architecture)
    weights = numbered(entries)
    assert len(weights) == len(entries)
    native = to_native(weights, entries, framework)
    names = [name for entry in entries for name in entry.names[framework]]
    assert len(set(names)) == len(names) == len(native)
    assert sum(array.size for array in native.values()) == count_numbers(entries)
    again = from_native(native, entries, framework)
    assert again.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)
        assert again[name].flags.c_contiguous


@given(architectures)
def test_the_last_axis_of_the_features_has_the_width_that_is_promised(architecture):
    """That of the last norm, but of a smallconv, which has the means of four quarters."""
    last = architecture.entries()[-1].shape[0]
    assert architecture.num_features == last * (4 if architecture.name == "smallconv" else 1)


# The names of others: written down from the sources of torchvision 0.20 and timm 1.0


def torchvision_resnet(blocks, convolutions):
    """The names of `torchvision.models.resnet18` or `resnet50`, without its last layer, `fc`."""
    names = {"conv1.weight", *(f"bn1.{kind}" for kind in NORM)}
    for layer, count in enumerate(blocks, start=1):
        for block in range(count):
            here = f"layer{layer}.{block}"
            for i in range(1, convolutions + 1):
                names |= {f"{here}.conv{i}.weight", *(f"{here}.bn{i}.{kind}" for kind in NORM)}
            # The shapes differ at the start of each layer; of basic blocks not in the first.
            if block == 0 and (layer > 1 or convolutions == 3):
                names |= {f"{here}.downsample.0.weight"}
                names |= {f"{here}.downsample.1.{kind}" for kind in NORM}
    return names


def timm_vit(depth):
    """The names of `timm`'s `vit_small_patch16_224`, without positions, fixed here, and `head`."""
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    every = [f"blocks.{i}.{layer}" for i in range(depth) for layer in layers]
    every += ["patch_embed.proj", "norm"]
    return {"cls_token", *(f"{layer}.{kind}" for layer in every for kind in ("weight", "bias"))}


@pytest.mark.parametrize(
    ("name", "names", "parameters"),
    [("resnet18", torchvision_resnet((2, 2, 2, 2), 2), 11_689_512 - 513_000 - 64 * 3 * (49 - 9)),
     ("resnet50", torchvision_resnet((3, 4, 6, 3), 3), 25_557_032 - 2_049_000),
     ("vit-s12", timm_vit(12), 22_050_664 - 385_000 - 197 * 384)],
)  # fmt: skip
def test_names_and_numbers_are_those_of_torchvision_and_timm(name, names, parameters):
    """Whose numbers of parameters are known; our ResNet-18 has a first convolution of 3 x 3."""
    entries = Architecture(name, 3, 64, patch_size=16).entries()
    assert {entry.name for entry in entries} == names
    learned = [entry for entry in entries if "running" not in entry.name]
    assert count_numbers(learned) == parameters


def test_layouts_by_hand():
    """Of a head's layer, a convolution and the third of an attention that asks."""
    linear = method_arrays(TrainSettings(projection_dim=2, projection_hidden=3),
                           Architecture("smallconv", 1, 2))  # fmt: skip
    weights = numbered(linear)
    for framework, kernel in (("jax", "head.layers.6.kernel"), ("tensorflow", "head.fc3.kernel")):
        native = to_native(weights, linear, framework)
        np.testing.assert_array_equal(native[kernel], weights["head.fc3.weight"].T)
    conv = Architecture("smallconv", 3, 2).entries()
    weights = numbered(conv)
    found = to_native(weights, conv, "jax")["layers.0.conv.kernel"]
    assert found.shape == (3, 3, 3, 2)
    assert found[2, 1, 0, 1] == weights["conv1.weight"][1, 0, 2, 1]
    vit = Architecture("vit-s6", 1, 2).entries()  # six heads of two channels
    weights = numbered(vit)
    found = to_native(weights, vit, "jax")["blocks.3.attention.key.kernel"]
    assert found.shape == (12, 6, 2)
    qkv = weights["blocks.3.attn.qkv.weight"]
    assert found[5, 4, 1] == qkv[12 + 2 * 4 + 1, 5]


# The files


def test_a_model_is_read_as_it_was_written(small_run):
    model = open_model(small_run.path)
    assert model.architecture == Architecture("smallconv", 3, 4)
    assert (model.image_shape, model.framework) == ((9, 7, 3), ("torch", "tensorflow"))
    assert model.facts["num_features"] == 32
    assert TrainSettings.from_dict(model.facts["trained"]["settings"]) == small_run.settings
    entries = method_arrays(small_run.settings, model.architecture)
    encoder, rest = model.weights(), read_weights(small_run.path / "method.safetensors")
    every = {f"encoder.{name}": array for name, array in encoder.items()} | rest
    assert {k: v.shape for k, v in every.items()} == {e.name: e.shape for e in entries}
    assert all(array.dtype == np.float64 for array in every.values())


def test_arrays_come_back_with_their_bits_whatever_their_layout(tmp_path):
    arrays = {"number": np.int32(3), "turned": np.arange(6.0).reshape(2, 3).T,
              "half": np.ones((1, 2), np.float16)}  # fmt: skip
    write_weights(tmp_path / "a", arrays)
    found = read_weights(tmp_path / "a")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)


def changed(**facts):
    def change(path):
        stored = json.loads((path / MODEL).read_text())
        stored |= {k: {**stored[k], **v} if isinstance(v, dict) else v for k, v in facts.items()}
        (path / MODEL).write_text(json.dumps(stored))

    return change


def stored(change):
    def rewrite(path):
        arrays = read_weights(path / ENCODER)
        change(arrays)
        write_weights(path / ENCODER, arrays)

    return rewrite


def cut(length):
    return lambda path: (path / ENCODER).write_bytes((path / ENCODER).read_bytes()[:length])


#: What can be wrong in a folder, each with what is said of it.
DAMAGES = {
    "a wide network": (changed(options={"width": 2**20}), "with bn1.bias of the shape (1048576,)"),
    "a width beyond": (changed(options={"width": 2**40}), "whole numbers from 1 to 2**20"),
    "a width that is none": (changed(options={"width": True}), "whole numbers from 1 to 2**20"),
    "a negative width": (changed(options={"width": -4}), "whole numbers from 1 to 2**20"),
    "a large image": (changed(image_shape=[2**20, 2**20, 3]), "images of at most"),
    "a shape of two": (changed(image_shape=[9, 7]), "whole numbers"),
    "other channels": (changed(image_shape=[9, 7, 1]), "images of 3 channels"),
    "an unknown option": (changed(options={"depth": 3}), "a model.json as fmicl writes it"),
    "an unknown network": (changed(architecture="resnet19"), "one of 'resnet18'"),
    "a name that is none": (changed(architecture=["resnet18"]), "a model.json as fmicl"),
    "another library": (changed(architecture="os:system"), "one of 'resnet18'"),
    "another network": (changed(architecture="resnet18"), "with bn1.bias|with bn2.bias|with conv2"),
    "a later format": (changed(format_version=2), "a model of format 1 or before"),
    "no format": (changed(format_version=None), "whole numbers"),
    "other colours": (changed(normalisation={"mean": 0.4}), "images standardised by mean 0.5"),
    "no JSON": (lambda path: (path / MODEL).write_text("{"), "a readable model.json"),
    "no object": (lambda path: (path / MODEL).write_text("[]"), "an object in model.json"),
    "an empty object": (lambda path: (path / MODEL).write_text("{}"), "a model.json as fmicl"),
    "no weights": (lambda path: (path / ENCODER).unlink(), "a folder with encoder.safetensors"),
    "an empty file": (cut(0), "a readable encoder.safetensors"),
    "half a file": (cut(1000), "a readable encoder.safetensors"),
    "an array too few": (stored(lambda a: a.pop("bn1.bias")), "bn1.bias of the shape (4,)"),
    "an array too many": (stored(lambda a: a.update(x=np.ones(1))), "with x of the shape none"),
    "another shape": (stored(lambda a: a.update({"bn1.bias": np.ones((4, 1))})),
                      "bn1.bias of the shape (4,)"),
    "another dtype": (stored(lambda a: a.update({"bn1.bias": np.ones(4, bool)})), "one of 'F16'"),
}  # fmt: skip


@pytest.fixture(params=DAMAGES)
def damaged(request, small_run):
    """A damaged run: its folder, and what is said of it."""
    damage, said = DAMAGES[request.param]
    damage(small_run.path)
    return small_run.path, said


def refused(call, said):
    with pytest.raises(InvalidArgument) as error:
        call()
    found = str(error.value)
    assert any(part in found for part in said.split("|")), found
    assert found.startswith("Invalid value for argument `")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_is_damaged_is_refused(damaged, framework):
    path, said = damaged
    refused(lambda: open_model(path).native(framework), said)


@pytest.mark.parametrize("package", ["fmicl_lightning", "fmicl_flax"])
def test_no_network_is_built_of_what_is_damaged(damaged, package, require, monkeypatch):
    """Whatever size it would have. Keras has this test in a process of its own."""
    loading = require(f"{package}.loading")
    monkeypatch.setattr(loading, "build_encoder", None)
    path, said = damaged
    refused(lambda: loading.load_encoder(path), said)


def test_positions_that_would_fill_the_memory_are_refused(new_run, tmp_path):
    run = new_run(tmp_path / "run", "vit-s6", {"width": 2, "patch_size": 1}, (8192, 8192, 1))
    refused(lambda: open_model(run.path), "positions of their patches of at most")


def test_more_than_the_free_memory_is_not_read(small_run, monkeypatch):
    monkeypatch.setattr("fmicl_recipes.weights.tensors.free_memory", lambda: 1000)
    refused(open_model(small_run.path).weights, "of at most 1000 bytes, the free memory")


def test_a_folder_without_a_model_is_told_how_it_gets_one(tmp_path):
    def said(path, pattern):
        with pytest.raises(InvalidArgument, match=pattern):
            open_model(path)

    said(tmp_path, r"`run`. Expected a folder with model.json. Received: run='[^']*'$")
    said(tmp_path / "none", r"`run`. Expected a folder with model.json. Received")
    run = RunFolder.create(tmp_path / "run", TrainSettings())
    said(run.path, "a folder with model.json.* The run has not trained for an epoch yet")
    run.checkpoint.write_bytes(b"weights")
    said(str(run.path), f"not evaluated to its end: `fmicl evaluate {re.escape(str(run.path))}`")
    texts = RunFolder.create(tmp_path / "texts", TextSettings())
    said(texts.path, "a run of simclr, moco, moco-v3. Received: method='simcse'")


def test_an_encoder_of_a_library_is_pytorchs_alone(small_run):
    changed(architecture="timm:resnet18")(small_run.path)
    facts = json.loads((small_run.path / MODEL).read_text())
    facts["options"] = {"channels": 3}
    (small_run.path / MODEL).write_text(json.dumps(facts))
    model = open_model(small_run.path)
    assert not model.architecture.ours
    refused(lambda: model.native("jax"), "That one needs PyTorch: fmicl_lightning loads it")
    shapes = {name: array.shape for name, array in model.weights().items()}
    assert model.weights(shapes).keys() == shapes.keys()
    refused(lambda: model.weights(shapes | {"more": (1,)}), "with more of the shape (1,)")


@pytest.mark.parametrize(
    "facts",
    [{"trained": None}, {"trained": {"settings": 3}}, {"trained": {"settings": {}}},
     {"trained": {"settings": {"framework": "numpy"}}}],
)  # fmt: skip
def test_a_model_that_does_not_say_who_trained_it_can_be_used_but_has_no_framework(
    small_run, facts
):
    stored = json.loads((small_run.path / MODEL).read_text())
    (small_run.path / MODEL).write_text(json.dumps(stored | facts))
    model = open_model(small_run.path)
    model.native("torch")
    with pytest.raises(InvalidArgument, match=r"`(run|framework)`"):
        assert model.framework
