"""The process that trains one run: a job comes in as a line, numbers go out as lines.

It is started by `benchmarks.gpu_train.session`, which ends it when it takes too long.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
import traceback
from typing import Any

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
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the log
    jobs: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            jobs.put(line)
        os._exit(0)  # whoever started this has ended

    def tell(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    threading.Thread(target=read, daemon=True).start()
    trainer_class = importlib.import_module(module).MethodTrainer
    tell({"device": device_name(library, device)})
    job = json.loads(jobs.get())
    try:
        train(trainer_class, job, lambda row: tell({"row": row}))
    except BaseException as error:
        traceback.print_exc()
        first = (str(error).splitlines() or [""])[0]
        tell({"row": {"error": f"{type(error).__name__}: {first[:300]}"}})
    tell({"ended": True})


if __name__ == "__main__":
    main()
