"""A sitting of `python -m benchmarks.gpu_train`: a clock that runs out anywhere, and real runs."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu.clock import Clock
from benchmarks.gpu_train import __main__ as command
from benchmarks.gpu_train import profile
from benchmarks.gpu_train.deadline import Deadline
from benchmarks.gpu_train.images import decoded, read
from benchmarks.gpu_train.runs import SCORES, run_of
from benchmarks.gpu_train.session import Session
from benchmarks.gpu_train.trial import pace, train
from fmicl_recipes.data import load_images
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.trainer import NonFiniteLossError, Trainer

ROOT = Path(__file__).resolve().parents[2]
#: As small as a run can be.
SMALL = {"data": "digits", "limit": 64, "epochs": 4, "batch_size": 32, "encoder": "smallconv",
         "width": 4, "precision": "32", "compile": False, "augmentation": "digits"}  # fmt: skip
TEXT = [f"{name}={value}".lower() for name, value in SMALL.items() if name not in
        ("data", "limit", "epochs")]  # fmt: skip


class Fake(Trainer):
    """A trainer whose epochs take a tenth of a second."""

    framework = "torch"
    epoch_s, encode_s = 0.1, 0.0

    def fit(self, folder, *, resume, progress):
        if resume and folder.checkpoint.exists():
            self.load(folder)
        for epoch in range(len(self.history) + 1, self.settings.epochs + 1):
            time.sleep(self.epoch_s)
            row = {"epoch": epoch, "step": 2 * epoch, "loss": 1.0 / epoch,
                   "images_per_second": 64 / self.epoch_s}  # fmt: skip
            self.history.append(row)
            self.seconds += self.epoch_s
            folder.checkpoint.write_text(json.dumps([self.history, self.seconds]))
            folder.write_history(self.history)

    def load(self, folder):
        self.history, self.seconds = json.loads(folder.checkpoint.read_text())

    def arrays(self):
        """None, as nobody asks."""

    set_arrays = arrays

    def encode(self, images):
        time.sleep(self.encode_s)
        return images.reshape(len(images), -1).astype(np.float32)

    def project(self, images):
        return self.encode(images), self.encode(images)


class Slow(Fake):
    """One whose first epoch does not end."""

    epoch_s = 100.0


class Diverging(Fake):
    """One whose weights become NaN after an epoch."""

    def fit(self, folder, *, resume, progress):
        if len(self.history) == 0:
            self.settings.__dict__["epochs"] = 1
            super().fit(folder, resume=resume, progress=progress)
        raise NonFiniteLossError("The loss is nan")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """File of the decoded images."""
    return decoded("digits", 64, tmp_path_factory.mktemp("images"))


def run(name="js", library="torch", **more):
    return run_of(library, name, "cpu", {**SMALL, **more})


def sitting(trainer, images, folder, stop, end=None, **more):
    """The row that a sitting of a trainer tells, with moments in seconds from now."""
    row, now = {}, time.monotonic()
    job = {"settings": run(**more).settings.to_dict(), "folder": str(folder), "data": str(images),
           "stop": now + stop, "end": now + (stop + 60 if end is None else end),
           "profile": None}  # fmt: skip
    train(trainer, job, row.update)
    return row


def rows(results, library="torch"):
    with open(results / f"gpu_train_{library}_rehearsal.csv", newline="") as file:
        return list(csv.DictReader(file))


# A sitting


def test_a_sitting_trains_measures_and_is_taken_up(images, tmp_path):
    first = sitting(Fake, images, tmp_path / "run", 0.65, epochs=9)
    assert 4 <= first["epochs_done"] <= 6
    assert first["epoch_s"] == pytest.approx(0.1)
    assert first["images_per_second"] == pytest.approx(640)
    assert first["knn_accuracy"] > 0.5
    assert first["linear_accuracy"] > 0.5
    assert {"alignment", "uniformity", "embedding_rank", "evaluation_s"} <= first.keys()
    assert "note" not in first
    assert not (tmp_path / "run" / SCORES).exists()
    second = sitting(Fake, images, tmp_path / "run", 30, epochs=9)
    assert second["epochs_done"] == 9
    assert second["epochs_now"] == 9 - first["epochs_done"]
    assert second["train_s"] == pytest.approx(0.9)
    assert (tmp_path / "run" / SCORES).exists()
    assert RunFolder(tmp_path / "run").read_json("settings.json")["image_shape"] == [8, 8, 1]


def test_a_clock_that_runs_out_in_the_first_epoch_leaves_a_row(images, tmp_path):
    row = sitting(Slow, images, tmp_path / "run", 0.2)
    assert row["epochs_done"] == 0
    assert "no epoch was complete" in row["note"]
    assert sitting(Fake, images, tmp_path / "run", 30)["epochs_done"] == 4


def test_what_there_is_no_time_to_measure_is_said(images, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.gpu_train.trial.linear_accuracy", lambda *_: time.sleep(100))
    row = sitting(Fake, images, tmp_path / "run", 2.0, 3.0)
    assert row["epochs_done"] == 4
    assert row["knn_accuracy"] > 0.5
    assert row["note"] == "no time was left for linear_accuracy, alignment"
    assert not (tmp_path / "run" / SCORES).exists()
    monkeypatch.setattr(Fake, "encode_s", 100.0)
    row = sitting(Fake, images, tmp_path / "run", 0.1, 0.3)
    assert row["note"] == "no time was left for knn_accuracy, linear_accuracy, alignment"


def test_what_fails_is_raised_and_other_interrupts_too(images, tmp_path):
    with pytest.raises(NonFiniteLossError):
        sitting(Diverging, images, tmp_path / "run", 30)
    with pytest.raises(KeyboardInterrupt), Deadline(time.monotonic() + 60):
        raise KeyboardInterrupt
    with Deadline(time.monotonic() - 1) as over:
        time.sleep(10)
    assert over.passed


def test_the_pace_leaves_out_the_epochs_that_compile():
    history = [{"loss": 1.0, "images_per_second": 100 / s} for s in (9, 3, 1, 1, 1, 8, 3, 2, 2)]
    assert pace(history[:5], 0, 100)["epoch_s"] == 1.0
    assert pace(history[:5], 0, 100)["first_s"] == 8.0
    resumed = pace(history, 5, 100)
    assert (resumed["epoch_s"], resumed["first_s"], resumed["epochs_now"]) == (2.0, 6.0, 4)
    assert pace(history[:2], 0, 100)["epoch_s"] == 3.0
    assert pace(history[:1], 0, 100)["epoch_s"] == 9.0
    assert "first_s" not in pace(history, 9, 100)


# Images, profiles, the command


def test_images_are_decoded_once_and_again_when_their_files_change(tmp_path, monkeypatch):
    source, count = tmp_path / "data", 0
    for name in ("train/a/0.png", "train/a/1.png", "train/b/0.png", "train/b/1.png",
                 "test/a/0.png", "test/b/0.png"):  # fmt: skip
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        from PIL import Image

        Image.new("RGB", (8, 8), (count := count + 30, 0, 0)).save(path)
    first = decoded(str(source), None, tmp_path / "work")
    want, got = load_images(str(source), progress=False), read(first)
    assert got.digest == want.digest
    assert (got.class_names, got.name, got.evaluated_on) == (
        want.class_names, want.name, want.evaluated_on)  # fmt: skip
    np.testing.assert_array_equal(got.labels[0], want.labels[0])
    monkeypatch.setattr("benchmarks.gpu_train.images.load_images", None)
    assert decoded(str(source), None, tmp_path / "work") == first
    os.utime(source / "test/a/0.png", (0, 0))
    with pytest.raises(TypeError):
        decoded(str(source), None, tmp_path / "work")


def test_a_profile_has_the_longest_operators_and_the_idle_time(tmp_path):
    def event(name, ts, dur, **more):
        return {"ph": "X", "name": name, "ts": ts, "dur": dur, "pid": 1, "tid": 7, **more}

    torch = [event("aten::conv", 0, 50, cat="cpu_op"), event("conv", 10, 40, cat="kernel"),
             event("add", 30, 30, cat="kernel"),
             event("copy", 90, 20, cat="gpu_memcpy")]  # fmt: skip
    jax = [{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "/device:GPU:0"}},
           {"ph": "M", "pid": 1, "tid": 7, "name": "thread_name",
            "args": {"name": "Stream #1(Compute)"}},
           {"ph": "M", "pid": 1, "tid": 8, "name": "thread_name", "args": {"name": "XLA Modules"}},
           event("module", 0, 200, tid=8), *(event(*(e[k] for k in ("name", "ts", "dur")))
                                             for e in torch[1:])]  # fmt: skip
    for events in (torch, jax):
        spans = profile.spans_of(events)
        assert [span.name for span in spans] == ["conv", "add", "copy"]
        assert profile.busy(spans) == 70.0
    profile.write(tmp_path / "p.csv", spans, 10)
    with open(tmp_path / "p.csv", newline="") as file:
        table = list(csv.reader(file))
    assert table[1:3] == [["(idle)", "0", "0.003", "0.3"], ["conv", "1", "0.004", "0.4"]]


def test_options_are_read_as_their_types_and_what_is_wrong_is_said(tmp_path, capsys):
    assert command.assigned("precision=32") == ("precision", "32")
    assert command.assigned("compile=false") == ("compile", False)
    assert command.main(["--device", "cpu", "--set", "widht=4"]) == 1
    assert "widht" in capsys.readouterr().out
    assert command.main(["--device", "cpu", "--data", str(tmp_path / "nothing")]) == 1


# Processes


STUB = """
import os, signal, sys, time
sys.path.insert(0, {folder!r})
from test_gpu_train import Fake

