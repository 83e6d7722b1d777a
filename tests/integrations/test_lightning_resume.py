"""A run by Lightning that stops anywhere, and however, goes on exactly, and says how it stopped."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the Lightning trainer needs PyTorch")
pytest.importorskip("lightning", reason="the Lightning trainer needs Lightning")

from fmicl_lightning import MethodTrainer  # noqa: E402
from fmicl_lightning.batches import EpochBatches  # noqa: E402
from fmicl_lightning.checkpoints import read_checkpoint  # noqa: E402
from fmicl_recipes import RunFolder, resolve  # noqa: E402
from fmicl_recipes.choices import METHODS  # noqa: E402
from fmicl_recipes.data import StoredImages, load_images  # noqa: E402
from fmicl_recipes.stopping import NotSaved, Preempted  # noqa: E402

DATA = load_images("digits", limit=256)
#: Columns of the history that tell of time.
TIMES = ("images_per_second", "data_wait")
COMMAND = [sys.executable, "-m", "fmicl_cli"]


def stored(workers):
    """The same images, as if they were in their files."""
    images = DATA.train_images
    names = [str(number) for number in range(len(images))]
    return replace(DATA, train_images=StoredImages(list(images), names, images.shape[1:], workers))


def tiny(method="simclr", **options):
    small = {"width": 4, "batch_size": 64, "limit": 256, "epochs": 3, "warmup_epochs": 1,
             "projection_hidden": 16, "projection_dim": 8, "device": "cpu"}  # fmt: skip
    queue = {"queue_size": 100} if method == "moco" else {}
    return resolve("digits", {"method": method, **small, **queue, **options})


def fit(settings, out, data=DATA, *, stop_at=None):
    """Train, or go on; to the end, or until it is asked to stop after a number of steps."""
    resume = out.exists()
    folder = RunFolder(out) if resume else RunFolder.create(out, settings)
    trainer = MethodTrainer(settings, data)
    if stop_at is None:
        trainer.fit(folder, resume=resume, progress=False)
        return trainer
    trainer.stop = lambda: trainer.module.global_step >= stop_at
    with pytest.raises(Preempted, match=f"the checkpoint of step {stop_at} is written"):
        trainer.fit(folder, resume=resume, progress=False)
    assert read_checkpoint(folder.checkpoint)["global_step"] == stop_at
    return trainer


def without_times(history):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in history]


def assert_same_runs(whole, resumed):
    """The same weights, buffers and history, bit for bit."""
    a, b = (run.module.state_dict() for run in (whole, resumed))
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name
    assert without_times(whole.module.history) == without_times(resumed.history)


@pytest.mark.parametrize(
    ("method", "options", "workers"),
    [("simclr", {"views": 3}, 1), ("simclr", {}, None), ("moco", {"supervised": True}, 0),
     ("moco-v3", {"cache": "gpu"}, None),
     *(pytest.param(m, {}, w, marks=pytest.mark.slow) for m in METHODS for w in (None, 0, 2))],
)  # fmt: skip
def test_a_run_that_stopped_within_epochs_goes_on_bit_for_bit(tmp_path, method, options, workers):
    """Twice in one epoch, at the end of one, and in another; whatever the number of workers."""
    settings = tiny(method, augmentation="photo", checkpoint_every=3, **options)
    alone, data = (DATA, DATA) if workers is None else (stored(0), stored(workers))
    whole = fit(settings, tmp_path / "whole", alone)
    for step in (2, 3, 4, 6):
        fit(settings, tmp_path / "cut", alone, stop_at=step)
    resumed = fit(settings, tmp_path / "cut", data)
    assert_same_runs(whole, resumed)
    assert all(0.0 <= row["data_wait"] <= 1.0 for row in resumed.history)
    assert resumed.seconds > 0.0


def test_a_run_that_is_asked_to_stop_by_its_last_step_is_evaluated_later(tmp_path):
    settings = tiny(epochs=1, warmup_epochs=0)
    stopped = fit(settings, tmp_path / "run", stop_at=4)
    assert_same_runs(stopped, fit(settings, tmp_path / "run"))


def test_checkpoints_come_within_epochs_and_hold_what_their_mean_needs(tmp_path, monkeypatch):
    written = []
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda what, file: (written.append(what), save(what, file)))
    trainer = fit(tiny(epochs=2, checkpoint_every=3), tmp_path / "run")
    assert [c["global_step"] for c in written] == [3, 4, 6, 8]
    assert [len(c["losses"]) for c in written] == [3, 0, 2, 0]
    assert [len(c["history"]) for c in written] == [0, 1, 1, 2]
    assert all(isinstance(loss, float) for c in written for loss in c["losses"])
    assert written[0]["losses"] + written[2]["losses"] != []
    seconds = [c["callbacks"]["RunClock"]["seconds"] for c in written]
    assert seconds == sorted(seconds)
    assert trainer.seconds == seconds[-1]


def test_checkpoints_of_before_still_load(tmp_path):
    settings = tiny(epochs=2)
    whole = fit(settings, tmp_path / "run")
    file = RunFolder(tmp_path / "run").checkpoint
    checkpoint = read_checkpoint(file)
    del checkpoint["losses"]
    torch.save(checkpoint, file)
    assert_same_runs(whole, fit(settings, tmp_path / "run"))


@pytest.mark.parametrize("step", [6, 8])
def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch, step):
    """Within an epoch, and at its end."""

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            raise OSError(28, "No space left on device")

    save = torch.save

    def saved(what, file):
        save(what, Full(file) if what["global_step"] == step else file)

    monkeypatch.setattr(torch, "save", saved)
    said = rf"checkpoint of step {step} could not be written: No space left on device\."
    with pytest.raises(NotSaved, match=said):
        fit(tiny(checkpoint_every=2), tmp_path / "run")
    kept = RunFolder(tmp_path / "run").checkpoint
    assert read_checkpoint(kept)["global_step"] == step - 2
    assert not [p for p in kept.parent.iterdir() if p.name.startswith(".")]


def test_labels_come_in_the_order_of_their_images():
    images = np.arange(10, dtype=np.uint8)[:, None, None, None]
    ids = (10 * np.arange(10)).astype(np.int32)
    settings, data = tiny(batch_size=4, limit=10), replace(DATA, train_images=images)
    batches = EpochBatches(data, settings, ids)
    batches.begin()
    first, second = list(batches), list(batches)
    assert len(first) == len(second) == len(batches) == 2
    for batch, labels in first:
        assert (10 * batch.flatten()).tolist() == labels.tolist()
    batches.begin(1)  # the rest of an epoch, then the next one
    assert [labels.tolist() for _, labels in batches] == [first[1][1].tolist()]
    assert [labels.tolist() for _, labels in batches] == [labels.tolist() for _, labels in second]
    without = EpochBatches(data, settings)
    without.begin()
    assert all(isinstance(batch, torch.Tensor) for batch in without)
    batches.close()


# The command, killed


def start(out, *options, **environment):
    """The command in a process of its own, when it has written its first checkpoint."""
    options = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options]
    return subprocess.Popen(
        [*COMMAND, "train", "simclr", f"--out={out}", *options], stderr=subprocess.PIPE, text=True,
        env=os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


def wait_for_a_checkpoint(process, out, step=1):
    """Wait until a checkpoint within an epoch is written."""
    file, deadline = RunFolder(out).checkpoint, time.monotonic() + 120
    while not (file.exists() and read_checkpoint(file)["global_step"] >= step):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


LONG = {"preset": "digits", "limit": 512, "width": 4, "epochs": 20, "checkpoint-every": 3,
        "device": "cpu"}  # fmt: skip


@pytest.mark.slow  # exact resuming is above, SIGTERM and what is said of it in test_stopping
@pytest.mark.long
def test_a_killed_command_resumes_within_an_epoch_and_one_that_gets_sigterm_says_how(tmp_path):
    """Both on one run, which is then that of one who was left alone."""
    out = tmp_path / "cut"
    with start(out, *LONG.items()) as process:
        wait_for_a_checkpoint(process, out, 10)
        process.kill()
    killed_at = read_checkpoint(RunFolder(out).checkpoint)["global_step"]
    with start(out, ("resume", True)) as process:
        wait_for_a_checkpoint(process, out, killed_at + 5)
        process.terminate()
        told = process.communicate(timeout=60)[1]
    step = read_checkpoint(RunFolder(out).checkpoint)["global_step"]
    assert process.returncode == 75, told
    assert f"SIGTERM came, and the checkpoint of step {step} is written." in told
    assert "Traceback" not in told
    settings = RunFolder(out).settings()
    data = load_images("digits", limit=512)
    resumed = MethodTrainer(settings, data)
    resumed.fit(RunFolder(out), resume=True, progress=False)
    assert_same_runs(fit(settings, tmp_path / "whole", data), resumed)
