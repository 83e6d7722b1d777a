"""`stream`: items that worker processes make while training goes on, in their order."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from fmicl_recipes.resources import usable_cores

#: Arrays by name.
Item = dict[str, NDArray[Any]]
#: What an item that could not be made has in the place of its arrays: the pickled error.
_ERROR = "error"
#: Workers at most, where nobody says how many.
MOST_WORKERS = 16
#: Items of each worker that are held at once: made, waiting, and in use.
HELD = 5
#: Bytes of an array below which it is sent through a pipe.
SMALL = 2**16
_JAX = "JAX_PLATFORMS"
#: Streams with workers.
_open: WeakSet[Generator[Item, None, None]] = WeakSet()
#: Seconds between looks at whether the process that started a worker is still there.
WATCH = 1.0


class Items(Protocol):
    """Items that are made when they are asked for by their number."""

    @property
    def nbytes(self) -> int:
        """Bytes of an item, about."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Item: ...


def default_workers(processes_here: int = 1) -> int:
    """Number of workers where nobody says how many: the cores but one, from 1 to 16.

    Args:
        processes_here: number of processes on this machine that have workers each.
    """
    return max(1, min(MOST_WORKERS, usable_cores() // processes_here - 1))


def stream(items: Items, start: int = 0, workers: int = 0) -> Generator[Item, None, None]:
    """The items from number `start` on, whatever the number of workers; close it to end those.

    An error of an item has the type and message that it has without workers.

    Args:
        items: items, such as `Batches`, that can be pickled.
        start: number of the first item.
        workers: number of processes that make items ahead; 0: each is made when it is asked for.

    Raises:
        RuntimeError: a worker was killed, and the message says by what; or a script starts workers
            as it is imported.
    """
    if workers == 0:
        return (items[number] for number in range(start, len(items)))
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A worker imports the script that started it, and would start workers in its turn.
        raise RuntimeError(
            "Workers take a script whose work stands below `if __name__ == '__main__':`. Without it"
            " give workers = 0."
        )
    import grain  # noqa: F401

    made = _made_ahead(items, start, workers)
    _open.add(made)
    atexit.unregister(_close_all)
    atexit.register(_close_all)  # after what Grain has registered, and so called before it
    return made


def _made_ahead(items: Items, start: int, workers: int) -> Generator[Item, None, None]:
    iterator = _iterator(items, start, workers)
    try:
        with _beginning():
            item = next(iterator, None)
        while item is not None:
            if _ERROR in item:
                raise pickle.loads(item[_ERROR].tobytes())
            arrays = {name: np.array(array) for name, array in item.items()}  # own memory
            del item
            yield arrays
            item = next(iterator, None)
    except RuntimeError as error:
        if (explained := _explained(error)) is error:
            raise
        raise explained from error
    finally:
        item = None
        iterator.close()
        iterator = None  # with what it still holds
        _flush()


def _close_all() -> None:
    """Close the streams that nobody has closed, and give shared memory back, before all ends."""
    for made in list(_open):
        with suppress(ValueError):  # it is at work in a thread
            made.close()
    gc.collect()
    _flush()


def _iterator(items: Items, start: int, workers: int) -> Any:
    """Grain's iterator over items and errors."""
    import grain
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # as it reads flags of a command line that is not its own
    made = grain.MapDataset.source(_Sent(items))[start:].to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    )
    # Containers may have little memory that processes share. Then arrays go through pipes.
    held = items.nbytes * workers * HELD
    options = grain.experimental.DatasetOptions(
        min_shm_size=SMALL if held < _free_shared_memory() else 2**62
    )
    made = grain.experimental.WithOptionsIterDataset(made, options)
    return iter(made.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
        worker_init_fn=partial(_begin, parent=os.getpid()),
    ))  # fmt: skip


@contextmanager
def _beginning() -> Iterator[None]:
    """What holds while workers are started: signals wait, and JAX, if it is there, finds no GPU.

    Processes and threads keep the signals that were blocked where they were started. What is sent
    to all processes, as by Ctrl-C, then ends no worker before its parent has closed it.
    """
    before = os.environ.get(_JAX)
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    os.environ[_JAX] = "cpu"
    try:
        yield
    finally:
        os.environ.pop(_JAX)
        if before is not None:
            os.environ[_JAX] = before
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _flush() -> None:
    """Wait until Grain has given shared memory back, which it does in a thread that may be late."""
    from grain._src.python.ipc.shared_memory_array import SharedMemoryArray

    if (pool := getattr(SharedMemoryArray, "_del_thread_pool", None)) is not None:
        pool.apply_async(int).wait(WATCH)


def _free_shared_memory() -> int:
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return 0


def _explained(error: RuntimeError) -> RuntimeError:
    """The error of a worker that was killed, with what may have killed it."""
    causes = {
        signal.SIGBUS: "The memory that processes share, /dev/shm, is full.",
        signal.SIGKILL: "The system may have been out of memory: fewer --workers need less.",
    }
    for number, cause in causes.items():
        if f"exit code {-number}." in str(error):
            return RuntimeError(f"A worker that reads images was ended by {number.name}. {cause}")
    return error


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


def _begin(index: int, count: int, parent: int) -> None:
    """What a worker does first: it ends with its parent, and leaves signals to that.

    Args:
        index: number of the worker.
        count: number of workers.
        parent: number of the process that started it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH)
    os._exit(1)