class MethodTrainer(Fake):
    def fit(self, folder, **options):
        if self.settings.loss == "info-nce":
            os._exit(3)
        if self.settings.divergence == "kl":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            time.sleep(1000)
        super().fit(folder, **options)
"""


@pytest.mark.slow
def test_processes_that_die_or_hear_no_alarm_are_ended(images, tmp_path, monkeypatch):
    (tmp_path / "stub_trainer.py").write_text(STUB.format(folder=str(Path(__file__).parent)))
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    runs = [run(name) for name in ("info-nce", "js", "kl")]
    own = Session(runs, "cpu", tmp_path / "results", tmp_path / "work", reserve=2.0,
                  modules={"torch": "stub_trainer"})  # fmt: skip
    assert own.run(Clock(0.75, time.monotonic()), lambda: images) == 1
    died, done, hung = rows(tmp_path / "results")
    assert died["error"].startswith("process ended (3)")
    assert (done["epochs_done"], done["error"]) == ("4", "")
    assert hung["error"] == "took too long and was ended"


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torch", "jax"])
def test_a_rehearsal_by_the_real_trainers_ends_in_its_time_and_resumes(tmp_path, library):
    pytest.importorskip({"torch": "lightning", "jax": "flax"}[library])
    line = [sys.executable, "-m", "benchmarks.gpu_train", "--device", "cpu", "--library", library,
            "--runs", "js", "--data", "digits", "--evaluation", "10", "--profile", "--results",
            str(tmp_path / "results"), "--work", str(tmp_path / "work"),
            "--set", *TEXT]  # fmt: skip
    for epochs in (4, 4, 5):
        start = time.monotonic()
        more = ["--minutes", "1.5", "--limit", "64", "--epochs", str(epochs)]
        done = subprocess.run([*line, *more], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert time.monotonic() - start < 90.0 + 5.0
    table = rows(tmp_path / "results", library)
    assert [row["epochs_done"] for row in table] == ["4", "5"]
    assert all(float(row["knn_accuracy"]) > 0.1 for row in table)
    assert len(list((tmp_path / "results").glob("gpu_train_*_js_rehearsal.csv"))) == 2
