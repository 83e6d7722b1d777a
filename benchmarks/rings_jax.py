"""`python -m benchmarks.rings_jax WORLD N D LOSS FORM`: memory and time of a loss over devices.

WORLD devices of the CPU share N rows of width D in float32. LOSS is a name of
`benchmarks.rings.LOSSES`, FORM "tiled" or "dense". Prints a line of JSON: the temporary memory of
the compiled loss with its gradient on one device in MiB, beyond inputs and gradients, as the
compiler says, and the milliseconds of a step of all devices. These share one process, whose peak
holds more than their arrays, and its cores.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial

from benchmarks.rings import LOSSES


def main(world: int, n: int, d: int, name: str, form: str) -> None:
    """Measure, and print the line."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={world}"
    import jax  # the number of devices is read here
    from jax.sharding import NamedSharding, PartitionSpec

    import fmicl_jax
    from benchmarks.steps import views

    function, options = LOSSES[name]
    loss: Callable[..., jax.Array] = partial(
        getattr(fmicl_jax, function), implementation=form, axis_name="batch", **options
    )
    mesh = jax.make_mesh((world,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    shared = PartitionSpec("batch")
    step = jax.jit(
        jax.shard_map(
            jax.value_and_grad(loss, (0, 1)), mesh=mesh,
            in_specs=(shared, shared), out_specs=(PartitionSpec(), shared),
        )
    )  # fmt: skip
    x, y = jax.device_put(views(n, d), NamedSharding(mesh, shared))
    program = step.lower(x, y).compile()
    memory = program.memory_analysis().temp_size_in_bytes
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        jax.block_until_ready(program(x, y))
        seconds.append(time.perf_counter() - started)
    found = {"mib_per_rank": round(memory / 2**20, 1), "ms": round(1e3 * min(seconds), 1)}
    print(json.dumps({"world": world, "n": n, "d": d, "loss": name, "form": form} | found))


if __name__ == "__main__":
    main(*(int(number) for number in sys.argv[1:4]), *sys.argv[4:6])
