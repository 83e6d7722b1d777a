"""Run by test_distributed.py: the loss over W replicas against one; prints JSON."""

import json
import sys

import numpy as np
import tensorflow as tf
from common import cases, cases_with_ids, report, views

from fmicl_core import forms
from fmicl_tensorflow import fmicl_terms

COUNT = int(sys.argv[1])
#: Rows of each replica, uneven.
SIZES = {1: (11,), 2: (7, 4), 4: (5, 1, 3, 2)}[COUNT]

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(COUNT)]
)
strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(COUNT)])
forms.TILE["cpu"] = 4
x, y, bank, start = (tf.constant(v) for v in views(rows=sum(SIZES)))
with strategy.scope():
    encoder = tf.Variable(start)


def gradient(arrays, options):
    with tf.GradientTape() as tape:
        encoded = {k: v if "ids" in k else v @ encoder for k, v in arrays.items()}
        x, y = encoded.pop("x"), encoded.pop("y", None)
        terms = fmicl_terms(x, y, divergence="js", **encoded, **options)
    return list(terms), tape.gradient(terms.loss, encoder)


def shards(rows):
    edges = np.cumsum((0, *SIZES))
    return strategy.experimental_distribute_values_from_function(
        lambda context: rows[
            edges[context.replica_id_in_sync_group] : edges[context.replica_id_in_sync_group + 1]
        ]
    )


def compare(arrays, options):
    """What the replicas find of their shards, and of the whole bank, beside one process."""
    terms, whole = gradient(arrays, options)
    want = [float(t) for t in terms]
    shared = {k: v for k, v in arrays.items() if k.startswith("bank")}

    def replica_step(sharded):
        terms, part = gradient(sharded | shared, options)
        mean = tf.distribute.ReduceOp.MEAN
        return terms, tf.distribute.get_replica_context().all_reduce(mean, part)

    @tf.function(autograph=False)
    def step(sharded):
        return strategy.run(replica_step, args=(sharded,))

    terms, parts = step({k: shards(v) for k, v in arrays.items() if k not in shared})
    got = [float(strategy.experimental_local_results(t)[-1]) for t in terms]
    part = strategy.experimental_local_results(parts)[0]
    return report(got, part.numpy(), want, whole.numpy())


results = {}
for name, options, has_bank in cases():
    results[name] = compare({"x": x, "y": y} | ({"bank": bank} if has_bank else {}), options)
for name, options, beside, ids in cases_with_ids(len(x)):
    arrays = {"x": x, "y": y, "bank": bank}
    numbers = {k: tf.constant(v) for k, v in ids.items()}
    results[name] = compare({k: arrays[k] for k in ("x", *beside)} | numbers, options)
print(json.dumps(results))
