"""Run by test_distributed.py: the loss over W replicas against one; prints JSON."""

import json
import sys

import numpy as np
import tensorflow as tf
from common import cases, report, views

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


def gradient(x, y, bank, options):
    with tf.GradientTape() as tape:
        bank = {} if bank is None else {"bank": bank @ encoder}
        terms = fmicl_terms(x @ encoder, y @ encoder, divergence="js", **bank, **options)
    return list(terms), tape.gradient(terms.loss, encoder)


def replica_step(x, y, bank, options):
    terms, part = gradient(x, y, bank, options)
    return terms, tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, part)


def shards(rows):
    edges = np.cumsum((0, *SIZES))
    return strategy.experimental_distribute_values_from_function(
        lambda context: rows[
            edges[context.replica_id_in_sync_group] : edges[context.replica_id_in_sync_group + 1]
        ]
    )


results = {}
for name, options, has_bank in cases():
    negatives = bank if has_bank else None
    terms, whole = gradient(x, y, negatives, options)
    want = [float(t) for t in terms]

    @tf.function(autograph=False)
    def step(x, y, negatives=negatives, options=options):
        return strategy.run(replica_step, args=(x, y, negatives, options))

    terms, parts = step(shards(x), shards(y))
    got = [float(strategy.experimental_local_results(t)[-1]) for t in terms]
    part = strategy.experimental_local_results(parts)[0]
    results[name] = report(got, part.numpy(), want, whole.numpy())
print(json.dumps(results))
