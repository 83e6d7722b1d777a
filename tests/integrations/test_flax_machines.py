"""Two processes on this machine train in JAX as one does, stop together, and wait for nobody."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the Flax trainer needs JAX")
pytest.importorskip("flax", reason="the Flax trainer needs Flax")
pytest.importorskip("optax", reason="the Flax trainer needs Optax")
pytest.importorskip("orbax.checkpoint", reason="the Flax trainer needs Orbax")

from fmicl_core.checks import invalid  # noqa: E402
from fmicl_flax import MethodTrainer, machines  # noqa: E402
from fmicl_recipes import RunFolder, resolve  # noqa: E402
from fmicl_recipes.data import load_images  # noqa: E402
from fmicl_recipes.machines import Process  # noqa: E402
from fmicl_recipes.stopping import NotSaved, Preempted, ProcessLost  # noqa: E402

SMALL = {"width": 8, "batch_size": 64, "limit": 128, "projection_hidden": 16, "projection_dim": 8,
         "warmup_epochs": 0, "epochs": 2, "optimizer": "sgd", "lr": 0.02, "device": "cpu",
         "framework": "jax"}  # fmt: skip
#: Seconds within which everything has to have ended.
LONG = 300


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start a run in two processes, which share what they have compiled."""
    compiled, running = tmp_path_factory.mktemp("compiled"), []

    def pair(method, out, resume=False, **more):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = {} if resume else SMALL | {"machines": 2, "data": "digits"} | more
        command = [sys.executable, "-m", "fmicl_cli", "train", method, "--out", str(out)]
        command += ["--resume"] * resume
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        shared = {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2",
            "JAX_COMPILATION_CACHE_DIR": str(compiled), "JAX_PLATFORMS": "cpu",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={more.get('devices', 1)}",
        }  # fmt: skip
        both = [
            subprocess.Popen(
                command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=os.environ | shared | {"JAX_PROCESS_ID": str(index)},
            )
            for index in range(2)
        ]  # fmt: skip
        running.extend(both)
        return both

    yield pair
    for process in running:
        process.kill()


def ended(both):
    """Exit codes of processes, and what they said on standard error."""
    said = [process.communicate(timeout=LONG)[1] for process in both]
    return [process.returncode for process in both], said


def wait_for(file):
    deadline = time.monotonic() + LONG
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "more"),
    [("simclr", {}), ("moco-v3", {"loss": "info-nce"}),
     ("moco", {"devices": 2, "supervised": True, "queue_size": 100, "cache": "gpu"})],
)  # fmt: skip
def test_two_processes_make_the_steps_of_one(start, tmp_path, method, more):
    both = start(method, tmp_path / "two", **more)
    settings = resolve("digits", {**SMALL, **more, "method": method, "data": "digits"})
    data = load_images("digits", limit=settings.limit)
    one = MethodTrainer(dataclasses.replace(settings, devices=1), data)
    before = jax.tree.map(np.asarray, jax.tree.leaves(one.state))
    one.fit(RunFolder.create(tmp_path / "one", settings), resume=False, progress=False)
    codes, said = ended(both)
    assert codes == [0, 0], said
    two = MethodTrainer(dataclasses.replace(settings, devices=1), data)
    two.load(RunFolder(tmp_path / "two"))
    for epoch, (row, want) in enumerate(zip(two.history, one.history, strict=True)):
        # Sums in another order, which batch norms of a network that has just begun enlarge.
        np.testing.assert_allclose(row["loss"], want["loss"], rtol=10.0 ** (epoch - 5))
    leaves = (jax.tree.leaves(of.state) for of in (one, two))
    for start_at, a, b in zip(before, *leaves, strict=True):
        change, other = np.float64(a) - start_at, np.float64(b) - start_at
        np.testing.assert_allclose(other, change, rtol=1e-3, atol=1e-5 * max(1.0, np.abs(a).max()))
    assert (tmp_path / "two" / "metrics.json").exists()


@pytest.mark.slow
@pytest.mark.long
def test_sigterm_to_one_stops_both_after_the_same_step_and_they_go_on_exactly(start, tmp_path):
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    codes, said = ended(start("simclr", whole.path, epochs=40, checkpoint_every=3))
    assert codes == [0, 0], said
    both = start("simclr", cut.path, epochs=40, checkpoint_every=3)
    wait_for(cut.checkpoint)
    both[1].send_signal(signal.SIGTERM)
    codes, said = ended(both)
    assert codes == [75, 75], said
    steps = {text.split("checkpoint of step ")[1].split()[0] for text in said}
    assert len(steps) == 1, said
    assert cut.checkpoint.resolve().name == f"step-{steps.pop()}"
    codes, said = ended(start("simclr", cut.path, resume=True))
    assert codes == [0, 0], said
    rows = [
        [{**row, "images_per_second": 0, "data_wait": 0} for row in folder.read_history()]
        for folder in (cut, whole)
    ]
    assert rows[0] == rows[1]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_who_is_left_alone_ends_and_says_so(start, tmp_path, victim):
    folder = RunFolder(tmp_path / "run")
    both = start("simclr", folder.path, epochs=1000)
    wait_for(folder.checkpoint)
    both[victim].kill()
    killed = time.monotonic()
    codes, said = ended(both)
    assert time.monotonic() - killed < 40.0
    assert codes[1 - victim] == 75, said
    assert "Another process of the run has ended, or does not answer" in said[1 - victim]
    assert folder.checkpoint.exists()


@pytest.mark.parametrize(
    ("error", "becomes", "code"),
    [(ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer"), ProcessLost, 75),
     (NotSaved("The checkpoint could not be written"), NotSaved, 1),
     (invalid("data", "a picture that is whole", "connection.jpg"), ValueError, 1),
     (KeyboardInterrupt("connection"), KeyboardInterrupt, 1)],
    ids=lambda of: getattr(of, "__name__", None),
)  # fmt: skip
def test_who_fails_alone_waits_for_nobody(monkeypatch, error, becomes, code):
    """When the program ends, that is, after everything has been said."""
    leaving = []
    monkeypatch.setattr("atexit.register", lambda *given: leaving.append(given))
    monkeypatch.setattr(machines, "meet", lambda: None)
    with pytest.raises(becomes), machines.together(Process(1, 2)):
        raise error
    assert leaving == [(machines._leave, code)]


def test_who_stops_together_waits_for_the_others(monkeypatch):
    waited = []
    monkeypatch.setattr(machines, "meet", lambda: waited.append("meet"))
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: waited.append("shutdown"))
    with pytest.raises(Preempted), machines.together(Process(1, 2)):
        raise Preempted.after(3)
    with machines.together(Process(1, 2)):
        pass
    assert waited == ["meet", "meet", "meet", "meet", "shutdown"]
    with machines.together(Process()):
        pass
    assert len(waited) == 5
