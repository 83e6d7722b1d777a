"""What becomes of a run through the command line: crashes, Ctrl-C, resuming, what is said."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs typer")
pytest.importorskip("lightning", reason="the command line trains with Lightning")

from PIL import Image

from fmicl_lightning import MethodTrainer
from fmicl_recipes import RunFolder, TrainSettings, resolve
from fmicl_recipes.trainer import NonFiniteLossError

SHORT = ["--data", "digits", "--limit", "128", "--batch-size", "64", "--width", "8",
         "--device", "cpu"]  # fmt: skip


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("folder", ["new", "empty"])
@pytest.mark.parametrize(
    ("error", "code"), [(NonFiniteLossError("The loss is nan."), 1), (KeyboardInterrupt(), 130)]
)
def test_a_run_without_a_checkpoint_leaves_nothing(
    tmp_path, monkeypatch, fmicl, folder, error, code
):
    out = tmp_path / "run"
    if folder == "empty":
        out.mkdir()

    def fit(self, folder, **options):
        (folder.path / "tensorboard").mkdir()
        raise error

    monkeypatch.setattr(MethodTrainer, "fit", fit)
    done, _, err = fmicl("train", "simclr", *SHORT, "--epochs", 1, "--out", out)
    assert done == code
    assert "there was no checkpoint yet" in err.lower()
    assert not out.exists()


def test_a_run_with_a_checkpoint_is_kept(tmp_path, monkeypatch, fmicl):
    def fit(self, folder, **options):
        folder.checkpoint.write_bytes(b"good")
        raise NonFiniteLossError("The loss is nan.")

    monkeypatch.setattr(MethodTrainer, "fit", fit)
    out = tmp_path / "run"
    code, _, err = fmicl("train", "simclr", *SHORT, "--epochs", 1, "--out", out)
    assert code == 1
    assert "stopped: The loss is nan. The last good checkpoint is kept." in err
    assert out.joinpath("checkpoint.ckpt").read_bytes() == b"good"


def test_what_is_resumed_is_never_removed(tmp_path, monkeypatch, fmicl):
    """Though it has no checkpoint yet, as when the first try was killed."""
    folder = RunFolder.create(tmp_path / "run", resolve(None, {"data": "digits"}))

    def fit(self, folder, **options):
        raise NonFiniteLossError("The loss is nan.")

    monkeypatch.setattr(MethodTrainer, "fit", fit)
    code, _, err = fmicl("train", "simclr", "--out", folder.path, "--resume")
    assert code == 1, err
    assert names(folder.path) == {"settings.json"}


def in_a_process(*arguments):
    command = [sys.executable, "-m", "fmicl_cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow  # test_lightning_resume resumes, test_cli the baselines
@pytest.mark.long
def test_a_stopped_run_goes_on_as_it_says_with_its_baselines(tmp_path, fmicl):
    """Ctrl-C after the first checkpoint; then with the command that it names, to the end."""
    out = tmp_path / "my run"
    process = in_a_process(
        "train", "simclr", *SHORT, "--epochs", 60, "--warmup-epochs", 0, "--baselines",
        "--out", out,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    command = f"fmicl train simclr --out '{out}' --resume"
    assert f"stopped; go on with: {command}" in err
    assert "Traceback" not in err
    before = RunFolder(out).read_json("baselines.json")
    code, shown, err = fmicl("train", "simclr", "--out", out, "--resume")
    assert code == 0, err
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["baselines"] == before
    assert set(before) == {"raw pixels", "random encoder"}
    assert "random encoder" in shown
    assert len(metrics["loss_history"]) == 60


def test_a_run_says_what_it_leaves_out_and_what_it_does(tmp_path, fmicl):
    """Each thing once."""
    arguments = [*SHORT, "--limit", 150, "--epochs", 1, "--warmup-epochs", 0]
    code, _, err = fmicl("train", "simclr", *arguments, "--out", tmp_path / "run")
    assert code == 0, err
    for line in ("training on 150 images, 2 steps of 64 in an epoch", "22 of them, others in every",
                 "evaluating the encoder", "drawing"):  # fmt: skip
        assert err.count(line) == 1, err


def test_settings_keep_the_shape_of_the_images(tmp_path, fmicl):
    out = tmp_path / "run"
    code, _, err = fmicl("train", "simclr", *SHORT, "--epochs", 1, "--out", out)
    assert code == 0, err
    folder = RunFolder(out)
    assert folder.read_json("settings.json")["image_shape"] == [8, 8, 1]
    assert folder.settings() == resolve(
        None, {"data": "digits", "limit": 128, "batch_size": 64, "width": 8, "device": "cpu",
               "epochs": 1, "cache": "memory"}
    )  # fmt: skip
    assert folder.settings().warmup_epochs == 0  # the preset's 3 would not end


def test_a_run_of_before_is_read(tmp_path):
    """Its settings.json has options without effect."""
    folder = RunFolder(tmp_path)
    old = TrainSettings(loss="info-nce").to_dict() | {"alpha": 40.0, "queue_size": 512}
    for name in ("crop_scale", "jitter", "image_column", "label_column"):
        old.pop(name)
    folder.write_json("settings.json", old)
    assert folder.settings() == TrainSettings(loss="info-nce")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"divergence": "reverse-kl"}, {"divergence": "reverse_kl"}),
        ({"divergence": "squared-hellinger"}, {"divergence": "squared_hellinger"}),
        ({"loss": "info_nce"}, {"loss": "info-nce", "alpha": "auto"}),
        ({"method": "moco_v3"}, {"method": "moco-v3", "strength": 2.0}),
        ({"data": "digits", "epochs": 2}, {"warmup_epochs": 0}),
        ({"data": "digits", "epochs": 4}, {"warmup_epochs": 3}),
        ({"data": "digits"}, {"augmentation": "digits"}),
        ({"data": "some/where"}, {"augmentation": "photo"}),
        ({"data": "digits", "loss": "info-nce", "method": "moco"}, {"queue_size": 512}),
        ({"data": "digits", "loss": "info-nce"}, {"queue_size": 4096}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:ReverseKL")
def test_options_are_taken_as_they_are_meant(given, taken):
    settings = resolve(None, given)
    assert {name: getattr(settings, name) for name in taken} == taken


def test_the_command_that_started_a_run_resumes_it(tmp_path):
    """Whatever the settings made of its options."""
    for number, given in enumerate(
        [
            {"data": "digits", "augmentation": "auto", "epochs": 2},
            {"data": "digits", "loss": "info_nce", "method": "moco_v3"},
        ]
    ):
        folder = RunFolder.create(tmp_path / str(number), resolve(None, given))
        recipe = {"queue_size": 512, "warmup_epochs": 3, "epochs": 60}
        assert folder.continued(given, recipe) == folder.settings()


def test_a_run_warns_of_other_images_and_is_found_from_elsewhere(tmp_path, monkeypatch, fmicl):
    """Its data were given by a path from the folder where it began."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for index in range(20):
        pixels = rng.integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{index:02}.png")
    monkeypatch.chdir(tmp_path)
    small = ["--batch-size", 8, "--encoder", "smallconv", "--width", 4, "--device", "cpu"]
    small += ["--projection-hidden", 8, "--projection-dim", 4, "--epochs", 1]
    code, _, err = fmicl("train", "simclr", "--data", "pictures", *small, "--out", "run")
    assert code == 0, err
    assert "the images have no colour" in err
    monkeypatch.chdir("/")
    code, shown, err = fmicl("evaluate", tmp_path / "run")
    assert code == 0, err
    assert "warning" not in err
    assert f"written to {tmp_path / 'run'}" in shown
    (tmp_path / "pictures" / "00.png").unlink()
    code, _, err = fmicl("train", "simclr", "--out", tmp_path / "run", "--resume")
    assert code == 0, err
    assert err.count("The images of pictures are not those that the run began with") == 1
    assert "the run has trained for 1 of 1 epochs" in err


@pytest.mark.slow
def test_a_killed_run_can_be_taken_up_before_its_first_checkpoint(tmp_path, fmicl):
    """By the command; in test_lightning.py the folder is as such a run leaves it."""
    out = tmp_path / "run"
    process = in_a_process("train", "simclr", *SHORT, "--epochs", 3, "--warmup-epochs", 0,
                           "--out", out)  # fmt: skip
    deadline = time.monotonic() + 120
    while not (out / "settings.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    code, _, err = fmicl("train", "simclr", *SHORT, "--epochs", 3, "--out", out)
    assert code == 2
    assert "or --resume to continue the run in it" in err
    code, _, err = fmicl("train", "simclr", "--out", out, "--resume")
    assert code == 0, err
