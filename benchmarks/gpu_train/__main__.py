r"""`python -m benchmarks.gpu_train`: CIFAR-10 on a GPU, by the trainers that users run.

    python -m benchmarks.gpu_train --minutes 5
    python -m benchmarks.gpu_train --minutes 5     # goes on with what the first call began
    python -m benchmarks.gpu_train --minutes 5 --library jax

The runs have the preset "cifar10-gpu": SimCLR with a ResNet-18 of full width, batches of 512,
images on the GPU, bfloat16, 100 epochs with a cosine that is planned from the start. The minutes
are shared among the runs that are not finished. Each trains in a process of its own until its share
ends, and its last complete epoch is measured: seconds an epoch, kNN, linear probe, alignment,
uniformity, rank, memory. A later call goes on after that epoch, and leaves out what is finished. A
run that fails, hangs or dies is a row with the reason, and costs its own share alone.

Rows are in benchmarks/results/gpu_train_{library}.csv as soon as a share ends, with the run's
history beside it; run folders, decoded images, what is compiled and logs are in .gpu/train. The
images are the parquet files in .data/cifar10, or where there are none those of the hub.

The anchor, of others: 11.9 s an epoch on an A100 with 16 workers, kNN 83.2 percent after 100 epochs
and 90.3 after 500 (SGD, rate 0.03 N / 256, weight decay 5e-4, grey scale with probability 0.1). The
aim: at most 4 s an epoch.

It has not yet been run on a GPU. On a small scale all of it can be rehearsed:

    python -m benchmarks.gpu_train --device cpu --minutes 2 --library torch jax --epochs 6 \
        --limit 2048 --set width=4 batch_size=128 precision=32
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.clock import Clock
from benchmarks.gpu.table import ROOT
from benchmarks.gpu_train import START
from benchmarks.gpu_train.images import decoded, default_source
from benchmarks.gpu_train.runs import RUNS, run_of
from benchmarks.gpu_train.session import MODULES, Session
from fmicl_recipes.settings import TrainSettings

#: Options whose values are texts, such as precision = "32".
TEXTS = {name for name, field in TrainSettings.options().items() if isinstance(field.default, str)}
ANCHOR = (
    "for comparison, of others on an A100: 11.9 s an epoch, kNN 83.2% after 100 epochs, 90.3% after"
    " 500; the aim is at most 4 s an epoch"
)


def main(arguments: list[str] | None = None) -> int:
    """Train in the given time, and say what comes next; the exit code, 0 if nothing failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_train", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--minutes", type=float, default=5.0, help="for the whole command")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--library", nargs="+", default=["torch"], choices=list(MODULES))
    parser.add_argument("--runs", nargs="+", default=["js", "info-nce"], choices=list(RUNS))
    parser.add_argument("--data", default=default_source(), help="as `fmicl train` takes it")
    parser.add_argument("--epochs", type=int, help="another plan than 100 epochs, a new run")
    parser.add_argument("--limit", type=int, help="training images, at most")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="other options")
    parser.add_argument("--evaluation", type=float, default=25.0,
                        help="seconds of each share that are kept back to measure")  # fmt: skip
    parser.add_argument("--profile", action="store_true", help="trace ten steps of each run")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--work", type=Path, default=ROOT / ".gpu" / "train")
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error("--minutes is a number > 0")
    given: dict[str, Any] = {"data": options.data} | dict(map(assigned, options.set))
    given |= {k: v for k in ("epochs", "limit") if (v := getattr(options, k)) is not None}
    try:
        runs = [run_of(library, name, options.device, given)
                for library in options.library for name in options.runs]  # fmt: skip
        session = Session(runs, options.device, options.results, options.work,
                          reserve=options.evaluation, profile=options.profile)  # fmt: skip
        images = partial(decoded, options.data, options.limit, options.work)
        code = session.run(Clock(options.minutes, START), images)
    except ValueError as error:  # an option or the images, which no run can do without
        print(error)
        return 1
    print(ANCHOR)
    return code


def assigned(text: str) -> tuple[str, Any]:
    """Name and value of NAME=VALUE; a value is JSON where the option is no text."""
    name, _, value = text.partition("=")
    if name in TEXTS:
        return name, value
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
