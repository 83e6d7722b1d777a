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
from common import cases, cases_with_ids, report, views  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import fmicl_jax  # noqa: E402
from fmicl_core import forms  # noqa: E402
from fmicl_jax import fused  # noqa: E402

jax.config.update("jax_enable_x64", not FUSED)
forms.TILE["cpu"] = 4
fused.INTERPRET = FUSED
x, y, bank, encoder = views(rows=12)
mesh = jax.make_mesh((COUNT,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
#: What every device has all of, and what it has its part of.
SHARED, SHARDED = P(), P("batch")


def terms(encoder, arrays, axis_name=None, **options):
    encoded = {k: v if "ids" in k else v @ encoder for k, v in arrays.items()}
    x, y = encoded.pop("x"), encoded.pop("y", None)
    return fmicl_jax.fmicl_terms(x, y, divergence="js", axis_name=axis_name, **encoded, **options)


def over_devices(step, arrays, out, check):
    """The function of the encoder and the arrays, run on every device."""
    specs = {k: SHARED if k.startswith("bank") else SHARDED for k in arrays}
    return jax.shard_map(step, mesh=mesh, in_specs=(SHARED, specs), out_specs=out, check_vma=check)


def inside(options, arrays, check):
    """The gradient is taken on every device and averaged over them."""

    def step(encoder, arrays):
        def loss(encoder):
            t = terms(encoder, arrays, axis_name="batch", **options)
            return t.loss, t

        gradient, t = jax.grad(loss, has_aux=True)(encoder)
        return tuple(t), jax.lax.pmean(gradient, "batch")

    return jax.jit(over_devices(step, arrays, (SHARED, SHARED), check))


def outside(options, arrays, check):
    """The gradient is taken of the mapped function."""

    def value(*arguments):
        return tuple(terms(*arguments, axis_name="batch", **options))

    def mapped(*arguments):
        t = over_devices(value, arrays, SHARED, check)(*arguments)
        return t[0], t

    def step(*arguments):
        gradient, t = jax.grad(mapped, has_aux=True)(*arguments)
        return t, gradient

    return jax.jit(step)


def by_pmap(options, arrays, check):
    """As `inside`, by the older map."""

    def step(encoder, arrays):
        def loss(encoder):
            t = terms(encoder, arrays, axis_name="batch", **options)
            return t.loss, tuple(t)

        gradient, t = jax.grad(loss, has_aux=True)(encoder)
        return t, jax.lax.pmean(gradient, "batch")

    axes = {k: None if k.startswith("bank") else 0 for k in arrays}

    def run(encoder, arrays):
        parts = {
            k: v if axes[k] is None else v.reshape(COUNT, -1, *v.shape[1:])
            for k, v in arrays.items()
        }
        every = jax.pmap(step, "batch", in_axes=(None, axes))(encoder, parts)
        return jax.tree.map(lambda value: value[-1], every)

    return run


def single(options):
    def step(*arguments):
        def loss(encoder):
            t = terms(encoder, *arguments[1:], **options)
            return t.loss, tuple(t)

        gradient, t = jax.grad(loss, has_aux=True)(arguments[0])
        return t, gradient

    return jax.jit(step)


results = {}


def compare(name, options, arrays, ways):
    want = single(options)(encoder, arrays)
    for way, check in ways:
        got = way(options, arrays, check)(encoder, arrays)
        label = f"{name}-{way.__name__}-{'checked' if check else 'unchecked'}"
        results[label] = report(np.array(got[0]), got[1], np.array(want[0]), want[1])


for i, (name, options, has_bank) in enumerate(cases(("fused",)) if FUSED else cases()):
    if FUSED:  # Pallas' interpreter does not keep track of what varies
        ways = [(outside, False)]
    elif COUNT == 1:
        ways = [(outside, True)]
    elif options.get("negatives") == "all":
        ways = [(way, check) for way in (inside, outside) for check in (True, False)]
    else:
        ways = [(inside, i % 2 == 0), (outside, i % 2 == 1)]
    compare(name, options, {"x": x, "y": y} | ({"bank": bank} if has_bank else {}), ways)
for i, (name, options, beside, ids) in enumerate(cases_with_ids(len(x)) if not FUSED else ()):
    arrays = {k: {"x": x, "y": y, "bank": bank}[k] for k in ("x", *beside)} | ids
    ways = [(outside, True), (inside, True), (inside, False)][i % 3 :][:1]
    compare(name, options, arrays, [*ways, (by_pmap, False)] if i == 0 else ways)
if COUNT > 1 and not FUSED:  # a device may have no pair of its own
    for form in ("dense", "tiled"):
        options = {"negatives": "all", "implementation": form}
        rows = {"x": x[:COUNT], "y": y[:COUNT]}
        compare(f"row-{form}", options, rows, [(outside, True)])
print(json.dumps(results))
