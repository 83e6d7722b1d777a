"""The processes that train together: how they find each other, agree to stop, and end."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from fmicl_core.checks import InvalidArgument
from fmicl_recipes.machines import Process
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.stopping import (
    NonFiniteLossError,
    NotSaved,
    Preempted,
    ProcessLost,
)

#: Time after which a process that says nothing, though its connection stands, counts as lost. One
#: that ends is noticed at once, as its connections close.
SILENCE = timedelta(minutes=5)
#: Time for which processes wait for the first one to evaluate.
PATIENCE = timedelta(days=1)
#: Words in errors of connections between processes that are no `DistError`.
_SIGNS = ("gloo", "nccl", "connection", "broken pipe", "timed out")


def join_processes(settings: TrainSettings, process: Process) -> None:
    """Connect to the other processes that a launcher started, before anything is computed.

    Not yet run on a GPU.

    Raises:
        ProcessLost: they do not come.
    """
    if process.count == 1 or distributed.is_initialized():
        return
    local = int(os.environ.setdefault("LOCAL_RANK", str(process.index % settings.devices)))
    on_gpu = settings.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local)
    with others_may_end():
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo", rank=process.index,
            world_size=process.count, timeout=SILENCE,
        )  # fmt: skip


class Peers:
    """What all processes of a run agree on, by messages that no device waits for.

    Args:
        count: number of processes, each of which makes one of these at the same time.
    """

    def __init__(self, count: int) -> None:
        self.group: Any = None
        self.pending: tuple[torch.Tensor, Any] | None = None
        if count > 1:
            self.group = distributed.new_group(backend="gloo", timeout=PATIENCE)
            self.wait()

    def agree(self, asked: bool) -> bool:
        """Whether to stop now; the same in all processes, which call it after the same steps.

        The answer of several is what they were asked one call before, so that none waits.

        Args:
            asked: whether this process was asked to stop.
        """
        if self.group is None:
            return asked
        agreed = self._answer()
        flag = torch.tensor(int(asked))
        work = distributed.all_reduce(
            flag, distributed.ReduceOp.MAX, group=self.group, async_op=True
        )
        self.pending = flag, work
        return agreed

    def _answer(self) -> bool:
        if self.pending is None:
            return False
        (flag, work), self.pending = self.pending, None
        work.wait()
        return bool(flag)

    def wait(self) -> None:
        """Wait for all, however long one of them works alone."""
        if self.group is not None:
            distributed.barrier(group=self.group)

    def close(self) -> None:
        """Let no message be under way when the process ends."""
        with suppress(RuntimeError):  # of a process that has ended
            self._answer()


class StopEverywhere:
    """Whether a run was asked to stop, known in the processes that this one starts, too.

    Args:
        asked: whether this process was asked to stop.
    """

    def __init__(self, asked: Callable[[], bool]) -> None:
        self.flag = torch.zeros((), dtype=torch.uint8).share_memory_()
        self.asked: Callable[[], bool] | None = asked

    def __getstate__(self) -> dict[str, Any]:
        return {"flag": self.flag, "asked": None}

    def __call__(self) -> bool:
        """Whether the run was asked to stop."""
        return bool(self.flag)

    @contextmanager
    def passed_on(self) -> Iterator[None]:
        """Pass it on within the block, in which this process waits for those it started."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.2):
                if self.asked is not None and self.asked():
                    self.flag.fill_(1)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


def leave_signals_alone(trainer: Any) -> None:
    """Keep Lightning from answering SIGTERM, which the run does, and from asking for it each step.

    In a process that Lightning started SIGTERM does nothing: the one that started it passes it on.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
    if trainer.strategy.launcher is not None and multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGTERM, lambda *_: None)  # what this one starts is not to inherit it


@contextmanager
def others_may_end() -> Iterator[None]:
    """Raise what other processes meet as they met it, or that they have ended.

    Raises:
        ProcessLost: one has ended, or does not answer.
    """
    try:
        yield
    except ProcessExitedException as error:
        raise ProcessLost.because(error) from error
    except ProcessRaisedException as error:
        name, _, message = str(error).strip().splitlines()[-1].partition(": ")
        for kind in (NonFiniteLossError, Preempted, NotSaved, ProcessLost, InvalidArgument):
            if name == f"{kind.__module__}.{kind.__name__}":
                raise kind(message) from error
        if _is_of_connections(message):
            raise ProcessLost.because(_brief(message)) from error
        raise
    except RuntimeError as error:
        several = distributed.is_available() and distributed.is_initialized()
        met = isinstance(error, distributed.DistError)
        if met or (several and _is_of_connections(str(error))):
            raise ProcessLost.because(_brief(str(error))) from error
        raise


def _is_of_connections(message: str) -> bool:
    return any(sign in message.lower() for sign in _SIGNS)


def _brief(message: str) -> str:
    """The first sentence of an error, without the place in the source that raised it."""
    return (
        re.sub(r"^\[[^]]*\] *", "", message).partition("\n")[0].partition(". ")[0].rstrip(".") + "."
    )
