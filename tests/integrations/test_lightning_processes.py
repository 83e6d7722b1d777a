"""Several machines by torchrun: two processes on the loopback are one, and end together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the Lightning trainer needs PyTorch")
pytest.importorskip("lightning", reason="the Lightning trainer needs Lightning")

from fmicl_lightning.checkpoints import read_checkpoint  # noqa: E402
from fmicl_lightning.processes import others_may_end  # noqa: E402
from fmicl_recipes import RunFolder, TrainSettings  # noqa: E402
from fmicl_recipes.choices import METHODS  # noqa: E402
from fmicl_recipes.stopping import ProcessLost  # noqa: E402

SCRIPT = Path(__file__).parent / "ranks" / "lightning_ddp.py"
SMALL = {"data": "digits", "encoder": "smallconv", "width": 4, "projection_hidden": 16,
         "projection_dim": 8, "batch_size": 64, "limit": 256, "device": "cpu",
         "machines": 2}  # fmt: skip


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def start_two(*command):
    """The command as torchrun starts it on each of two machines."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(),
              "OMP_NUM_THREADS": "1", "COLUMNS": "200"}  # fmt: skip
    return [
        subprocess.Popen([sys.executable, *map(str, command)], text=True, stderr=subprocess.PIPE,
                         env=os.environ | shared | {"RANK": rank})
        for rank in ("0", "1")
    ]  # fmt: skip


def start_command(out, *options, epochs=20):
    """`fmicl train simclr` on two machines."""
    given = [f"--{k.replace('_', '-')}={v}" for k, v in SMALL.items()]
    return start_two("-m", "fmicl_cli", "train", "simclr", f"--out={out}", f"--epochs={epochs}",
                     "--checkpoint-every=3", *given, *options)  # fmt: skip


def told_by(processes):
    return [process.communicate(timeout=300)[1] for process in processes]


def wait_for_a_checkpoint(processes, out):
    file, deadline = RunFolder(out).checkpoint, time.monotonic() + 120
    while not file.exists():
        assert all(process.poll() is None for process in processes), told_by(processes)
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow  # which errors are those of a lost process, and what is said of it, is below
@pytest.mark.long
def test_a_process_that_dies_ends_the_other_with_a_message(tmp_path):
    processes = start_command(tmp_path / "run", epochs=1000)
    wait_for_a_checkpoint(processes, tmp_path / "run")
    processes[0].kill()
    start = time.monotonic()
    told = processes[1].communicate(timeout=60)[1]
    assert time.monotonic() - start < 30
    assert processes[1].returncode == 75, told
    assert "Another process of the run has ended, or does not answer. It said: " in told
    assert "Traceback" not in told
    told_by(processes[:1])


