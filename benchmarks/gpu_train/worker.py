"""The process that trains one run: a job comes in as a line, numbers go out as lines.

It is started by `benchmarks.gpu_train.session`, which ends it when it takes too long.
"""

from __future__ import annotations

import importlib
import json
import sys

from benchmarks.gpu.pipe import connected, error_row
from benchmarks.gpu_train.trial import train
from benchmarks.machine import cpu_name


def device_name(library: str, device: str) -> str:
    """Name of the device that trains; it is made ready on the way.

    Raises:
        RuntimeError: the library sees no GPU.
    """
    if device == "cpu":
        return cpu_name()
    if library == "torch":
        import torch

        torch.zeros(1, device="cuda")
        return torch.cuda.get_device_name()
    import jax

    return str(jax.devices("gpu")[0].device_kind)


def main() -> None:
    """Import a trainer, say on what it trains, wait for the job, and do it."""
    library, module, device = sys.argv[1:]
    jobs, tell = connected()
    trainer_class = importlib.import_module(module).MethodTrainer
    tell({"device": device_name(library, device)})
    job = json.loads(jobs.get())
    try:
        train(trainer_class, job, lambda row: tell({"row": row}))
    except BaseException as error:
        tell({"row": error_row(error, 300)})
    tell({"ended": True})


if __name__ == "__main__":
    main()
