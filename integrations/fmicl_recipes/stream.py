"""`stream`: items that worker processes make while training goes on, in their order."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fmicl_recipes.resources import usable_cores

#: Arrays by name.
Item = dict[str, NDArray[Any]]
#: What an item that could not be made has in the place of its arrays: the pickled error.
_ERROR = "error"
#: Workers at most, where nobody says how many.
MOST_WORKERS = 16
#: Seconds between looks at whether the process that started a worker is still there.
WATCH = 1.0


class Items(Protocol):
    """Items that are made when they are asked for by their number."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Item: ...


def default_workers(processes_here: int = 1) -> int:
    """Number of workers where nobody says how many: the cores but one, from 1 to 16.

    Args:
        processes_here: number of processes on this machine that have workers each.
    """
    return max(1, min(MOST_WORKERS, usable_cores() // processes_here - 1))


def stream(items: Items, start: int = 0, workers: int = 0) -> Iterator[Item]:
    """The items from number `start` on, whatever the number of workers; close it to end those.

    An error of an item has the type and message that it has without workers.

    Args:
        items: items, such as `Batches`, that can be pickled.
        start: number of the first item.
        workers: number of processes that make items ahead; 0: each is made when it is asked for.

    Raises:
        RuntimeError: a worker was killed; the message says by what.
    """
    if workers == 0:
        for number in range(start, len(items)):
            yield items[number]
        return
    import grain
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # as it reads flags of a command line that is not its own
    made = grain.MapDataset.source(_Sent(items))[start:].to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    )
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    iterator: Any = iter(made.mp_prefetch(options, worker_init_fn=_begin))
    try:
        for item in iterator:
            if _ERROR in item:
                raise pickle.loads(item[_ERROR].tobytes())
            yield {name: np.array(array) for name, array in item.items()}  # out of shared memory
    finally:
        iterator.close()


class _Sent:
    """Items that come with their errors, instead of raising them.

    Args:
        items: items to send.
    """

    def __init__(self, items: Items) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Item:
        try:
            return self.items[number]
        except Exception as error:
            return {_ERROR: np.frombuffer(_pickled(error), np.uint8)}


def _pickled(error: Exception) -> bytes:
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
    except Exception:  # its class takes other arguments than the message
        content = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return content


def _begin(index: int, count: int) -> None:
    """What a worker does first: it ends with its parent, and leaves signals to that.

    Args:
        index: number of the worker.
        count: number of workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH)
    os._exit(1)
