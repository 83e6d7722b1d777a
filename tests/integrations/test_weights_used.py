"""A run's encoder in a framework that did not train it: the same arrays, the same features.

Keras has these tests in keras_trainer_suite/test_weights.py, a process for each of its backends.
"""

import sys
import types

import numpy as np
import pytest

pytest.importorskip("safetensors", reason="weights are in safetensors files")
torch = pytest.importorskip("torch", reason="features are compared with PyTorch's")
pytest.importorskip("lightning", reason="features are compared with PyTorch's")

from fmicl_core.checks import InvalidArgument  # noqa: E402
from fmicl_lightning import load_encoder  # noqa: E402
from fmicl_lightning.weights import get_arrays  # noqa: E402
from fmicl_recipes import RunFolder, resolve  # noqa: E402
from fmicl_recipes.data import load_images  # noqa: E402
from fmicl_recipes.loading import PACKAGES  # noqa: E402
from fmicl_recipes.vit import sine_cosine  # noqa: E402
from fmicl_recipes.weights import method_arrays, open_model  # noqa: E402
from fmicl_recipes.weights.networks import count_numbers  # noqa: E402
from fmicl_recipes.weights.tensors import write_weights  # noqa: E402

TOLERANCES = {"float32": 1e-5, "float64": 1e-12}
#: Arrays that a framework counts with, and computes nothing with as we call it.
COUNTERS = "num_batches_tracked"
SMALL = {"encoder": "smallconv", "width": 4, "batch_size": 64, "limit": 128, "epochs": 1,
         "warmup_epochs": 0, "projection_hidden": 6, "projection_dim": 4,
         "device": "cpu"}  # fmt: skip
#: Methods, with what decides over their arrays.
METHODS = [
    {"method": "simclr"},
    {"method": "moco", "queue_size": 10},
    {"method": "moco", "queue_size": 10, "supervised": True, "head_norm": "none"},
    {"method": "moco-v3", "encoder": "vit-s6"},
]


def pytorchs(run, dtype="float32"):
    """The features that the encoder gives in PyTorch."""
    with torch.inference_mode():
        images = torch.from_numpy(run.images).permute(0, 3, 1, 2)
        return load_encoder(run.path, dtype=dtype)(images).numpy()


def trainer_of(framework, given):
    package = pytest.importorskip(PACKAGES[framework], reason=f"{framework} is compared")
    settings = resolve("digits", {"framework": framework, **SMALL, **given})
    return package.MethodTrainer(settings, load_images("digits", limit=128))


def assert_flax_gives_the_features(run, require):
    want = pytorchs(run)
    found = require("fmicl_flax").features(run.path, run.images)
    assert found.dtype == want.dtype == np.float32
    assert np.abs(found - want).max() < TOLERANCES["float32"] * np.abs(want).max()


def test_flax_gives_the_features_of_pytorch(small_run, require):
    assert_flax_gives_the_features(small_run, require)


@pytest.mark.slow  # the network of each encoder is compared in float64, below
def test_flax_gives_the_features_of_pytorch_with_every_encoder(random_run, require):
    assert_flax_gives_the_features(random_run, require)


def test_flax_gives_the_features_of_pytorch_in_float64(random_run, require):
    jax, flax = require("jax"), require("fmicl_flax")
    want = pytorchs(random_run, "float64")
    with jax.enable_x64(True):
        encoder = flax.load_encoder(random_run.path, dtype="float64")
        found = np.asarray(jax.jit(encoder)(random_run.images / 255.0))
    assert found.dtype == np.float64
    assert {array.dtype for array in flax.weights.get_arrays(encoder).values()} == {found.dtype}
    assert np.abs(found - want).max() < TOLERANCES["float64"] * np.abs(want).max()


def test_flax_standardises_bytes_in_float64_too(small_run, require):
    jax, want = require("jax"), pytorchs(small_run, "float64")
    with jax.enable_x64(True):
        encoder = require("fmicl_flax").load_encoder(small_run.path, dtype="float64")
        found = np.asarray(jax.jit(encoder)(small_run.images))
    assert np.abs(found - want).max() < TOLERANCES["float64"] * np.abs(want).max()


def test_float64_without_jax_being_told_is_refused(small_run, require):
    jax, refused = require("jax"), r"`dtype`. Expected 'float32' .*JAX_ENABLE_X64"
    before = jax.config.jax_enable_x64  # by another test of this process
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(InvalidArgument, match=refused):
            require("fmicl_flax").load_encoder(small_run.path, dtype="float64")
    finally:
        jax.config.update("jax_enable_x64", before)


def test_float64_is_the_dtype_of_weights_and_arithmetic(random_run):
    """What float32 rounds away is there."""
    want, found = (pytorchs(random_run, dtype) for dtype in ("float64", "float32"))
    assert (want.dtype, found.dtype) == (np.float64, np.float32)
    error = np.abs(found - want).max() / np.abs(want).max()
    assert 1e-9 < error < TOLERANCES["float32"]
    weights = open_model(random_run.path).native("torch")
    network = load_encoder(random_run.path, dtype="float64").network
    for name, array in get_arrays(network).items():
        if name in weights:
            np.testing.assert_array_equal(array, weights[name], strict=True)


def test_a_network_has_as_many_numbers_as_its_entries(random_run):
    model = open_model(random_run.path)
    network = load_encoder(random_run.path).network
    numbers = [v.numel() for name, v in network.state_dict().items() if COUNTERS not in name]
    assert sum(numbers) == count_numbers(model.architecture.entries())
    assert len(numbers) == len(model.native("torch"))


