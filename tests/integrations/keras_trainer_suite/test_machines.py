"""Two processes of TensorFlow as two machines on the loopback: as one, and when one ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fmicl_recipes import RunFolder
from fmicl_recipes.choices import METHODS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ["KERAS_BACKEND"] != "tensorflow", reason="TensorFlow's alone"),
]
MACHINE = Path(__file__).with_name("machine.py")
#: Seconds after which nothing is waited for.
PATIENCE = 400


def start(command, machines=2):
    """Start a command on machines of their own."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(machines)]
    hosts = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    processes = []
    for index in range(machines):
        config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        environment = os.environ | ({"TF_CONFIG": json.dumps(config)} if machines > 1 else {})
        processes.append(subprocess.Popen(
            [sys.executable, *map(str, command)], env=environment, stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL, text=True,
        ))  # fmt: skip
    return processes


def end(processes):
    """Exit codes and errors, once all have ended; what has not is killed."""
    try:
        errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], errors


def arrays(run):
    """What a checkpoint holds, by name."""
    with np.load(RunFolder(run).checkpoint) as stored:
        return {name: stored[name] for name in stored.files if name != "facts"}


def train(out, *options):
    """Start a run of the command on two machines."""
    return start(["-m", "fmicl_cli", "train", "simclr", "--out", out, *options])


def options(epochs):
    """Options of a small run that is far from its end for long."""
    return (
        "--data", "digits", "--framework", "tensorflow", "--machines", "2", "--width", "4",
        "--device", "cpu", "--epochs", epochs, "--checkpoint-every", "5",
    )  # fmt: skip


def wait_for_checkpoint(run, processes):
    """Wait until a run has written a checkpoint."""
    since = time.monotonic()
    while not RunFolder(run).checkpoint.exists():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() - since < PATIENCE
        time.sleep(0.1)


@pytest.mark.parametrize("method", METHODS)
def test_two_machines_train_as_one(tmp_path, method):
    """In float64, since rounding would part the runs at the kinks of ReLUs."""
    for machines in (1, 2):
        codes, errors = end(start([MACHINE, method, machines, tmp_path / str(machines)], machines))
        assert codes == [0] * machines, errors
    one, two = (RunFolder(tmp_path / str(machines)) for machines in (1, 2))
    for a, b in zip(one.read_history(), two.read_history(), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-9)
        for name in ("alignment", "uniformity", "embedding_rank"):
            assert b[name] == pytest.approx(a[name], rel=1e-4), name
    ours, theirs = arrays(one.path), arrays(two.path)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name], value, rtol=1e-6, atol=1e-9, err_msg=name)


def test_two_machines_stop_together_and_go_on_bit_for_bit(tmp_path):
    """One of them gets SIGTERM, and the first writes what both go on from."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    stopped = train(run, *options(4))
    wait_for_checkpoint(run, stopped)
    stopped[1].send_signal(signal.SIGTERM)
    codes, errors = end(stopped)
    assert codes == [75, 75], errors
    came = "SIGTERM came, and the checkpoint of step"
    said = [line for error in errors for line in error.splitlines() if came in line]
    assert len(said) == 2, errors  # after which TensorFlow may say that it was interrupted
    assert said[0].split("To go on")[0] == said[1].split("To go on")[0]
    assert len(RunFolder(run).read_history()) < 4
    assert end(train(run, "--resume"))[0] == [0, 0]
    assert end(train(whole, *options(4)))[0] == [0, 0]
    ours, theirs = arrays(whole), arrays(run)
    for name, value in ours.items():
        np.testing.assert_array_equal(theirs[name], value, err_msg=name)
    assert (run / "metrics.json").exists()


@pytest.mark.parametrize("index", [0, 1])
def test_a_machine_that_dies_ends_the_other(tmp_path, index):
    run = tmp_path / "run"
    processes = train(run, *options(10_000))
    wait_for_checkpoint(run, processes)
    processes[index].kill()
    since = time.monotonic()
    codes, errors = end(processes)
    assert codes[1 - index] == 75, errors
    assert "Another process of the run has ended" in errors[1 - index]
    assert "go on with" in errors[1 - index]
    assert time.monotonic() - since < 60
