"""The batteries of several frameworks at once, each in a process of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from queue import Empty
from typing import Any

from fmicl_check.adapters import ADAPTERS
from fmicl_check.base import Adapter
from fmicl_check.battery import Outcome, run_case
from fmicl_check.case import Case

#: Called with the name of a framework and a case, for each case that begins or, elsewhere, ended.
Announce = Callable[[str, Case], None]
#: Seconds after which the processes are looked at when nothing is heard of them.
SILENCE = 0.5


def run_batteries(
    adapters: Sequence[Adapter], batteries: Sequence[Sequence[Case]], announce: Announce
) -> list[list[Outcome]]:
    """The outcomes of every framework's cases, in their order.

    A single framework is checked in this process. Several have a process each, as many at a time as
    there are cores, since what takes longest, their compilers, takes one core.

    Args:
        adapters: frameworks, of which no two are the same.
        batteries: cases of each.
        announce: function that says how far it is.
    """
    if len(adapters) > 1:
        return _Crew(adapters, batteries, announce).outcomes()
    found: list[list[Outcome]] = []
    for adapter, battery in zip(adapters, batteries, strict=True):
        found.append([])
        for case in battery:
            announce(adapter.name, case)
            found[-1].append(run_case(adapter, case))
    return found


class _Crew:
    """Processes that each check one framework."""

    def __init__(
        self,
        adapters: Sequence[Adapter],
        batteries: Sequence[Sequence[Case]],
        announce: Announce,
    ) -> None:
        self.context = get_context("spawn")
        self.queue: Any = self.context.Queue()
        self.adapters = {adapter.name: adapter for adapter in adapters}
        self.batteries = dict(zip(self.adapters, batteries, strict=True))
        self.found: dict[str, list[Outcome]] = {name: [] for name in self.adapters}
        self.announce = announce
        self.running: dict[str, Any] = {}

    def outcomes(self) -> list[list[Outcome]]:
        """Run all and wait for them; the compilers of the last frameworks take longest."""
        waiting, cores = list(self.adapters), os.cpu_count() or 1
        while waiting or self.running:
            while waiting and len(self.running) < cores:
                self._start(waiting.pop())
            try:
                name, outcome = self.queue.get(timeout=SILENCE)
            except Empty:
                self._look()
                continue
            self.announce(name, outcome.case)
            self.found[name].append(outcome)
            if len(self.found[name]) == len(self.batteries[name]):
                self.running.pop(name).join()
        return list(self.found.values())

    def _start(self, name: str) -> None:
        given = name, self.adapters[name].device, self.batteries[name], self.queue
        process = self.context.Process(target=_work, args=given, daemon=True)
        process.start()
        self.running[name] = process

    def _look(self) -> None:
        """Let what a process that died has not computed be failures."""
        for name, process in list(self.running.items()):
            if process.is_alive() or not self.queue.empty():
                continue
            problem = f"its process ended with the exit code {process.exitcode}"
            adapter, battery = self.adapters[name], self.batteries[name]
            self.found[name] += [
                Outcome(name, adapter.device, case, problem=problem)
                for case in battery[len(self.found[name]) :]
            ]
            del self.running[name]


def _work(name: str, device: str, battery: Sequence[Case], queue: Any) -> None:
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # so many functions puzzle it
    adapter = ADAPTERS[name](device)
    for case in battery:
        queue.put((name, run_case(adapter, case)))
