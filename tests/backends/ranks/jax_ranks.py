"""Run by tests of devices: the loss over W devices against one; prints JSON.

With "fused" as a second argument: of the Pallas routine in its interpreter, in float32. Four
devices take a choice of the cases, as nearly all of the time goes into compiling; with "all" all.
"""

import json
import os
import sys
from functools import partial

COUNT, FUSED = int(sys.argv[1]), sys.argv[2:] == ["fused"]
CHOSEN = COUNT == 4 and sys.argv[2:] != ["all"]
FLAGS = f"--xla_force_host_platform_device_count={COUNT} --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = FLAGS  # what is compiled here runs once

import jax  # noqa: E402
import numpy as np  # noqa: E402
from common import cases, cases_with_ids, learned_cases, report, softmax_cases, views  # noqa: E402
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


def values(learned, arrays, axis_name=None, function="fmicl_terms", **options):
    """What the function gives for encoded arrays; beside the encoder scalars may learn."""
    encoded = {k: v if "ids" in k else v @ learned["encoder"] for k, v in arrays.items()}
    x, y = encoded.pop("x"), encoded.pop("y", None)
    scalars = {k: v for k, v in learned.items() if k != "encoder"}
    loss = getattr(fmicl_jax, function)
    got = loss(x, y, axis_name=axis_name, **encoded, **scalars, **options)
    return tuple(got) if isinstance(got, tuple) else (got,)


def over_devices(step, arrays, out, check):
    """The function of what learns and of the arrays, run on every device."""
    specs = {k: SHARED if k.startswith("bank") else SHARDED for k in arrays}
    return jax.shard_map(step, mesh=mesh, in_specs=(SHARED, specs), out_specs=out, check_vma=check)


def inside(options, arrays, check):
    """The gradient is taken on every device and averaged over them."""

    def step(learned, arrays):
        def loss(learned):
            t = values(learned, arrays, axis_name="batch", **options)
            return t[0], t

        gradient, t = jax.grad(loss, has_aux=True)(learned)
        return t, jax.lax.pmean(gradient, "batch")

    return jax.jit(over_devices(step, arrays, (SHARED, SHARED), check))


def outside(options, arrays, check):
    """The gradient is taken of the mapped function."""

    def mapped(*arguments):
        of_all = partial(values, axis_name="batch", **options)
        t = over_devices(of_all, arrays, SHARED, check)(*arguments)
        return t[0], t

    def step(*arguments):
        gradient, t = jax.grad(mapped, has_aux=True)(*arguments)
        return t, gradient

    return jax.jit(step)


def by_pmap(options, arrays, check):
    """As `inside`, by the older map."""

    def step(learned, arrays):
        def loss(learned):
            t = values(learned, arrays, axis_name="batch", **options)
            return t[0], t

        gradient, t = jax.grad(loss, has_aux=True)(learned)
        return t, jax.lax.pmean(gradient, "batch")

    axes = {k: None if k.startswith("bank") else 0 for k in arrays}

    def run(learned, arrays):
        parts = {
            k: v if axes[k] is None else v.reshape(COUNT, -1, *v.shape[1:])
            for k, v in arrays.items()
        }
        every = jax.pmap(step, "batch", in_axes=(None, axes))(learned, parts)
        return jax.tree.map(lambda value: value[-1], every)

    return run


def single(options):
    def step(learned, arrays):
        def loss(learned):
            t = values(learned, arrays, **options)
            return t[0], t

        gradient, t = jax.grad(loss, has_aux=True)(learned)
        return t, gradient

    return jax.jit(step)


#: Cases that have between them every scheme, ring and kind of argument.
CHOICE = {
    "within-dense", "all-tiled", "bank-tiled", "labels-tiled", "bank with ids-tiled",
    "learned-all-tiled", "siglip-ids-tiled", "auto-tiled", "row-tiled", "info-nce-cross-tiled",
    "info-nce-labels-tiled", "info-nce-bank-ids-tiled", "clip-ids-tiled", "dcl-ids-tiled",
    "dhel-tiled",
}  # fmt: skip
KINDS = ("fused",) if FUSED else ("dense", "tiled")
results = {}


