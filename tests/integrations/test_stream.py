"""Streams of items: the same with workers as without, errors, and workers that end."""

import inspect
import os
import pickle
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("grain", reason="the recipes need Grain")
from fmicl_core.checks import InvalidArgument, invalid
from fmicl_recipes import resources
from fmicl_recipes.chunks import chunk_size, filled_chunks
from fmicl_recipes.stream import _Sent, default_workers, stream

ROOT = Path(__file__).resolve().parents[2]


class Odd(Exception):
    """An error that cannot be pickled as it is."""

    def __init__(self, one, two):
        super().__init__(one)


class Numbers:
    """Items that fail at one number."""

    def __init__(self, count, bad=-1, error=None):
        self.count, self.bad, self.error = count, bad, error
        self.nbytes = 160_000

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        if number == self.bad:
            raise self.error
        return {"a": np.full(20_000, number), "b": np.array([number])}


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow), 2])
def test_items_come_in_their_order_from_any_start(workers, monkeypatch):
    if workers == 1:  # as in a container, whose arrays then go through a pipe
        monkeypatch.setattr("fmicl_recipes.stream._free_shared_memory", lambda: 0)
    made = list(stream(Numbers(9), 4, workers))
    assert [(int(item["a"][-1]), int(item["b"][0])) for item in made] == [
        (number, number) for number in range(4, 9)
    ]
    assert all(item["a"].base is None for item in made)


def test_errors_keep_their_type_and_message():
    items = stream(Numbers(9, 3, invalid("data", "a picture", "x")), workers=1)
    assert [int(next(items)["b"][0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InvalidArgument, match=r"Expected a picture. Received: data='x'$"):
        next(items)


def test_an_error_that_cannot_be_sent_is_told_by_its_name():
    item = _Sent(Numbers(9, 3, Odd("left", "right")))[3]
    with pytest.raises(RuntimeError, match=r"^Odd: left$"):
        raise pickle.loads(item["error"].tobytes())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "cause"), [(signal.SIGKILL, "out of memory"), (signal.SIGBUS, "/dev/shm, is full")]
)
def test_a_worker_that_was_killed_is_told(number, cause):
    items = stream(Numbers(10**6), workers=2)
    next(items)
    os.kill(active_children()[0].pid, number)
    with pytest.raises(RuntimeError, match=f"ended by {number.name}. .*{cause}"):
        list(items)


SCRIPT = """
import time
import numpy as np
from fmicl_recipes.stream import stream

{numbers}
def main():
    items = stream(Numbers(10**6), workers=2)
    for _ in range(5):
        next(items)
    from multiprocessing import active_children
    print(*(child.pid for child in active_children()), flush=True)
    time.sleep({wait})

{main}
"""


