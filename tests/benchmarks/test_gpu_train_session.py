"""A call of `python -m benchmarks.gpu_train`: its minutes, its rows, and runs that fail."""

import csv
import queue
import time

import pytest

from benchmarks.gpu.clock import Clock
from benchmarks.gpu_train import session
from benchmarks.gpu_train.runs import RUNS, SCORES, run_of
from benchmarks.gpu_train.session import Session
from fmicl_recipes.run_folder import RunFolder


def run(name="js", **more):
    return run_of("torch", name, "cpu", {"encoder": "smallconv", "epochs": 4, **more})


def rows(results):
    with open(results / "gpu_train_torch_rehearsal.csv", newline="") as file:
        return list(csv.DictReader(file))


class Puppet:
    """In the place of a process: says what it is told to, and remembers its job.

    It says its device, or ends, long before it is its turn.
    """

    def __init__(self, says):
        self.jobs, self.ended = [], False
        self.process, self.messages = self, queue.Queue()
        for message in says:
            self.messages.put((self, message))

    def send(self, job):
        self.jobs.append(job)

    def wait(self):
        return 3

    def last_words(self):
        return "out of memory"

    def end(self):
        self.ended = True


def call(tmp_path, monkeypatch, says, minutes=1.0, **more):
    """Exit code and puppets of a session whose runs say these messages."""
    puppets = []
    runs = [run(name) for name in list(RUNS)[: len(says)]]

    def start(self, run):
        puppets.append(Puppet(says[runs.index(run)]))
        return puppets[-1]

    monkeypatch.setattr(Session, "_start", start)
    own = Session(runs, "cpu", tmp_path / "results", tmp_path / "work", reserve=5.0, **more)
    code = own.run(Clock(minutes, time.monotonic()), lambda: tmp_path / "images.npz")
    return code, puppets


DONE = [{"device": "d"}, {"row": {"epochs_done": 2, "epoch_s": 0.5}},
        {"row": {"knn_accuracy": 0.7}}, {"ended": True}]  # fmt: skip


def test_minutes_are_shared_among_the_runs_and_time_saved_goes_to_the_rest(
    tmp_path, monkeypatch, capsys
):
    code, puppets = call(tmp_path, monkeypatch, [DONE, DONE, DONE])
    assert code == 0
    jobs = [puppet.jobs[0] for puppet in puppets]
    now, ends = time.monotonic(), [job["end"] for job in jobs]
    assert [round((end - now) / 9.333) for end in ends] == [2, 3, 6]  # 56 s less what was used
    assert all(job["end"] - job["stop"] == pytest.approx(5.0) for job in jobs)
    assert [row["run"] for row in rows(tmp_path / "results")] == ["js", "info-nce", "kl"]
    assert {row["device"] for row in rows(tmp_path / "results")} == {"d"}
    assert all(puppet.ended for puppet in puppets)
    said = capsys.readouterr().out
    assert "torch js: 0 of 4 epochs, kNN 70.0%, 0.5 s an epoch; call again for 2 s more" in said


def test_a_run_that_fails_dies_or_hangs_is_a_row_and_the_others_go_on(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(session, "GRACE", 0.2)
    monkeypatch.setattr(session, "LEAST", 0.1)
    failed = [{"row": {"epochs_done": 1}}, {"row": {"error": "NonFiniteLossError: nan"}},
              {"ended": True}]  # fmt: skip
    code, _ = call(
        tmp_path, monkeypatch, [failed, [None], [{"row": {"epochs_done": 1}}], DONE], 0.1
    )
    assert code == 1
    errors = [row["error"] for row in rows(tmp_path / "results")]
    assert errors == ["NonFiniteLossError: nan", "process ended (3): out of memory",
                      "took too long and was ended", ""]  # fmt: skip
    assert "torch info-nce: 0 of 4 epochs; failed: process ended (3)" in capsys.readouterr().out


def test_finished_runs_are_skipped_and_what_has_no_time_is_not_begun(tmp_path, monkeypatch, capsys):
    folder = RunFolder.create(run("js").path(tmp_path / "work"), run("js").settings)
    folder.write_history([{"epoch": e, "loss": 1.0} for e in range(1, 5)])
    code, puppets = call(tmp_path, monkeypatch, [DONE, DONE])
    assert [len(puppet.jobs) for puppet in puppets] == [1, 1]  # its scores are missing
    folder.write_json(SCORES, {})
    code, puppets = call(tmp_path, monkeypatch, [DONE, DONE])
    assert [len(puppet.jobs) for puppet in puppets] == [1]
    assert "torch js: finished before, all 4 epochs" in capsys.readouterr().out
    code, puppets = call(tmp_path, monkeypatch, [DONE, DONE], 0.05)
    assert code == 0
    assert not any(puppet.jobs for puppet in puppets)
    assert "torch info-nce: not begun" in capsys.readouterr().out


def test_other_settings_are_another_run_and_other_devices_are_not(tmp_path):
    paths = {run(**more).path(tmp_path) for more in ({}, {"epochs": 5}, {"lr": 0.1})}
    assert len(paths) == 3
    assert run(cache="memory").path(tmp_path) == run().path(tmp_path)
    assert run(data="/some/where/cifar10").columns()["data"] == "cifar10"
    settings = run_of("torch", "js", "cuda", {}).settings
    assert (settings.epochs, settings.cache, settings.precision) == (100, "gpu", "bf16")
    assert (settings.alpha, settings.compile, settings.knn_k) == (40.0, True, 200)
