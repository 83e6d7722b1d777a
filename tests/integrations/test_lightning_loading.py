"""A run's encoder in PyTorch: in one line, with the preprocessing of training, and refusals."""

import json
import shutil
import signal
import subprocess
import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the Lightning trainer needs PyTorch")
pytest.importorskip("lightning", reason="the Lightning trainer needs Lightning")

from fmicl_lightning import MethodTrainer, features, load_encoder  # noqa: E402
from fmicl_lightning.callbacks import RunClock  # noqa: E402
from fmicl_recipes import RunFolder, resolve  # noqa: E402
from fmicl_recipes.choices import METHODS  # noqa: E402
from fmicl_recipes.data import load_images  # noqa: E402
from fmicl_recipes.run import train_run  # noqa: E402
from fmicl_recipes.trainer import NonFiniteLossError  # noqa: E402

DATA = load_images("digits", limit=128)
IMAGES = DATA.test_images[:30]


def tiny(method="simclr", **options):
    small = {"width": 8, "batch_size": 64, "limit": 128, "epochs": 1, "warmup_epochs": 0,
             "projection_hidden": 16, "projection_dim": 8, "device": "cpu"}  # fmt: skip
    return resolve("digits", {"method": method, **small, **options})


def channels_first(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@pytest.fixture(scope="module", params=["smallconv", "vit-s6"])
def run(request, tmp_path_factory, give_away):
    """Folder of a run and its trainer; of the ViT MoCo v3 has frozen the patches."""
    method = "moco-v3" if request.param == "vit-s6" else "simclr"
    settings = tiny(method, encoder=request.param)
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "run", settings)
    trainer = MethodTrainer(settings, DATA)
    trainer.fit(folder, resume=False, progress=False)
    give_away(folder, trainer)
    return folder.path, trainer


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run's folder, to be damaged."""
    return RunFolder(shutil.copytree(run[0], tmp_path / "copy"))


def test_features_are_those_of_the_trainer(run):
    path, trainer = run
    want = trainer.encode(IMAGES)
    for images in (IMAGES, IMAGES[..., 0]):
        found = features(str(path), images)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, want)


def test_the_encoder_takes_bytes_and_floats_and_leaves_random_numbers_alone(run):
    path, trainer = run
    before = torch.get_rng_state()
    encoder = load_encoder(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in encoder.modules())
    assert encoder.image_shape == (8, 8, 1)
    images = channels_first(IMAGES)
    want = torch.from_numpy(trainer.encode(IMAGES))
    assert want.shape == (len(IMAGES), encoder.num_features)
    with torch.no_grad():
        for given in (images, images / 255.0, images.double() / 255.0):
            torch.testing.assert_close(encoder(given), want, rtol=1e-5, atol=1e-5)


def test_every_parameter_of_the_encoder_can_be_trained_further(run):
    encoder = load_encoder(run[0]).train()
    encoder(channels_first(IMAGES)).square().mean().backward()
    assert all(weight.grad is not None for weight in encoder.parameters())


@pytest.mark.parametrize(
    ("images", "message"),
    [(torch.zeros(2, 3, 8, 8), r"Expected \(N, 1, H, W\). Received: images.shape=\(2, 3, 8, 8\)"),
     (torch.zeros(1, 8, 8), r"Expected \(N, 1, H, W\)"),
     (np.zeros((2, 1, 8, 8)), "Expected a torch.Tensor. Received: type.images.='ndarray'"),
     (torch.zeros(2, 1, 8, 8, dtype=torch.int64), "Expected uint8, or float in .*'int64'")],
)  # fmt: skip
def test_the_encoder_refuses_what_it_was_not_trained_on(run, images, message):
    with pytest.raises(ValueError, match=f"`images`. {message}"):
        load_encoder(run[0])(images)


