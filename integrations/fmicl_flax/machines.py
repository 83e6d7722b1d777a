"""Several processes, one on each machine, that train together by `jax.distributed`."""

from __future__ import annotations

import atexit
import ctypes
import itertools
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fmicl_core.checks import InvalidArgument
from fmicl_flax.devices import everywhere
from fmicl_recipes.machines import Process
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.stopping import Preempted, ProcessLost, RunStopped

#: Seconds without a sign of life after which a process is taken for lost, and those that processes
#: wait for each other at the end.
HEARTBEAT, SHUTDOWN = 20, 60
#: Milliseconds, a week, that they wait for each other while one of them loads or evaluates.
PATIENCE = 7 * 24 * 3600 * 1000
_MEETINGS = itertools.count()
#: What errors say that come of another process's end.
LOST = re.compile("gloo|nccl|connection|coordination|UNAVAILABLE|DEADLINE_EXCEEDED", re.IGNORECASE)
#: JAX ends a process by abort() where the first one has gone, or where one has and nobody notices;
#: only a handler of C's is called then. It has to be kept.
_ABORTED = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: _tell_and_leave())


def join(settings: TrainSettings, process: Process) -> None:
    """Meet the other processes of a run; nothing may have been computed before.

    Args:
        settings: options of the run.
        process: this process among those of the run.

    Raises:
        ProcessLost: the others did not come.
    """
    if process.count == 1 or jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(  # what is None is found by JAX in Slurm's variables
            os.environ.get("JAX_COORDINATOR_ADDRESS"), process.count, process.index,
            list(range(settings.devices)),
            heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=SHUTDOWN,
        )  # fmt: skip
    except RuntimeError as error:
        raise ProcessLost.because(error) from error
    ctypes.CDLL(None).signal(signal.SIGABRT, _ABORTED)


def _tell_and_leave() -> None:
    os.write(2, f"stopped: {ProcessLost.because('see above.')}\n".encode())
    os._exit(ProcessLost.exit_code)


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def together(process: Process) -> Iterator[None]:
    """A block that the processes of a run enter, and leave at the same time or not at all.

    Whoever fails in it leaves the program without waiting for the others, who then notice.

    Args:
        process: this process among those of the run.

    Raises:
        ProcessLost: another process has ended.
    """
    if process.count == 1:
        yield
        return
    try:
        meet()
        try:
            yield
        except Preempted:  # all of them, after the same step
            meet()
            raise
        meet()
        jax.distributed.shutdown()  # so that the others need not wait while the first evaluates
        ctypes.CDLL(None).signal(signal.SIGABRT, None)
    except Preempted:
        raise
    except BaseException as error:
        known = isinstance(error, RunStopped | InvalidArgument)
        lost = not known and isinstance(error, Exception) and LOST.search(str(error)) is not None
        atexit.register(_leave, ProcessLost.exit_code if lost else getattr(error, "exit_code", 1))
        if lost:
            raise ProcessLost.because(error) from error
        raise


def meet() -> None:
    """Wait for the other processes, however long they take; with one process, for nobody.

    The first collective on CPUs gives up after half a minute where others do not come.
    """
    every = set(range(jax.process_count()))
    barrier = ocp.multihost.get_barrier_sync_fn(processes=every)
    barrier(key=f"meeting-{next(_MEETINGS)}", timeout_ms=PATIENCE)


class Agreement:
    """Whether any process of a run says so; all get the same answer, without waiting for it.

    Args:
        mesh: devices of the run.
        process: this process among those of the run.
    """

    def __init__(self, mesh: Mesh, process: Process) -> None:
        self.process, self.devices = process, len(mesh.local_devices)
        self.rows = NamedSharding(mesh, PartitionSpec("batch"))
        self.any = jax.jit(lambda said: said.any(), out_shardings=everywhere(mesh))

    def __call__(self, said: bool) -> bool | jax.Array:
        """The answer, which is an array where others have to be asked."""
        if self.process.count == 1:
            return said
        own = np.full(self.devices, said)
        answer: jax.Array = self.any(jax.make_array_from_process_local_data(self.rows, own))
        return answer
