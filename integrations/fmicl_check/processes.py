"""Work that is done side by side, each part of it in a process of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import get_context
from queue import Empty
from typing import Any, NamedTuple

from fmicl_check.adapters import ADAPTERS
from fmicl_check.base import Adapter
from fmicl_check.battery import Outcome, run_case
from fmicl_check.case import Case

#: Called with the name of a framework and a case, for each case that begins or, elsewhere, ended.
Announce = Callable[[str, Case], None]
#: Seconds after which the processes are looked at when nothing is heard of them.
SILENCE = 0.5


class Part(NamedTuple):
    """The arguments of one process, and the number of results that it will send."""

    given: tuple[Any, ...]
    results: int


class Died(NamedTuple):
    """In the place of the results that a process has not sent."""

    exitcode: int | None

    @property
    def problem(self) -> str:
        """What happened."""
        return f"its process ended with the exit code {self.exitcode}"


def side_by_side(
    work: Callable[..., Iterator[Any]], parts: Mapping[str, Part]
) -> Iterator[tuple[str, Any]]:
    """What `work(*given)` yields for every part, with the part's name, as it comes.

    As many processes run at a time as there are cores, since what takes longest, the frameworks'
    compilers, takes one core. The last parts begin first.

    Args:
        work: generator of results; a function of a module, which the processes import.
        parts: parts by name.
    """
    context = get_context("spawn")
    queue: Any = context.Queue()
    waiting, left = list(parts), {name: part.results for name, part in parts.items()}
    running: dict[str, Any] = {}
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            name = waiting.pop()
            given = work, name, parts[name].given, queue
            running[name] = context.Process(target=_send, args=given, daemon=True)
            running[name].start()
        try:
            name, result = queue.get(timeout=SILENCE)
        except Empty:
            for name, process in list(running.items()):
                if not process.is_alive() and queue.empty():
                    yield name, Died(running.pop(name).exitcode)
            continue
        yield name, result
        left[name] -= 1
        if not left[name]:
            running.pop(name).join()


def _send(
    work: Callable[..., Iterator[Any]], name: str, given: tuple[Any, ...], queue: Any
) -> None:
    for result in work(*given):
        queue.put((name, result))


def run_batteries(
    adapters: Sequence[Adapter], batteries: Sequence[Sequence[Case]], announce: Announce
) -> list[list[Outcome]]:
    """The outcomes of every framework's cases, in their order.

    A single framework is checked in this process, several in a process each.

    Args:
        adapters: frameworks, of which no two are the same.
        batteries: cases of each.
        announce: function that says how far it is.
    """
    found: dict[str, list[Outcome]] = {adapter.name: [] for adapter in adapters}
    if len(adapters) == 1:
        for case in batteries[0]:
            announce(adapters[0].name, case)
            found[adapters[0].name].append(run_case(adapters[0], case))
        return list(found.values())
    cases = dict(zip(found, batteries, strict=True))
    devices = {adapter.name: adapter.device for adapter in adapters}
    parts = {name: Part((name, devices[name], cases[name]), len(cases[name])) for name in found}
    for name, result in side_by_side(_outcomes, parts):
        if isinstance(result, Died):
            found[name] += [
                Outcome(name, devices[name], case, problem=result.problem)
                for case in cases[name][len(found[name]) :]
            ]
            continue
        announce(name, result.case)
        found[name].append(result)
    return list(found.values())


def _outcomes(name: str, device: str, battery: Sequence[Case]) -> Iterator[Outcome]:
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # so many functions puzzle it
    adapter = ADAPTERS[name](device)
    for case in battery:
        yield run_case(adapter, case)
