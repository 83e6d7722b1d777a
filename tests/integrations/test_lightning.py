"""The Lightning trainer learns, resumes exactly, and stops cleanly."""

import json
import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the Lightning trainer needs PyTorch")
pytest.importorskip("lightning", reason="the Lightning trainer needs Lightning")

from fmicl_lightning import (  # noqa: E402
    MethodTrainer,
    build_encoder,
    build_loss,
    build_method,
)
from fmicl_lightning.callbacks import LOGGERS, quiet  # noqa: E402
from fmicl_lightning.encoders import feature_width  # noqa: E402
from fmicl_recipes import RunFolder, resolve  # noqa: E402
from fmicl_recipes.choices import LOSSES  # noqa: E402
from fmicl_recipes.data import load_images  # noqa: E402
from fmicl_recipes.run import evaluate_run, train_run  # noqa: E402
from fmicl_recipes.trainer import NonFiniteLossError  # noqa: E402

pytestmark = pytest.mark.usefixtures("short_maps")
TINY = {
    "limit": 256,
    "batch_size": 64,
    "epochs": 3,
    "warmup_epochs": 1,
    "width": 8,
    "device": "cpu",
}


def train(settings, out, progress=False, **options):
    return train_run(MethodTrainer, settings, out, progress=progress, **options)


def tiny(**options):
    return resolve("digits", {**TINY, **options})


def fit(settings, out):
    """A run without its evaluation and pictures, which take longer than it."""
    trainer = MethodTrainer(settings, load_images("digits", limit=settings.limit))
    trainer.fit(RunFolder.create(out, settings), resume=False, progress=False)
    return trainer


def weights(folder):
    return torch.load(RunFolder(folder).checkpoint, weights_only=True)["state_dict"]


def assert_same_weights(a, b):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def test_training_beats_the_random_encoder(tmp_path):
    settings = resolve("digits", {"epochs": 8, "device": "cpu", "divergence": "js"})
    metrics = train(settings, tmp_path / "run", baselines=True)
    assert metrics["loss_history"][-1] < metrics["loss_history"][0]
    random = metrics["baselines"]["random encoder"]
    assert metrics["linear10_accuracy"] > random["linear10_accuracy"] + 0.02
    assert metrics["knn_accuracy"] > random["knn_accuracy"]
    stored = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert stored == metrics
    for name in ("history.csv", "embeddings.npz", "checkpoint.ckpt", "plots/loss.png",
                 "plots/distances.png", "plots/embedding.png"):  # fmt: skip
        assert (tmp_path / "run" / name).stat().st_size > 0
    again = evaluate_run(MethodTrainer, RunFolder(tmp_path / "run"))
    for key in ("knn_accuracy", "linear_accuracy", "alignment", "loss_history", "seconds"):
        assert again[key] == pytest.approx(metrics[key])


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(tmp_path, loss):
    trainer = fit(tiny(loss=loss, epochs=2), tmp_path / "run")
    assert np.isfinite([row["loss"] for row in trainer.history]).all()


def test_bf16_trains(tmp_path):
    metrics = train(tiny(loss="info-nce", epochs=2, precision="bf16"), tmp_path / "run")
    assert np.isfinite(metrics["loss_history"]).all()
    assert metrics["loss"] == "info-nce"


def test_equal_seeds_give_equal_weights(tmp_path):
    for name in ("a", "b"):
        fit(tiny(epochs=2), tmp_path / name)
    assert_same_weights(tmp_path / "a", tmp_path / "b")


KILLED = """
import sys
from fmicl_lightning import MethodTrainer
from fmicl_recipes import TrainSettings
from fmicl_recipes.run import train_run
import json
settings = TrainSettings.from_dict(json.loads(sys.argv[1]))
train_run(MethodTrainer, settings, sys.argv[2], progress=False)
"""


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    """With its evaluation; a killed command's weights are in test_lightning_resume.py."""
    settings = tiny(epochs=16, limit=512)
    train(settings, tmp_path / "whole")
    command = [sys.executable, "-c", KILLED, json.dumps(settings.to_dict()), tmp_path / "cut"]
    history = tmp_path / "cut" / "history.csv"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (history.exists() and history.read_text().count("\n") > 4):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert len(RunFolder(tmp_path / "cut").read_history()) < 16
    assert not (tmp_path / "cut" / "metrics.json").exists()
    resumed = train(settings, tmp_path / "cut", resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")
    whole = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    for key in ("loss_history", "knn_accuracy", "linear_accuracy", "alignment", "uniformity"):
        assert resumed[key] == whole[key]


def test_a_run_killed_before_its_first_checkpoint_starts_anew(tmp_path):
    settings = tiny(epochs=2)
    RunFolder.create(tmp_path / "run", settings)
    train(settings, tmp_path / "run", resume=True)
    train(settings, tmp_path / "other")
    assert_same_weights(tmp_path / "run", tmp_path / "other")


def test_a_non_finite_loss_stops_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    from fmicl_lightning import build

    def breaking(settings):
        steps = iter(range(100))

        def loss(x, y):
            value = ((x - y) ** 2).mean()
            return value * float("nan") if next(steps) == 6 else value

        return loss

    monkeypatch.setattr(build, "build_loss", breaking)
    with pytest.raises(NonFiniteLossError, match=r"The loss is nan at step 6 \(epoch 2\)"):
        train(tiny(), tmp_path / "run")
    kept = torch.load(RunFolder(tmp_path / "run").checkpoint, weights_only=True)
    assert kept["global_step"] == 4
    assert all(v.isfinite().all() for v in kept["state_dict"].values())


def test_only_a_run_silences_lightning(tmp_path):
    """Also one that ends in an error; whoever uses Lightning beside us hears it as before."""
    before = [logger.level for logger in LOGGERS]
    LOGGERS[0].setLevel(logging.DEBUG)
    try:
        settings = tiny(epochs=1, warmup_epochs=0)
        trainer = MethodTrainer(settings, load_images("digits", limit=settings.limit))
        folder = RunFolder.create(tmp_path / "run", settings)
        trainer.fit(folder, resume=False, progress=False)
        assert LOGGERS[0].level == logging.DEBUG
        with pytest.raises(KeyError), quiet():
            assert LOGGERS[0].level == logging.ERROR
            raise KeyError
        assert LOGGERS[0].level == logging.DEBUG
        assert [logger.level for logger in LOGGERS[1:]] == before[1:]
    finally:
        LOGGERS[0].setLevel(before[0])


def test_a_run_folder_that_exists_and_other_settings_are_refused(tmp_path):
    train(tiny(epochs=2), tmp_path / "run")
    with pytest.raises(ValueError, match=r"`out`. Expected a folder that does not exist yet"):
        train(tiny(epochs=2), tmp_path / "run")
    with pytest.raises(ValueError, match=r"alpha: 'auto' in the run, 3.0 now"):
        train(tiny(epochs=2, alpha=3.0), tmp_path / "run", resume=True)


def test_a_batch_larger_than_the_data_is_refused_before_a_folder_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"`batch_size`. Expected at most the 256 training images"):
        train(tiny(batch_size=300), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "width"), [("resnet18", 8), ("smallconv", 8)])
