"""Run by test_distributed.py: the loss over W replicas against one; prints JSON.

Three replicas take a choice of the cases, as nearly all of the time goes into compiling, anew for
every replica and round: symmetric and other blocks, with and without ids.
"""

import json
import sys

import numpy as np
import tensorflow as tf
from common import cases, cases_with_ids, learned_cases, report, softmax_cases, views

import fmicl_tensorflow
from fmicl_core import forms

COUNT = int(sys.argv[1])
#: The cases of the choice, or nothing for all.
CHOSEN = (
    "learned-all-tiled", "info-nce-stacked-tiled", "bank-dense", "duplicates-dense",
    "info-nce-cross-dense", "dcl-ids-dense", "auto-dense",
) if COUNT == 3 else ()  # fmt: skip
#: Rows of each replica, uneven; one may have none, as of a small last batch.
SIZES = {1: (11,), 2: (7, 4), 3: (10, 1, 0), 4: (6, 1, 4, 0)}[COUNT]

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(COUNT)]
)
strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(COUNT)])
forms.TILE["cpu"] = 4
x, y, bank, start = (tf.constant(v) for v in views(rows=sum(SIZES)))
with strategy.scope():
    encoder = tf.Variable(start)


def gradient(arrays, options, function="fmicl_terms", scalars=()):
    """Values of a function; gradients of the first in the encoder and in scalars, variables."""
    scalars = dict(scalars)
    with tf.GradientTape() as tape:
        encoded = {k: v if "ids" in k else v @ encoder for k, v in arrays.items()}
        x, y = encoded.pop("x"), encoded.pop("y", None)
        values = getattr(fmicl_tensorflow, function)(x, y, **encoded, **options, **scalars)
        values = list(values) if isinstance(values, tuple) else [values]
    return values, tape.gradient(values[0], [encoder, *scalars.values()])


def shards(rows):
    edges = np.cumsum((0, *SIZES))
    return strategy.experimental_distribute_values_from_function(
        lambda context: rows[
            edges[context.replica_id_in_sync_group] : edges[context.replica_id_in_sync_group + 1]
        ]
    )


def compare(name, arrays, options, *learned):
    """What the replicas find of their shards, and of the whole bank, beside one process.

    Gradients, averaged over the replicas, are compared in the encoder; those in scalars are values.
    """
    if CHOSEN and name not in CHOSEN:
        return
    values, (whole, *slopes) = gradient(arrays, options, *learned)
    want = [float(v) for v in (*values, *slopes)]
    shared = {k: v for k, v in arrays.items() if k.startswith("bank")}

    def replica_step(sharded):
        values, parts = gradient(sharded | shared, options, *learned)
        mean = tf.distribute.ReduceOp.MEAN
        return values, tf.distribute.get_replica_context().all_reduce(mean, parts)

    @tf.function(autograph=False)
    def step(sharded):
        return strategy.run(replica_step, args=(sharded,))

    values, parts = step({k: shards(v) for k, v in arrays.items() if k not in shared})
    part, *slopes = (strategy.experimental_local_results(p)[0] for p in parts)
    got = [float(strategy.experimental_local_results(v)[-1]) for v in values]
    got += [float(s) for s in slopes]
    results[name] = report(got, part.numpy(), want, whole.numpy())


def scalars_of(numbers):
    """Variables that every replica has."""
    with strategy.scope():
        return {k: tf.Variable(v, dtype=tf.float64) for k, v in numbers.items()}


every = {"x": x, "y": y, "bank": bank}
results = {}
for name, options, has_bank in cases():
    arrays = {"x": x, "y": y} | ({"bank": bank} if has_bank else {})
    compare(name, arrays, {"divergence": "js"} | options)
for name, options, beside, ids in cases_with_ids(len(x)):
    numbers = {k: tf.constant(v) for k, v in ids.items()}
    given = {k: every[k] for k in ("x", *beside)} | numbers
    compare(name, given, {"divergence": "js"} | options)
for name, function, options, has_bank, numbers in learned_cases():
    arrays = {"x": x, "y": y} | ({"bank": bank} if has_bank else {})
    compare(name, arrays, options, function, scalars_of(numbers))
for name, function, options, beside, ids, numbers in softmax_cases(len(x)):
    given = {k: every[k] for k in ("x", *beside)}
    given |= {k: tf.constant(v) for k, v in ids.items()}
    compare(name, given, options, function, scalars_of(numbers))
AUTO = {"divergence": "js", "negatives": "all", "alpha": "auto", "strength": 2.0}
labels = tf.constant(np.arange(len(x)) * 7 % 3)
for form, ids in (("dense", {}), ("tiled", {"ids": labels})):  # alpha is that of the union
    compare(f"auto-{form}", {"x": x, "y": y} | ids, AUTO | {"implementation": form})
print(json.dumps(results))
