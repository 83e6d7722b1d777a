"""Run by test_distributed.py: the loss over W devices against one; prints JSON.

With "fused" as a second argument: of the Pallas routine in its interpreter, in float32.
"""

import json
import os
import sys

COUNT, FUSED = int(sys.argv[1]), sys.argv[2:] == ["fused"]
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={COUNT}"

import jax  # noqa: E402
import numpy as np  # noqa: E402
from common import cases, report, views  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import fmicl_jax  # noqa: E402
from fmicl_core import forms  # noqa: E402
from fmicl_jax import fused  # noqa: E402

jax.config.update("jax_enable_x64", not FUSED)
forms.TILE["cpu"] = 4
fused.INTERPRET = FUSED
x, y, bank, encoder = views(rows=12)
mesh = jax.make_mesh((COUNT,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
SPECS = (P(), P("batch"), P("batch"), P())


def terms(encoder, x, y, bank, axis_name=None, **options):
    bank = {} if bank is None else {"bank": bank @ encoder}
    return fmicl_jax.fmicl_terms(
        x @ encoder, y @ encoder, divergence="js", axis_name=axis_name, **bank, **options
    )


def inside(options, check):
    """The gradient is taken on every device and averaged over them."""

    def step(*arguments):
        def loss(encoder):
            t = terms(encoder, *arguments[1:], axis_name="batch", **options)
            return t.loss, t

        gradient, t = jax.grad(loss, has_aux=True)(arguments[0])
        return tuple(t), jax.lax.pmean(gradient, "batch")

    return jax.jit(
        jax.shard_map(step, mesh=mesh, in_specs=SPECS, out_specs=(P(), P()), check_vma=check)
    )


def outside(options, check):
    """The gradient is taken of the mapped function."""

    def mapped(*arguments):
        def value(*arguments):
            return tuple(terms(*arguments, axis_name="batch", **options))

        t = jax.shard_map(value, mesh=mesh, in_specs=SPECS, out_specs=P(), check_vma=check)(
            *arguments
        )
        return t[0], t

    def step(*arguments):
        gradient, t = jax.grad(mapped, has_aux=True)(*arguments)
        return t, gradient

    return jax.jit(step)


def single(options):
    def step(*arguments):
        def loss(encoder):
            t = terms(encoder, *arguments[1:], **options)
            return t.loss, tuple(t)

        gradient, t = jax.grad(loss, has_aux=True)(arguments[0])
        return t, gradient

    return jax.jit(step)


results = {}
for i, (name, options, has_bank) in enumerate(cases(("fused",)) if FUSED else cases()):
    if FUSED:  # Pallas' interpreter does not keep track of what varies
        ways = [(outside, False)]
    elif COUNT == 1:
        ways = [(outside, True)]
    elif options.get("negatives") == "all":
        ways = [(way, check) for way in (inside, outside) for check in (True, False)]
    else:
        ways = [(inside, i % 2 == 0), (outside, i % 2 == 1)]
    arguments = (encoder, x, y, bank if has_bank else None)
    want = single(options)(*arguments)
    for way, check in ways:
        got = way(options, check)(*arguments)
        label = f"{name}-{way.__name__}-{'checked' if check else 'unchecked'}"
        results[label] = report(np.array(got[0]), got[1], np.array(want[0]), want[1])
if COUNT > 1 and not FUSED:  # a device may have no pair of its own
    for form in ("dense", "tiled"):
        options = {"negatives": "all", "implementation": form}
        arguments = (encoder, x[:COUNT], y[:COUNT], None)
        want, got = single(options)(*arguments), outside(options, True)(*arguments)
        results[f"row-{form}"] = report(np.array(got[0]), got[1], np.array(want[0]), want[1])
print(json.dumps(results))