@pytest.mark.parametrize(
    ("images", "message"),
    [(IMAGES.astype(np.float32), "Expected uint8, 0 to 255. Received: images.dtype='float32'"),
     (IMAGES[:, :4], r"Expected images like those of the run, \(N, 8, 8, 1\)"),
     (np.repeat(IMAGES, 3, axis=3), r"Expected images like .*images.shape=\(30, 8, 8, 3\)"),
     (IMAGES[:0], "Expected images like .* with N >= 1")],
)  # fmt: skip
def test_features_refuse_what_the_encoder_was_not_trained_on(run, images, message):
    with pytest.raises(ValueError, match=f"`images`. {message}"):
        features(run[0], images)


def test_nothing_but_model_and_weights_is_read(run, tmp_path):
    for name in ("model.json", "encoder.safetensors"):
        shutil.copy(run[0] / name, tmp_path / name)
    np.testing.assert_array_equal(features(tmp_path, IMAGES), run[1].encode(IMAGES))


def test_checkpoints_that_are_damaged_are_refused(run, copy):
    trainer = run[1]

    def refused():
        with pytest.raises(ValueError, match=r"`run`. Expected a folder whose checkpoint is whole"):
            trainer.load(copy)

    whole = torch.load(copy.checkpoint, weights_only=True)
    weights = whole["state_dict"]
    few = {name: value for name, value in weights.items() if not name.endswith("bias")}
    shapes = {name: value[..., None] for name, value in weights.items()}
    for damaged in (
        {**whole, "state_dict": few},
        {**whole, "state_dict": shapes},
        {"state_dict": weights},
        [1.0],
    ):
        torch.save(damaged, copy.checkpoint)
        refused()
    copy.checkpoint.write_bytes(b"PK" + bytes(500))
    refused()


# How a run ends, and what is looked at before it begins


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_diverges_does_not_look_finished(tmp_path, method):
    settings = tiny(method, lr=1e6, epochs=8)
    with pytest.raises(NonFiniteLossError, match=r"Try a smaller --lr.* is kept\.$"):
        train_run(MethodTrainer, settings, tmp_path / "run", progress=False, data=DATA)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_ctrl_c_comes_out_as_it_went_in(tmp_path, monkeypatch):
    """Lightning makes a SystemExit of it, and leaves a process that hears no other one."""
    step = RunClock.on_train_batch_end

    def interrupt(clock, trainer, *given):
        step(clock, trainer, *given)
        if trainer.current_epoch == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunClock, "on_train_batch_end", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train_run(MethodTrainer, tiny(epochs=3), tmp_path / "run", progress=False, data=DATA)
    assert signal.getsignal(signal.SIGINT) is handler
    assert len(RunFolder(tmp_path / "run").read_history()) == 1


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_model_that_a_library_lacks_is_refused_before_images_are_decoded(monkeypatch, library):
    fakes = {
        "timm": types.SimpleNamespace(is_model="resnet50".__eq__, create_model=None),
        "torchvision.models": types.SimpleNamespace(
            list_models=lambda: ["resnet50"], get_model=None
        ),
    }
    for name, module in fakes.items():
        monkeypatch.setitem(sys.modules, name, module)
    MethodTrainer.check(tiny(encoder=f"{library}:resnet50", width=64))
    MethodTrainer.check(tiny(encoder="timm:hf_hub:someone/something", width=64))
    with pytest.raises(ValueError, match=f"`encoder`. Expected a model that {library} has. It sa"):
        MethodTrainer.check(tiny(encoder=f"{library}:resnet51", width=64))


LOGGED = """
import json, sys
from fmicl_lightning import MethodTrainer
from fmicl_recipes import TrainSettings
from fmicl_recipes.run import train_run
train_run(MethodTrainer, TrainSettings.from_dict(json.loads(sys.argv[1])), sys.argv[2],
          progress=False)
print("tensorflow" in sys.modules)
"""


@pytest.mark.slow
def test_tensorboard_brings_no_tensorflow_in(tmp_path):
    """Which takes seconds to import where it is installed."""
    command = [sys.executable, "-c", LOGGED, json.dumps(tiny().to_dict()), tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr
    assert list((tmp_path / "run" / "tensorboard").iterdir())
