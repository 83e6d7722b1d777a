"""Runs on images in their files; runs that are stopped, killed, or cannot be saved."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fmicl_keras import MethodTrainer
from fmicl_recipes import RunFolder
from fmicl_recipes.choices import METHODS
from fmicl_recipes.data import ImageData, StoredImages, load_images
from fmicl_recipes.stopping import NotSaved, Preempted

BACKEND = os.environ["KERAS_BACKEND"]

#: The images' way is the same on every backend; this one compiles nothing.
QUICK = ("simclr", 1) if BACKEND == "torch" else None
CASES = [(method, workers) for method in METHODS for workers in (0, 1, 2)]


def stored_digits(workers):
    """The digits, not decoded before they are needed."""
    digits = load_images("digits", limit=256)
    images = digits.train_images
    names = [f"digit {index}" for index in range(len(images))]
    stored = StoredImages(images, names, images.shape[1:], workers)
    return ImageData("digits", stored, digits.train_labels, digits.test_images, digits.test_labels)


@pytest.mark.parametrize(
    ("method", "workers"),
    [case if case == QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_a_run_on_stored_images_stops_and_goes_on_bit_for_bit(
    tmp_path, method, workers, tiny, check_same_run
):
    """Its views are crops of the originals, made by any number of workers."""
    settings = tiny(method, cache="disk", augmentation="photo", epochs=2)
    assert settings.crops_when_read

    def trainer(workers):
        return MethodTrainer(settings, stored_digits(workers))

    whole = trainer(0)
    whole.fit(RunFolder.create(tmp_path / "whole", settings), resume=False, progress=False)
    folder, stopped = RunFolder.create(tmp_path / "run", settings), trainer(workers)
    stopped.stop = lambda: len(stopped.history) == 1 and len(stopped.losses) == 2
    with pytest.raises(Preempted, match="the checkpoint of step 6 is written"):
        stopped.fit(folder, resume=False, progress=False)
    resumed = trainer(workers)
    resumed.fit(folder, resume=True, progress=False)
    check_same_run(resumed, whole)
    assert resumed.seconds > stopped.seconds > 0
    features = resumed.encode(resumed.data.train_images)
    np.testing.assert_array_equal(features, resumed.encode(resumed.data.train_images[:]))


@pytest.mark.many_compilations  # files are written alike on every backend
def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch, tiny, fit):
    settings, written = tiny("simclr"), []
    folder, savez = RunFolder.create(tmp_path / "run", settings), np.savez

    def full(file, **arrays):
        if written:
            file.write(b"half of it")
            raise OSError(28, "No space left on device")
        savez(file, **arrays)
        written.append(True)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(NotSaved, match=r"checkpoint of step 8 .* written: No space left on device"):
        fit(settings, folder)
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "checkpoint.ckpt", "history.csv", "settings.json",
    ]  # fmt: skip
    kept = MethodTrainer(settings, load_images("digits", limit=256))
    kept.load(folder)
    assert len(kept.history) == 1


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_bit_for_bit(tmp_path):
    """By the command; the checkpoint is that of any step."""

    def train(name, *options):
        command = [sys.executable, "-m", "fmicl_cli", "train", "moco", "--out", tmp_path / name]
        if "--resume" not in options:
            options = (
                "--data", "digits", "--framework", "tensorflow", "--keras-backend", BACKEND,
                "--width", "8", "--epochs", "6", "--checkpoint-every", "3", *options,
            )  # fmt: skip
        return subprocess.Popen([*map(str, command), *options], stderr=subprocess.DEVNULL)

    assert train("whole").wait() == 0
    run, checkpoint = train("run"), tmp_path / "run" / "checkpoint.ckpt"
    seen = set()
    while len(seen) < 10:
        assert run.poll() is None
        if checkpoint.exists():
            seen.add(checkpoint.stat().st_mtime_ns)
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert len(RunFolder(tmp_path / "run").read_history()) < 6
    assert train("run", "--resume").wait() == 0
    whole, resumed = (np.load(tmp_path / name / "checkpoint.ckpt") for name in ("whole", "run"))
    assert whole.files == resumed.files
    for name in set(whole.files) - {"facts"}:
        np.testing.assert_array_equal(whole[name], resumed[name], err_msg=name)
    times = ("images_per_second", "data_wait")
    histories = [
        [{k: v for k, v in row.items() if k not in times} for row in folder.read_history()]
        for folder in (RunFolder(tmp_path / name) for name in ("whole", "run"))
    ]
    assert histories[0] == histories[1]