def compare(name, options, arrays, ways, **scalars):
    if CHOSEN and name not in CHOICE:
        return
    learned = {"encoder": encoder, **scalars}
    want = single(options if FUSED else options | {"implementation": "dense"})(learned, arrays)
    for way, check in ways:
        got = way(options, arrays, check)(learned, arrays)
        label = f"{name}-{way.__name__}-{'checked' if check else 'unchecked'}"
        # The slopes in scalars are compared as numbers, beside the values.
        numbers = ([*t, *(gradient[k] for k in scalars)] for t, gradient in (got, want))
        found, wanted = map(np.array, numbers)
        results[label] = report(found, got[1]["encoder"], wanted, want[1]["encoder"])


JS = {"divergence": "js"}
for i, (name, options, has_bank) in enumerate(cases(KINDS)):
    if FUSED:  # Pallas' interpreter does not keep track of what varies
        ways = [(outside, False)]
    elif COUNT == 1:
        ways = [(outside, True)]
    elif name == "all-tiled" and not CHOSEN:
        ways = [(way, check) for way in (inside, outside) for check in (True, False)]
    else:
        ways = [(inside, i % 2 == 0), (outside, i % 2 == 1)]
        ways = [ways[i // 2 % 2]] if CHOSEN and name != "all-tiled" else ways
    compare(name, JS | options, {"x": x, "y": y} | ({"bank": bank} if has_bank else {}), ways)
for i, (name, options, beside, ids) in enumerate(cases_with_ids(len(x)) if not FUSED else ()):
    arrays = {k: {"x": x, "y": y, "bank": bank}[k] for k in ("x", *beside)} | ids
    ways = [(outside, True), (inside, True), (inside, False)][i % 3 :][:1]
    compare(name, JS | options, arrays, [*ways, (by_pmap, False)] if i == 0 else ways)
for i, (name, function, options, has_bank, numbers) in enumerate(learned_cases(KINDS)):
    options["function"] = function
    arrays = {"x": x, "y": y} | ({"bank": bank} if has_bank else {})
    way = (inside, outside)[i // 2 % 2], i % 2 == 0
    way = (outside, False) if FUSED else way
    compare(name, options, arrays, [way], **{k: np.asarray(v) for k, v in numbers.items()})
for i, (name, function, options, beside, ids, numbers) in enumerate(
    softmax_cases(len(x)) if not FUSED else ()
):
    options["function"] = function
    arrays = {k: {"x": x, "y": y, "bank": bank}[k] for k in ("x", *beside)} | ids
    ways = [(way, check) for check in (True, False) for way in (inside, outside)][i % 4 :][:1]
    ways = [*ways, (by_pmap, False)] if name == "info-nce-labels-tiled" else ways
    compare(name, options, arrays, ways, **{k: np.asarray(v) for k, v in numbers.items()})
if not FUSED:  # SigLIP with ids, which has other weights
    ids = np.arange(len(x)) * 7 % 3
    for form, way in (("dense", inside), ("tiled", outside)):
        options = {"function": "siglip_loss", "implementation": form}
        arrays = {"x": x, "y": y, "ids": ids}
        compare(f"siglip-ids-{form}", options, arrays, [(way, True)], logit_bias=np.asarray(-2.0))
if COUNT > 1 and not FUSED:  # a device may have no pair of its own
    for form in ("dense", "tiled"):
        options = JS | {"negatives": "all", "implementation": form}
        rows = {"x": x[:COUNT], "y": y[:COUNT]}
        compare(f"row-{form}", options, rows, [(outside, True)])
AUTO = {"divergence": "js", "negatives": "all", "alpha": "auto", "strength": 2.0}
for i, form in enumerate(KINDS):  # over devices alpha is that of the union
    numbers = {} if FUSED else {"ids": np.arange(len(x)) * 7 % 3}
    ways = [(outside, False)] if FUSED else [((inside, outside)[i], True)]
    compare(f"auto-{form}", AUTO | {"implementation": form}, {"x": x, "y": y} | numbers, ways)
print(json.dumps(results))
