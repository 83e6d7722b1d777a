"""`python -m benchmarks.gpu`: every GPU path against the float64 reference, then timed.

The one entry point for whoever has a GPU, made for a short loan of it:

    python -m benchmarks.gpu --minutes 5
    python -m benchmarks.gpu --minutes 5     # goes on with what the first call left out
    python -m benchmarks.gpu --minutes 5 --tune      # other tiles for the fused routine

What tells most comes first (`benchmarks.gpu.plan.STAGES`), PyTorch and JAX by turns, each in
processes of its own. Routines are checked and losses compiled on all cores; what is timed is timed
alone. The command ends in the given time.

The first five minutes answer: is every family of routines right (f-MICL with rows and with ids,
fixed and learned scalars, SigLIP, CLIP, InfoNCE), and how fast are Jensen-Shannon, SigLIP and a
loss with ids by the fused routine, and CLIP, which goes tiled, at N = 8,192 and 65,536 and D = 128
in bfloat16, beside the matrix products alone and plain code under torch.compile and jax.jit. Later
calls have the shapes that other libraries report, a million rows, D = 512, the other forms of a
loss, small batches, other dtypes, and every combination.

With --tune the fused routine (of PyTorch, or with --library jax of JAX) is timed with other tiles,
warps and stages: first the present ones, then those nearest to them, with atomics and with scores
computed twice. The best five of each shape are printed as rows for fmicl_core/fused.py, the winners
written to gpu_tiles_{library}.csv. Tiles that do not fit are a row with the reason, and no failure.

Every row is in its file, benchmarks/results/gpu_{check,speed,tune}_{library}.csv, as soon as it is
measured; what is left out, and why, in gpu_left_out.csv. No failure, hang or crash of a case keeps
it from the others. The last lines say what to do next. Exit code 0 if nothing failed, now or in an
earlier row of the same code on the same device.

What is compiled stays in .gpu, with the workers' logs, for the next call. On a small scale, with
the fused routines interpreted, all of it can be rehearsed; it has not yet been run on a GPU:

    TRITON_INTERPRET=1 python -m benchmarks.gpu --device cpu --minutes 1
    TRITON_INTERPRET=1 python -m benchmarks.gpu --device cpu --minutes 1 --tune
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from benchmarks.gpu import START
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.plan import STAGES, plan
from benchmarks.gpu.session import Session
from benchmarks.gpu.table import ROOT
from benchmarks.gpu.tuning import TUNE_STAGES, tune_plan

MODULES = {"torch": "benchmarks.gpu.in_torch", "jax": "benchmarks.gpu.in_jax"}


def main() -> None:
    """Measure in the given time, and say what failed, what was left out and what to do next."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--minutes", type=float, default=5.0, help="for the whole command")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--library", choices=list(MODULES), help="one of them alone")
    parser.add_argument("--tune", action="store_true", help="time the fused routine's tiles")
    parser.add_argument("--stages", type=int, nargs="+", choices=list(STAGES), help=stages_help())
    parser.add_argument("--again", action="store_true", help="measure also what has a row")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    if (options.device == "cpu") != (os.environ.get("TRITON_INTERPRET") == "1"):
        parser.error("TRITON_INTERPRET=1 belongs to --device cpu")  # read when Triton is imported
    if not options.minutes > 0:
        parser.error("--minutes is a number > 0")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    library = options.library or ("torch" if options.tune else None)
    modules = {name: MODULES[name] for name in MODULES if library in (None, name)}
    small, plan_of = options.device == "cpu", tune_plan if options.tune else plan
    tasks = [task for name in modules for task in plan_of(name, small)
             if options.stages is None or task.stage in options.stages]  # fmt: skip
    session = Session(modules, tasks, options.device, options.results, again=options.again)
    sys.exit(session.run(Clock(options.minutes, START)))


def stages_help() -> str:
    """The stages with their numbers."""
    tuned = "; ".join(f"{number} {name}" for number, name in TUNE_STAGES.items())
    return "; ".join(f"{number} {name}" for number, name in STAGES.items()) + f"; --tune: {tuned}"


if __name__ == "__main__":
    main()
