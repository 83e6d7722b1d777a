"""How a run can stop before its end: errors of which the user is told in one line, and SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class RunStopped(RuntimeError):
    """A run stopped before its end; the message says why, and what is kept of it."""

    #: What the command leaves with.
    exit_code = 1


class NonFiniteLossError(RunStopped):
    """Training met a loss, a weight or features that are NaN or infinite."""

    @classmethod
    def at(cls, loss: float, step: int, epoch: int) -> NonFiniteLossError:
        """The error of a loss that is not finite at a step (from 0) of an epoch (from 1)."""
        return cls(
            f"The loss is {loss} at step {step} (epoch {epoch}). Try a smaller --lr, or --precision"
            " 32 if it is not."
        )

    @classmethod
    def weights(cls, step: int) -> NonFiniteLossError:
        """The error of a weight that is not finite after a step."""
        return cls(f"A weight is not finite after step {step}. Try a smaller --lr.")


class Preempted(RunStopped):
    """SIGTERM came, as clusters send it before they take a machine away; a checkpoint is written.

    The exit code is that of a failure that will pass (EX_TEMPFAIL), and says: run it again.
    """

    exit_code = 75

    @classmethod
    def after(cls, step: int) -> Preempted:
        """The error after a number of steps."""
        return cls(f"SIGTERM came, and the checkpoint of step {step} is written.")


class NotSaved(RunStopped):
    """A checkpoint could not be written, as on a full disk; the last good one is as it was."""

    @classmethod
    def because(cls, error: OSError, step: int) -> NotSaved:
        """The error of a checkpoint after a number of steps."""
        return cls(
            f"The checkpoint of step {step} could not be written: {error.strerror or error}."
        )


class ProcessLost(RunStopped):
    """Another process of a run on several machines has ended, or does not answer."""

    exit_code = 75

    @classmethod
    def because(cls, said: object) -> ProcessLost:
        """The error, with what the framework said."""
        return cls(f"Another process of the run has ended, or does not answer. It said: {said}")


@contextmanager
def saving(step: int) -> Iterator[None]:
    """Say in one line where a file of the run could not be written after a step.

    Raises:
        NotSaved: it could not.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # PyTorch hides the one behind the other
        said = error if isinstance(error, OSError) else error.__context__
        if isinstance(said, OSError):
            raise NotSaved.because(said, step) from error
        raise


@contextmanager
def sigterm() -> Iterator[Callable[[], bool]]:
    """Note SIGTERM within the block instead of ending; what is yielded says whether it has come.

    Outside of the main thread, where Python knows no signals, it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        came.set()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
