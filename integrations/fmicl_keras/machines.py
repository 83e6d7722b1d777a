"""Several machines by `tf.distribute.MultiWorkerMirroredStrategy`, one process on each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from fmicl_core.checks import invalid
from fmicl_recipes.stopping import ProcessLost

#: How the lines of an error begin that say where in a graph it came.
_TRACE = ("Graph execution error", "Detected at node", "  File ")


@cache
def over_machines(kind: str, devices: int) -> Any:
    """The strategy of all machines, which has to be made before TensorFlow does anything else.

    It waits for the others. Not yet run on a GPU.

    Args:
        kind: kind of the devices to train on, "auto", "cpu" or "gpu".
        devices: number of devices of this machine.

    Raises:
        ValueError: there are fewer devices.
    """
    import tensorflow as tf

    gpus = [] if kind == "cpu" else tf.config.list_physical_devices("GPU")
    if kind == "gpu" and not gpus:
        raise invalid("device", "a kind of device that tensorflow has", kind)
    if devices > max(1, len(gpus)):
        what = f"the {'gpu' if gpus else 'cpu'} devices that a process trains on"
        raise invalid("devices", f"at most {max(1, len(gpus))}, {what}", devices)
    tf.config.set_visible_devices(gpus[:devices], "GPU")
    spec, index = _cluster()
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        spec, task_type="worker", task_id=index, rpc_layer="grpc",
        num_accelerators={"GPU": len(gpus[:devices])},
    )  # fmt: skip
    with lost():
        return tf.distribute.MultiWorkerMirroredStrategy(resolver)


def _cluster() -> tuple[Any, int]:
    """The processes, and which of them this one is."""
    import tensorflow as tf

    if "TF_CONFIG" in os.environ:
        config = json.loads(os.environ["TF_CONFIG"])
        workers = {"worker": config["cluster"]["worker"]}
        return tf.train.ClusterSpec(workers), int(config["task"]["index"])
    # Its own ideas of GPUs do not hold where there are none.
    slurm = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=20_000 + int(os.environ.get("SLURM_JOB_ID", 0)) % 10_000, gpus_per_node=1,
        gpus_per_task=1, tasks_per_node=1, auto_set_gpu=False,
    )  # fmt: skip
    return slurm.cluster_spec(), int(os.environ["SLURM_PROCID"])


@contextmanager
def lost() -> Iterator[None]:
    """Turn TensorFlow's errors of a process that does not answer into `ProcessLost`."""
    from tensorflow import errors

    try:
        yield
    except (
        errors.UnavailableError, errors.AbortedError, errors.CancelledError,
        errors.DeadlineExceededError, errors.FailedPreconditionError, errors.InternalError,
    ) as error:  # fmt: skip
        lines = [line for line in error.message.splitlines() if not line.startswith(_TRACE)]
        raise ProcessLost.because(next(filter(str.strip, lines), "nothing")) from error
