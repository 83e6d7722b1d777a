"""`stream`: items that worker processes make while training goes on, in their order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

#: Arrays by name.
Item = dict[str, NDArray[Any]]


class Items(Protocol):
    """Items that are made when they are asked for by their number."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Item: ...


def stream(items: Items, start: int = 0, workers: int = 0) -> Iterator[Item]:
    """The items from number `start` on, whatever the number of workers; close it to end those.

    Args:
        items: items, such as `Batches`, that can be pickled.
        start: number of the first item.
        workers: number of processes that make items ahead; 0: each is made when it is asked for.
    """
    if workers == 0:
        for number in range(start, len(items)):
            yield items[number]
        return
    import grain
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # as it reads flags of a command line that is not its own
    made = grain.MapDataset.source(items)[start:].to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    )
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    iterator: Any = iter(made.mp_prefetch(options))
    try:
        for item in iterator:
            yield {name: np.array(array) for name, array in item.items()}  # out of shared memory
    finally:
        iterator.close()
