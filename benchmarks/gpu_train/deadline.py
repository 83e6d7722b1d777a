"""Interrupts what runs too long, as Ctrl-C does."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType

#: Seconds after which the interrupt is repeated, where a library swallowed it.
AGAIN = 5.0


class Deadline:
    """A block that ends at a moment at the latest; `passed` says whether it was interrupted.

    In the main thread only. What runs inside sees a KeyboardInterrupt, for which the trainers leave
    their last checkpoint whole. It does not leave the block.

    Args:
        moment: moment of `time.monotonic`, which is the same in all processes.
    """

    def __init__(self, moment: float) -> None:
        self.moment, self.passed, self._armed = moment, False, False

    def __enter__(self) -> Deadline:
        self._before = signal.signal(signal.SIGALRM, self._ring)
        self._armed = True
        seconds = max(0.01, self.moment - time.monotonic())
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
        return self

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._armed:
            self.passed = True
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:  # fmt: skip
        self._armed = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, self._before)
        return self.passed and kind is not None and issubclass(kind, KeyboardInterrupt)
