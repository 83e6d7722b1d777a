"""The processes that do the work, some for each library; one that hangs or dies is replaced."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.cases import Task
from benchmarks.gpu.table import ROOT
from benchmarks.timing import Row

#: Seconds in which a process has to import its library and find its device.
START = 120.0
#: Starts that may fail in a row before a library is given up.
STARTS = 2


class Job(NamedTuple):
    """What a worker was given: a task, and "check", "speed", "tune" or "warm"."""

    task: Task
    does: str


class Done(NamedTuple):
    """A job with what came of it."""

    job: Job
    row: Row


class Worker:
    """One process, and what it is at.

    Args:
        library: its name.
        number: among those of its library.
        command: that starts it.
        environment: that it has.
        messages: takes (worker, message), and (worker, None) when the process has ended.
        log: file for whatever it prints.
    """

    def __init__(
        self, library: str, number: int, command: list[str], environment: dict[str, str],
        messages: queue.Queue[Any], log: Path,
    ) -> None:  # fmt: skip
        self.library, self.number, self.log = library, number, log
        self.ready, self.job = False, None
        self.until = time.monotonic() + START
        with open(log, "a", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True,
                cwd=ROOT, env=environment, start_new_session=True,
            )  # fmt: skip
        threading.Thread(target=self._read, args=(messages,), daemon=True).start()

    def _read(self, messages: queue.Queue[Any]) -> None:
        for line in self.process.stdout:
            messages.put((self, json.loads(line)))
        messages.put((self, None))

    def give(self, job: Job, limit: float) -> None:
        """Have it do a job, in at most so many seconds."""
        self.job, self.until = job, time.monotonic() + limit
        case = job.task.case
        self.send([job.does, type(case).__name__, case])

    def send(self, message: Any) -> None:
        """Send it a line."""
        with suppress(OSError):  # it has ended, as a message will say
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def end(self) -> None:
        """Kill it and whatever it started."""
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.poll()

    def last_words(self) -> str:
        """The last line of what it printed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "no output")


class Crew:
    """The workers of all libraries.

    Args:
        modules: of each library, what is called to do its cases.
        device: "cuda" or "cpu".
        each: workers of each library.
        folder: for logs and for what is compiled, which the workers share and a later run takes.
    """

    def __init__(self, modules: dict[str, str], device: str, each: int, folder: Path) -> None:
        self._modules, self._device, self._folder = modules, device, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._environment = environment(folder)
        self._messages: queue.Queue[Any] = queue.Queue()
        self._failed_starts = dict.fromkeys(modules, 0)
        self.devices: dict[str, str] = {}
        self.lost: dict[str, str] = {}
        self._workers = {
            library: {n: self._start(library, n) for n in range(each)} for library in modules
        }

    def _start(self, library: str, number: int) -> Worker:
        command = [sys.executable, "-m", "benchmarks.gpu.worker", self._modules[library]]
        log = self._folder / f"{library}_{number}.log"
        return Worker(library, number, [*command, self._device], self._environment,
                      self._messages, log)  # fmt: skip

    def free(self, library: str) -> list[Worker]:
        """The workers of a library that wait for a job, by their numbers."""
        workers = sorted(self._workers[library].items())
        return [worker for _, worker in workers if worker.ready and not worker.job]

    def busy(self) -> list[Job]:
        """The jobs under way."""
        return [w.job for w in self._all() if w.job]

    def _all(self) -> list[Worker]:
        return [w for workers in self._workers.values() for w in workers.values()]

    def wait(self, most: float) -> list[Done]:
        """What was done, or failed, once there is anything new, or after so many seconds."""
        limits = [w.until for w in self._all() if w.job or not w.ready]
        until = min([time.monotonic() + max(0.0, most), *limits])
        done: list[Done] = []
        with suppress(queue.Empty):
            message = self._messages.get(timeout=max(0.01, until - time.monotonic()))
            while True:
                done += self._heard(*message)
                message = self._messages.get_nowait()
        now = time.monotonic()
        for worker in self._all():
            if (worker.job or not worker.ready) and worker.until <= now:
                done += self._replaced(worker, "took too long and was ended")
        return done

    def _heard(self, worker: Worker, message: dict[str, Any] | None) -> list[Done]:
        if worker is not self._workers[worker.library].get(worker.number):
            return []  # it was replaced
        if message is None:
            code = worker.process.wait()
            return self._replaced(worker, f"process ended ({code}): {worker.last_words()}")
        if "device" in message:
            worker.ready = True
            self._failed_starts[worker.library] = 0
            self.devices[worker.library] = message["device"]
            return []
        job, worker.job = worker.job, None
        if not message["goes_on"]:
            self._replaced(worker, "its device is out of order")
        return [Done(job, message["row"])]

    def _replaced(self, worker: Worker, why: str) -> list[Done]:
        worker.end()
        library, workers = worker.library, self._workers[worker.library]
        del workers[worker.number]
        self._failed_starts[library] += not worker.ready
        if self._failed_starts[library] < STARTS:
            workers[worker.number] = self._start(library, worker.number)
        elif not any(other.ready for other in workers.values()):
            self.lost[library] = f"it does not start: {why}"
            for other in workers.values():
                other.end()
            workers.clear()
        return [Done(worker.job, {"error": why})] if worker.job else []

    def stop(self) -> None:
        """End all workers."""
        for worker in self._all():
            worker.end()


def environment(folder: Path) -> dict[str, str]:
    """What the workers have: our packages, Triton where `make test` put it, and shared caches.

    Triton, Inductor and XLA keep on disk what they compile, so that what one process compiled the
    others have; Pallas compiles while it lowers, in each process anew. JAX takes memory as it needs
    it, since PyTorch needs some too.
    """
    given = os.environ
    paths = [str(ROOT), str(ROOT / "backends"), str(ROOT / "integrations")]
    paths += [path for path in given.get("PYTHONPATH", "").split(os.pathsep) if path]
    triton = Path(sys.prefix) / "triton"
    if importlib.util.find_spec("triton") is None and triton.is_dir():
        paths.append(str(triton))
    caches = {
        "TRITON_CACHE_DIR": "triton",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "JAX_COMPILATION_CACHE_DIR": "jax",
        "CUDA_CACHE_PATH": "cuda",
    }
    more = {name: str(folder.resolve() / part) for name, part in caches.items()}
    more |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.6",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # there are as many processes as cores
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return {**given, **more}