@pytest.mark.parametrize("dtype", ["float16", "double", None])
@pytest.mark.parametrize("package", ["fmicl_lightning", "fmicl_flax"])
def test_other_dtypes_are_refused(small_run, dtype, package, require):
    with pytest.raises(InvalidArgument, match=r"`dtype`. Expected one of 'float32', 'float64'"):
        require(package).load_encoder(small_run.path, dtype=dtype)


# Whole methods


@pytest.mark.parametrize("given", METHODS, ids=lambda given: "-".join(map(str, given.values())))
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_the_entries_are_all_arrays_of_a_method_but_counters(framework, given):
    trainer = trainer_of(framework, given)
    entries = method_arrays(trainer.settings, trainer.architecture)
    names = {name for entry in entries for name in entry.names[framework]}
    arrays = {name for name in trainer.arrays() if COUNTERS not in name}
    assert arrays == names
    assert {n: w.shape for n, w in trainer.weights().items()} == {e.name: e.shape for e in entries}


@pytest.mark.parametrize("given", METHODS, ids=lambda given: "-".join(map(str, given.values())))
def test_a_method_goes_from_pytorch_to_flax_and_back(given):
    ours, theirs = trainer_of("torch", given), trainer_of("jax", given)
    weights = ours.weights()
    theirs.set_weights(weights)
    back = theirs.weights()
    assert back.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    ours.set_weights({name: np.zeros_like(array) for name, array in weights.items()})
    ours.set_weights(back)
    for name, array in ours.weights().items():
        np.testing.assert_array_equal(array, weights[name], err_msg=name)
    images = ours.data.test_images[:20]
    want = ours.encode(images)
    assert np.abs(theirs.encode(images) - want).max() < 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vit-s6", "vit-s12"])
def test_another_library_reads_the_weights(new_run, tmp_path, name):
    """As docs/weights.md says: by timm's networks, whose ResNets have torchvision's names."""
    timm = pytest.importorskip("timm", reason="timm, whose networks load ours, is the user's own")
    from safetensors.torch import load_file

    run = new_run(tmp_path / "run", name, {}, (32, 32, 3))
    if name.startswith("vit"):
        network = timm.create_model(
            "vit_small_patch16_224", img_size=32, patch_size=4, depth=int(name[5:]), num_classes=0
        )
        positions = torch.from_numpy(sine_cosine((8, 8), 384))
        network.pos_embed.data[0] = torch.cat([torch.zeros(1, 384), positions])
    else:
        network = timm.create_model(name, num_classes=0)
    if name == "resnet18":
        network.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        network.maxpool = torch.nn.Identity()
    stored = load_file(run.path / "encoder.safetensors")
    missing, unknown = network.load_state_dict(stored, strict=False)
    assert (missing, unknown) == (["pos_embed"] if name.startswith("vit") else [], [])
    images = torch.from_numpy(run.images).permute(0, 3, 1, 2)
    with torch.inference_mode():
        found = network.eval()((images / 255 - 0.5) / 0.25).numpy()
    want = pytorchs(run)
    assert np.abs(found - want).max() < TOLERANCES["float32"] * np.abs(want).max()


# Encoders of libraries, by a stand-in for one


class Library(torch.nn.Module):
    """A network of a library, with a counter and a buffer."""

    def __init__(self, channels):
        super().__init__()
        self.stem = torch.nn.Conv2d(channels, 5, 3)
        self.bn = torch.nn.BatchNorm2d(5)

    def forward(self, x):
        return self.bn(self.stem(x)).mean((2, 3))


@pytest.fixture
def library_run(monkeypatch, give_away, tmp_path):
    """Folder and trainer of a run whose encoder is a library's."""
    fake = types.SimpleNamespace(
        is_model=lambda name: True,
        create_model=lambda name, num_classes, in_chans: Library(in_chans),
    )
    monkeypatch.setitem(sys.modules, "timm", fake)
    trainer = trainer_of("torch", {"method": "simclr", "encoder": "timm:small", "width": 64})
    folder = RunFolder.create(tmp_path / "run", trainer.settings)
    give_away(folder, trainer)
    return folder, trainer


def test_an_encoder_of_a_library_comes_back_in_pytorch(library_run):
    folder, trainer = library_run
    images = torch.from_numpy(trainer.data.test_images[:5]).permute(0, 3, 1, 2)
    encoder = load_encoder(folder.path)
    assert encoder.num_features == 5
    np.testing.assert_array_equal(
        encoder(images).detach().numpy(), trainer.encode(trainer.data.test_images[:5])
    )
    model = open_model(folder.path)
    weights = model.weights()
    assert {"stem.weight", "bn.running_var", "bn.num_batches_tracked"} <= weights.keys()
    for damaged in ({"stem.weight": weights["stem.weight"]}, weights | {"other": np.ones(1)}):
        write_weights(model.file, damaged)
        with pytest.raises(InvalidArgument, match=r"encoder.safetensors with "):
            load_encoder(folder.path)


def test_an_encoder_of_a_library_is_refused_elsewhere(library_run, require):
    flax = require("fmicl_flax")
    with pytest.raises(InvalidArgument, match="That one needs PyTorch: fmicl_lightning loads it"):
        flax.load_encoder(library_run[0].path)
