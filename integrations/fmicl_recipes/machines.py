"""Which of several processes, that a launcher started for one run, this one is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from fmicl_core.checks import invalid
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.stream import default_workers


@dataclass(frozen=True)
class Process:
    """One of the processes that share every batch of a run.

    Args:
        index: number of the process, from 0; the first one writes the run's folder.
        count: number of processes.
    """

    index: int = 0
    count: int = 1

    def part(self, rows: NDArray[Any]) -> NDArray[Any]:
        """This process's part of the rows of a whole batch."""
        size = len(rows) // self.count
        return rows[self.index * size : (self.index + 1) * size]


ALONE = Process()
#: Variables of each launcher that hold the index and the number of processes.
TORCHRUN = "RANK", "WORLD_SIZE"
JAX = "JAX_PROCESS_ID", "JAX_NUM_PROCESSES"
SLURM = "SLURM_PROCID", "SLURM_NTASKS"
#: What starts the processes of each framework, as docs/machines.md says.
LAUNCHERS = {
    "torch": "torchrun, one process a device",
    "jax": "one process a machine, with JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and"
    " JAX_PROCESS_ID, or Slurm",
    "tensorflow": "one process a machine, with TF_CONFIG, or Slurm",
}


def find_process(settings: TrainSettings, environment: Mapping[str, str] = os.environ) -> Process:
    """This process among those of its run, as the launcher's variables say.

    Raises:
        ValueError: the launcher started another number of processes than settings say.
    """
    found = _found(settings, environment)
    expected = settings.machines * processes_of_a_machine(settings)
    if settings.machines == 1 and found.count == 1:
        return ALONE
    if found.count != expected:
        raise invalid(
            "machines", f"{expected} processes, started by {LAUNCHERS[settings.framework]}",
            found.count, what="number of processes",
            why=f"machines = {settings.machines}, devices = {settings.devices} on each.",
        )  # fmt: skip
    return found


def processes_of_a_machine(settings: TrainSettings) -> int:
    """Number of processes that train on each machine: PyTorch has one a device."""
    return settings.devices if settings.framework == "torch" else 1


def workers_of(settings: TrainSettings) -> int:
    """Number of workers of each process: as settings say, or the machine's cores shared out."""
    if settings.workers is not None:
        return settings.workers
    return default_workers(processes_of_a_machine(settings))


def _found(settings: TrainSettings, environment: Mapping[str, str]) -> Process:
    if settings.framework == "tensorflow" and "TF_CONFIG" in environment:
        config = json.loads(environment["TF_CONFIG"])
        workers = config.get("cluster", {}).get("worker", [""])
        return Process(int(config.get("task", {}).get("index", 0)), len(workers))
    launchers = {"torch": (TORCHRUN,), "jax": (JAX, SLURM), "tensorflow": (SLURM,)}
    for index, count in launchers[settings.framework]:
        # Slurm's are there in every job: they mean a run on several machines if that was asked for.
        asked = settings.machines > 1 or (index, count) != SLURM
        if asked and {index, count} <= environment.keys():
            return Process(int(environment[index]), int(environment[count]))
    return ALONE
