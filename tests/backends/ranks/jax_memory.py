"""Run by test_jax_devices.py: what programs over W devices hold, and their warnings; prints JSON.

Of every loss and its gradient: shapes of the arrays that are gathered, whether an array of as many
floats as the union has is there, and the bytes of temporary arrays on each device.
"""

import json
import math
import os
import re
import sys
import warnings
from functools import partial

COUNT = int(sys.argv[1])
FLAGS = f"--xla_force_host_platform_device_count={COUNT} --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = FLAGS  # nothing that is compiled here runs

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import fmicl_jax  # noqa: E402
from fmicl_core import forms  # noqa: E402

forms.TILE["cpu"] = 64  # small beside a device's rows
ROWS, WIDTH = 4096, 48
mesh = jax.make_mesh((COUNT,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
features = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32)
labels = jax.ShapeDtypeStruct((ROWS,), jnp.int32)
LOSSES = {
    "js": partial(fmicl_jax.fmicl_loss, divergence="js", negatives="all"),
    "siglip": fmicl_jax.siglip_loss,
    "info-nce": partial(fmicl_jax.info_nce_loss, negatives="all"),
}


def held(loss, ids):
    """What the compiled loss and gradient hold."""

    def step(x, y, *ids):
        labelled = {"ids": ids[0]} if ids else {}
        own = partial(loss, implementation="tiled", axis_name="batch", **labelled)
        return jax.value_and_grad(own, (0, 1))(x, y)

    of_all = jax.shard_map(step, mesh=mesh, in_specs=P("batch"), out_specs=(P(), P("batch")))
    program = jax.jit(of_all).lower(features, features, *ids).compile()
    text = program.as_text()
    sizes = [math.prod(map(int, s.split(","))) for s in re.findall(r"f32\[([\d,]+)\]", text)]
    return {
        "gathered": sorted({*re.findall(r"= (\S+) all-gather\(", text)}),
        "union": ROWS * WIDTH in sizes,
        "bytes": program.memory_analysis().temp_size_in_bytes,
    }


def warned(loss, **options):
    """What the loss of few rows on each device warns of."""
    rows = jnp.eye(4 * COUNT)
    of_all = partial(loss, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            jax.make_jaxpr(jax.shard_map(
                of_all, mesh=mesh, in_specs=P("batch"), out_specs=P(), check_vma=False
            ))(rows, rows)  # fmt: skip
    return [str(warning.message) for warning in caught if warning.category is UserWarning]


results = {name: held(loss, ()) for name, loss in LOSSES.items()}
results |= {f"{name} with ids": held(LOSSES[name], (labels,)) for name in ("js", "info-nce")}
told = {name: warned(getattr(fmicl_jax, name), axis_name="batch")
        + warned(getattr(fmicl_jax, name))
        for name in ("fmicl_loss", "siglip_loss", "kcl_loss", "info_nce_loss", "clip_loss",
                     "dcl_loss", "dhel_loss")}  # fmt: skip
told |= {name: warned(getattr(fmicl_jax, name))
         for name in ("alignment_uniformity_loss", "spectral_contrastive_loss")}  # fmt: skip
print(json.dumps({"programs": results, "warned": told}))
