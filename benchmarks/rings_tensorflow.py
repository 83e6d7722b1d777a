"""Memory and time of one loss over the replicas of a `tf.distribute.MirroredStrategy`, on a CPU.

Run as `python -m benchmarks.rings_tensorflow WORLD N D LOSS FORM`: WORLD replicas share N rows of
width D; LOSS is a name of `benchmarks.rings.LOSSES`, FORM "tiled" or "dense". Prints one line of
JSON. All replicas are in one process, so that the memory of a replica is the rise of the
process at its peak, beyond inputs and gradients, divided by their number.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.memory import peak_of_second_run
from benchmarks.rings import LOSSES
from benchmarks.steps import views


def step_of(world: int, n: int, d: int, loss: str, form: str) -> Callable[[], Any]:
    """A step of all replicas, which returns the losses and the gradients in both views."""
    import tensorflow as tf

    import fmicl_tensorflow

    (cpu,) = tf.config.list_physical_devices("CPU")
    devices = [tf.config.LogicalDeviceConfiguration() for _ in range(world)]
    tf.config.set_logical_device_configuration(cpu, devices)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(world)])
    name, options = LOSSES[loss]
    function = getattr(fmicl_tensorflow, name)
    rows = n // world

    def shards(view: Any) -> Any:
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(
                view[rows * context.replica_id_in_sync_group :][:rows], tf.float32
            )
        )

    def of_replica(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([x, y])
            value = function(x, y, implementation=form, **options)
        return value, tape.gradient(value, [x, y])

    step = tf.function(lambda x, y: strategy.run(of_replica, (x, y)), autograph=False)
    x, y = map(shards, views(n, d))

    def run() -> Any:
        loss, gradients = step(x, y)
        float(strategy.experimental_local_results(loss)[-1])
        return gradients

    return run


def main(world: int, n: int, d: int, loss: str, form: str) -> None:
    """Measure one loss and print it."""
    rise, seconds = peak_of_second_run(step_of(world, n, d, loss, form))
    extra = max(rise - 2 * n * d * 4, 0) / world / 2**20
    row = {"world": world, "n": n, "d": d, "loss": loss, "form": form}
    print(json.dumps(row | {"mib_per_rank": round(extra, 1), "ms": round(1e3 * seconds, 1)}))


if __name__ == "__main__":
    # The allocator of oneDNN keeps what was freed, so that a second run would seem to need nothing.
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    ranks, count, width, *which = sys.argv[1:]
    main(int(ranks), int(count), int(width), *which)