@pytest.fixture
def script(tmp_path):
    """Start a process that has a stream open; gives it and the numbers of its workers."""
    started = []

    def start(wait, main="if __name__ == '__main__': main()"):
        file = tmp_path / "script.py"
        file.write_text(SCRIPT.format(numbers=inspect.getsource(Numbers), wait=wait, main=main))
        process = subprocess.Popen(
            [sys.executable, str(file)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process, [int(pid) for pid in process.stdout.readline().split()]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def living(pids):
    def alive(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    return [pid for pid in pids if alive(pid)]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="/proc says which processes live")
def test_workers_leave_signals_to_their_parent_and_end_with_it(script):
    process, workers = script(wait=60)
    assert len(workers) == 2
    for number in (signal.SIGINT, signal.SIGTERM):
        for pid in workers:
            os.kill(pid, number)
    time.sleep(0.5)
    assert living(workers) == workers
    process.kill()
    until = time.monotonic() + 15
    while living(workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not living(workers)


def test_a_stream_that_nobody_closes_ends_without_a_word(script):
    process, workers = script(wait=0)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    assert not living(workers)


@pytest.mark.slow
def test_a_script_that_its_workers_would_run_again_is_told(script):
    process, _ = script(wait=0, main="main()")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "a script whose work stands below `if __name__ == '__main__':`" in said


@pytest.mark.parametrize("count", [3, 8, 20])
def test_chunks_are_all_of_one_size(count):
    images = np.arange(count * 12, dtype=np.uint8).reshape(count, 2, 2, 3)
    chunks = list(filled_chunks(images, 8))
    assert {chunk.shape for chunk in chunks} == {(8, 2, 2, 3)}
    np.testing.assert_array_equal(np.concatenate(chunks)[:count], images)
    assert not np.concatenate(chunks)[count:].any()


def test_chunks_of_large_images_are_of_fewer():
    assert chunk_size((32, 32, 3)) == chunk_size((2, 64, 64, 3)) == 500
    assert chunk_size((224, 224, 3)) == 40


# What the machine leaves to a process


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Write files of Linux's account, by path from /proc or /sys/fs/cgroup."""
    monkeypatch.setattr(resources, "PROC", tmp_path / "proc")
    monkeypatch.setattr(resources, "CGROUPS", tmp_path / "cgroup")

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    write({"proc/meminfo": "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 4000 kB\n"})
    return write


CPU = "cgroup/cpu/job/cpu.cfs"
V2 = {"proc/self/cgroup": "0::/pod/job\n"}
V1 = {"proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/job\n"}
STAT = "anon 5\nfile 7\ninactive_file 300\ntotal_inactive_file 400\n"
#: A limit of 10,000 bytes of which 8,000 are used.
LIMITS = {
    "none": ({}, 4000 * 1024),
    "v2": (V2 | {"cgroup/pod/job/memory.max": "10000\n", "cgroup/pod/job/memory.current": "8000\n",
                 "cgroup/pod/job/memory.stat": STAT}, 2300),
    "v2 of a group above": (V2 | {"cgroup/pod/job/memory.max": "max\n",
                                  "cgroup/pod/job/memory.current": "1\n",
                                  "cgroup/pod/memory.max": "10000\n",
                                  "cgroup/pod/memory.current": "8000\n"}, 2000),
    "v2 of a namespace": ({"proc/self/cgroup": "0::/\n", "cgroup/memory.max": "10000\n",
                           "cgroup/memory.current": "12000\n"}, 0),
    "v2 without a limit": (V2 | {"cgroup/pod/job/memory.max": "max\n",
                                 "cgroup/pod/job/memory.current": "8000\n"}, 4000 * 1024),
    "v1": (V1 | {"cgroup/memory/job/memory.limit_in_bytes": "10000\n",
                 "cgroup/memory/job/memory.usage_in_bytes": "8000\n",
                 "cgroup/memory/job/memory.stat": STAT}, 2400),
    "v1 in a container": (V1 | {"cgroup/memory/memory.limit_in_bytes": "10000\n",
                                "cgroup/memory/memory.usage_in_bytes": "8000\n"}, 2000),
    "v1 without a limit": (V1 | {"cgroup/memory/job/memory.limit_in_bytes": "9223372036854771712",
                                 "cgroup/memory/job/memory.usage_in_bytes": "8000"}, 4000 * 1024),
}  # fmt: skip


@pytest.mark.parametrize(("files", "free"), LIMITS.values(), ids=LIMITS)
def test_free_memory_is_within_the_limits_of_the_container(machine, files, free):
    machine(files)
    assert resources.free_memory() == free


@pytest.mark.parametrize(
    ("files", "cores"),
    [({}, 64), (V2 | {"cgroup/pod/job/cpu.max": "max 100000\n"}, 64),
     (V2 | {"cgroup/pod/cpu.max": "350000 100000\n"}, 3),
     (V2 | {"cgroup/pod/cpu.max": "50000 100000\n"}, 1),
     (V1 | {f"{CPU}_quota_us": "-1", f"{CPU}_period_us": "100"}, 64),
     (V1 | {f"{CPU}_quota_us": "500", f"{CPU}_period_us": "100"}, 5)],
)  # fmt: skip
def test_workers_are_as_many_as_the_cores_of_the_container_but_one(
    machine, monkeypatch, files, cores
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64), raising=False)
    machine(files)
    assert resources.usable_cores() == cores
    assert default_workers() == max(1, min(16, cores - 1))
    assert default_workers(4) == max(1, min(16, cores // 4 - 1))
