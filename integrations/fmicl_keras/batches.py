"""A run's batches in one stream, as Keras' `fit` takes them on each of its backends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from threading import Lock
from typing import Any

import keras

from fmicl_recipes.batches import Batches
from fmicl_recipes.stream import Item, stream


class Feed:
    """The batches of a run from a step on, and the time that training waits for them.

    Close it to end the processes that make them.

    Args:
        batches: batches of the run.
        start: number of the first step.
        strategy: strategy of TensorFlow over several processes that read a part of every batch
            each; None where this process reads all of it.
        plan: function from the number of a step to arrays that go with its images, as
            `Method.plan`.
    """

    def __init__(
        self,
        batches: Batches,
        start: int,
        strategy: Any = None,
        plan: Callable[[int], dict[str, Any]] = lambda step: {},
    ) -> None:
        self.step, self.plan, self.batches = start, plan, batches
        self.items: Any = ahead(stream(batches, start, batches.workers))
        self.strategy, self.lock = strategy, Lock()  # as a strategy takes batches in a thread
        #: Seconds that training has waited for a batch.
        self.waited = 0.0

    def take(self, count: int) -> Any:
        """The next `count` batches, (images,) or (images, ids), for one call of `fit`.

        Images with a plan are a dictionary, as `Method.call` takes it.
        """
        batches = self._next(count)
        if keras.config.backend() != "tensorflow":
            return batches
        import tensorflow as tf

        # Keras' own dataset of a generator looks ahead, which hides how long training waits.
        first = next(batches)
        dataset = tf.data.Dataset.from_generator(
            lambda: chain([first], batches),
            output_signature=keras.tree.map_structure(
                lambda a: tf.TensorSpec((None, *a.shape[1:]), a.dtype), first
            ),
        )
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False
        dataset = dataset.with_options(options)
        if self.strategy is None:
            return dataset
        return self.strategy.distribute_datasets_from_function(lambda context: dataset)

    def _next(self, count: int) -> Iterator[tuple[Any, ...]]:
        for _ in range(count):
            began = time.perf_counter()
            with self.lock:
                item = next(self.items, None)
            self.waited += time.perf_counter() - began
            if item is None:  # closed
                return
            planned = self.plan(self.step)
            self.step += 1
            images = {"images": item["images"], **planned} if planned else item["images"]
            yield (images, item["ids"]) if "ids" in item else (images,)

    def close(self) -> None:
        """End the processes that make batches."""
        with self.lock:
            self.items.close()


def ahead(items: Any) -> Iterator[Item]:
    """The items, each of which a thread makes while the one before is in use."""
    with closing(items), ThreadPoolExecutor(1) as thread:  # the thread ends before it is closed
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