@pytest.mark.slow
def test_sigterm_to_one_stops_both_after_one_step_and_both_go_on_exactly(tmp_path):
    processes = start_command(tmp_path / "cut")
    wait_for_a_checkpoint(processes, tmp_path / "cut")
    processes[1].send_signal(signal.SIGTERM)
    told = told_by(processes)
    step = read_checkpoint(RunFolder(tmp_path / "cut").checkpoint)["global_step"]
    assert [process.returncode for process in processes] == [75, 75], told
    assert all(f"the checkpoint of step {step} is written" in text for text in told)
    for processes in (start_command(tmp_path / "cut", "--resume"), start_command(tmp_path / "run")):
        told = told_by(processes)
        assert [process.returncode for process in processes] == [0, 0], told
        assert told[1] == ""  # the first one speaks
    cut, whole = (read_checkpoint(RunFolder(tmp_path / n).checkpoint) for n in ("cut", "run"))
    assert step < whole["global_step"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, cut["state_dict"][name]), name
    assert [row["loss"] for row in cut["history"]] == [row["loss"] for row in whole["history"]]
    assert (tmp_path / "cut" / "metrics.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_machines_make_the_steps_of_one(tmp_path, method):
    """In float64, without augmentation, as each process draws views of its own."""
    options = {"method": method, **SMALL, "epochs": 2, "limit": 128, "optimizer": "sgd", "lr": 0.1}
    settings = TrainSettings.from_dict(TrainSettings(**options).to_dict())
    command = [SCRIPT, json.dumps(settings.to_dict()), tmp_path]
    processes = start_two(*command)
    told = told_by(processes)
    assert [process.returncode for process in processes] == [0, 0], told
    subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
    one, two = (torch.load(tmp_path / f"{name}.pt") for name in ("1", "machines"))
    assert one["row"] == pytest.approx(two["row"], rel=1e-5)
    assert one["step"].norm() > 1e-4
    torch.testing.assert_close(one["step"], two["step"], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_torchrun_starts_the_command(tmp_path, nodes):
    """Two machines of a device each, and one machine of two devices."""
    port, given = free_port(), SMALL | {"machines": nodes, "devices": 2 // nodes, "epochs": 2}
    options = [f"--{k.replace('_', '-')}={v}" for k, v in given.items()]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}",
             f"--nproc-per-node={2 // nodes}", f"--node-rank={node}", "--master-addr=127.0.0.1",
             f"--master-port={port}", "-m", "fmicl_cli", "train", "simclr",
             f"--out={tmp_path / 'run'}", *options],
            text=True, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for node in range(nodes)
    ]  # fmt: skip
    told = told_by(processes)
    assert [process.returncode for process in processes] == [0] * nodes, told
    assert len(RunFolder(tmp_path / "run").read_history()) == 2
    assert (tmp_path / "run" / "metrics.json").exists()


def test_only_errors_of_connections_are_processes_lost():
    closed = "[/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:5. Check."
    for error, kind in (
        (torch.distributed.DistNetworkError("The client socket has timed out"), ProcessLost),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError),
        (RuntimeError(closed), RuntimeError),  # as there is one process here
    ):
        with pytest.raises(RuntimeError) as raised, others_may_end():
            raise error
        assert type(raised.value) is kind
    trace = f"Traceback:\n\nRuntimeError: {closed}\n"
    with pytest.raises(ProcessLost, match=r"It said: Connection closed by peer .*:5\.$"), \
            others_may_end():  # fmt: skip
        raise torch.multiprocessing.ProcessRaisedException(trace, 1, 2)
    with pytest.raises(ProcessLost, match="terminated with signal SIGKILL"), others_may_end():
        raise torch.multiprocessing.ProcessExitedException(
            "process 1 terminated with signal SIGKILL", 1, 2, -9, "SIGKILL"
        )


@pytest.mark.slow
def test_sigterm_to_a_command_on_two_devices_reaches_the_processes_it_started(tmp_path):
    """And the run goes on exactly, within its epoch."""
    given = [f"--{k.replace('_', '-')}={v}" for k, v in (SMALL | {"machines": 1}).items()]

    def start(out, *options):
        command = [sys.executable, "-m", "fmicl_cli", "train", "simclr", f"--out={tmp_path / out}",
                   "--epochs=8", "--devices=2", "--checkpoint-every=3"]  # fmt: skip
        return [subprocess.Popen([*command, *given, *options], text=True, stderr=subprocess.PIPE)]

    processes = start("cut")
    wait_for_a_checkpoint(processes, tmp_path / "cut")
    processes[0].terminate()
    (told,) = told_by(processes)
    step = read_checkpoint(RunFolder(tmp_path / "cut").checkpoint)["global_step"]
    assert processes[0].returncode == 75, told
    assert f"the checkpoint of step {step} is written" in told
    for processes in (start("cut", "--resume"), start("run")):
        told = told_by(processes)
        assert processes[0].returncode == 0, told
    cut, whole = (read_checkpoint(RunFolder(tmp_path / n).checkpoint) for n in ("cut", "run"))
    assert step < whole["global_step"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, cut["state_dict"][name]), name