def test_encoders_give_features(name, width):
    encoder = build_encoder(name, 3, width)
    assert feature_width(encoder, (3, 32, 32)) == 8 * width
    assert encoder(torch.randn(2, 3, 16, 16)).shape == (2, 8 * width)


def test_resnet18_is_the_standard_one():
    """The parameters of ResNet-18 less its classifier and with the small stem: 11.17 million."""
    count = sum(p.numel() for p in build_encoder("resnet18", 3, 64).parameters())
    assert count == 11_168_832


def test_resnet50_is_the_standard_one():
    """Parameters of torchvision's less its classifier, and the same features, written out."""
    with torch.device("meta"):
        encoder = build_encoder("resnet50", 3, 64)
    assert sum(p.numel() for p in encoder.parameters()) == 23_508_032
    torch.manual_seed(0)
    encoder = build_encoder("resnet50", 1, 4).double().eval()
    for value in encoder.state_dict().values():
        if value.ndim == 1:  # of a norm
            value.uniform_(0.5, 1.5)
    weights = iter(encoder.state_dict().values())

    def layer(x, stride=1, padding=0):
        """A convolution and its norm, in the order in which the encoder made them."""
        x = torch.nn.functional.conv2d(x, next(weights), stride=stride, padding=padding)
        gamma, beta, mean, variance, _ = (next(weights) for _ in range(5))
        return torch.nn.functional.batch_norm(x, mean, variance, gamma, beta)

    images = torch.randn(2, 1, 48, 64, dtype=torch.float64)
    x = torch.nn.functional.max_pool2d(layer(images, 2, 3).relu(), 3, 2, 1)
    assert x.shape == (2, 4, 12, 16)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = layer(layer(layer(x).relu(), stride, 1).relu())
            x = (y + (x if block else layer(x, stride))).relu()
    assert x.shape == (2, 128, 2, 2)
    torch.testing.assert_close(encoder(images), x.mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "message"),
    [("resnet", "Expected one of resnet18, resnet50, smallconv, vit-s6, vit-s12, timm:NAME"),
     ("timm:", "Expected one of resnet18"), ("nolib:x", "Expected one of resnet18")],
)  # fmt: skip
def test_unknown_encoders_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(name, 3, 8)


def test_an_encoder_that_keeps_its_map_is_refused():
    with pytest.raises(ValueError, match=r"Expected a module that returns \(N, F\)"):
        feature_width(torch.nn.Conv2d(1, 2, 3), (1, 8, 8))


def test_weight_decay_leaves_norms_and_biases_out():
    module = build_method(tiny(), (8, 8, 1))

    class Stub:
        estimated_stepping_batches, max_epochs = 12, 3

    module._trainer = Stub()
    module._fabric = None
    optimizer = module.configure_optimizers()["optimizer"]
    decayed, bare = optimizer.param_groups
    assert bare["weight_decay"] == 0.0
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in bare["params"])


def test_the_loss_is_the_one_the_settings_name():
    x, y = torch.randn(2, 8, 4)
    import fmicl_torch

    js = build_loss(tiny(divergence="js", alpha=3.0))(x, y)
    want = fmicl_torch.fmicl_loss(x, y, divergence="js", alpha=3.0, negatives="all")
    assert js.item() == pytest.approx(want.item())
    nce = build_loss(tiny(loss="info-nce", temperature=0.2))(x, y)
    assert nce.item() == pytest.approx(fmicl_torch.info_nce_loss(x, y, temperature=0.2).item())
    dcl = build_loss(tiny(loss="dcl", temperature=0.2, negatives="cross"))(x, y)
    want = fmicl_torch.dcl_loss(x, y, temperature=0.2, negatives="cross")
    assert dcl.item() == pytest.approx(want.item())
    siglip = build_loss(tiny(loss="siglip", temperature=0.2, logit_bias=-1.0))(x, y)
    want = fmicl_torch.siglip_loss(x, y, logit_scale=5.0, logit_bias=-1.0)
    assert siglip.item() == pytest.approx(want.item())
