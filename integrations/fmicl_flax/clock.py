"""How long an epoch takes, and how long its devices wait for the next batch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import jax

T = TypeVar("T")


class Clock:
    """The time of an epoch, and what of it the devices spent idle until the next batch came.

    A step runs while the next batch is made, so that only what goes on after its end counts. A
    thread notes when that is.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._ended: Future[float] | None = None
        self.restart()

    def restart(self) -> None:
        """Begin an epoch."""
        self.start = self.before = time.perf_counter()
        self.elapsed = self.idle = 0.0

    def lap(self) -> float:
        """Seconds since the epoch began, or since the last call; `elapsed` are all of them."""
        before, self.before = self.before, time.perf_counter()
        self.elapsed = self.before - self.start
        return self.before - before

    @property
    def idle_share(self) -> float:
        """Share in [0, 1] of the epoch's time in which devices waited for a batch."""
        return self.idle / (self.elapsed or time.perf_counter() - self.start)

    def next(self, batches: Iterator[T]) -> T:
        """The next batch."""
        asked = time.perf_counter()
        batch = next(batches)
        if self._ended is None or self._ended.done():
            idle_from = asked if self._ended is None else max(asked, self._ended.result())
            self.idle += time.perf_counter() - idle_from
        return batch

    def started(self, result: jax.Array) -> None:
        """Note that a step has been started."""
        self._ended = self._thread.submit(_end_of, result)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


def _end_of(result: jax.Array) -> float:
    result.block_until_ready()
    return time.perf_counter()
