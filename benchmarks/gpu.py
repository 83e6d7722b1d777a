"""`python -m benchmarks.gpu`: every GPU path against the float64 reference, then timed.

The one entry point for whoever has a GPU. PyTorch and JAX are each measured in a process of their
own, which writes benchmarks/results/gpu_{check,speed}_{library}.csv with machine and versions. No
failure of a case keeps it from the others; each is in its row. On a small scale, with the kernels
interpreted, it can be rehearsed:

    TRITON_INTERPRET=1 python -m benchmarks.gpu --device cpu
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from typing import Any

import numpy as np

from benchmarks import gpu_cases
from benchmarks.__main__ import write
from benchmarks.gpu_cases import Check, fraction_of_rate, guarded
from benchmarks.timing import Row
from fmicl_core import FMICL, Gaussian, fmicl_reference

LIBRARIES = ("torch", "jax")
#: Largest relative error of the loss and of the gradient that passes.
LIMIT = {"float32": 5e-5, "tf32": 5e-3, "float16": 5e-3, "bfloat16": 2e-2}
CHECK_COLUMNS = ("loss_error", "gradient_error", "passed", "error")
SPEED_COLUMNS = ("ms", "fraction_of_rate", "extra_mib", "value", "error")


def check(library: Any, case: Check, device: str) -> Row:
    """Relative errors of one loss and its gradient, truth taken of the rounded features."""
    similarity = Gaussian() if case.normalize else Gaussian(case.d / 2.0)
    got = library.result(case, similarity, device)
    objective = FMICL(
        case.divergence, similarity, negatives=case.negatives, normalize=case.normalize
    )
    truth = fmicl_reference(got.x, got.y, objective)
    size = abs(truth.alignment) + objective.alpha * abs(truth.uniformity)
    errors = [abs(got.loss - truth.loss) / size]
    for gradient, want in zip(got.gradients, (truth.grad_x, truth.grad_y), strict=True):
        errors.append(np.abs(gradient - want).max() / np.abs(want).max())
    return {
        "loss_error": float(errors[0]), "gradient_error": float(np.max(errors[1:])),
        "passed": int(np.max(errors) <= LIMIT[case.dtype]),
    }  # fmt: skip


def complete(row: Row, columns: tuple[str, ...], device: str) -> Row:
    """The row with all columns, empty where it has none, and the device."""
    empty: Row = dict.fromkeys(columns, "")
    return row | empty | {c: row[c] for c in columns if c in row} | {"device": device}


def measure(name: str, device: str) -> None:
    """Check, time, print, and write the results of one library."""
    library = importlib.import_module(f"benchmarks.gpu_{name}")
    if name == "jax" and device == "cpu":
        from fmicl_jax import kernel

        kernel.INTERPRET = True
    small, on = device == "cpu", library.device_name()
    suffix = f"{name}{'_rehearsal' if small else ''}.csv"
    rows = [
        complete(case._asdict() | guarded(lambda c=case: check(library, c, device)),
                 CHECK_COLUMNS, on)
        for case in gpu_cases.checks(library.FORMS, small)
    ]  # fmt: skip
    failed = [row for row in rows if row["passed"] != 1]
    print(f"{name}: {len(rows) - len(failed)} of {len(rows)} checks passed")
    for row in failed:
        print(row)
    write(f"gpu_check_{suffix}", rows, (name,))

    rows, rates = [], {}
    try:
        for case in gpu_cases.speeds(small):
            if case.dtype not in rates:
                rates[case.dtype] = library.matrix_rate(case.dtype, device)
            rate = rates[case.dtype]
            for loss, make in library.losses(case.n, case.negatives).items():
                if case.only and loss not in case.only:
                    continue
                run = (loss, make, case, device)
                row: Row = {"loss": loss, "n": case.n, "d": case.d, "dtype": case.dtype,
                            "negatives": case.negatives, "rate_tflops": round(rate, 2)}  # fmt: skip
                row |= guarded(lambda run=run: library.speed(*run))
                if "ms" in row:
                    row["fraction_of_rate"] = fraction_of_rate(case, float(row["ms"]), rate)
                print(row, flush=True)
                rows.append(complete(row, SPEED_COLUMNS, on))
    finally:  # an interruption keeps what there is
        if rows:
            write(f"gpu_speed_{suffix}", rows, (name,))


def main() -> None:
    """Measure one library, or each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--library", choices=LIBRARIES, help="one of them alone")
    options = parser.parse_args()
    if (options.device == "cpu") != (os.environ.get("TRITON_INTERPRET") == "1"):
        parser.error("TRITON_INTERPRET=1 belongs to --device cpu")  # read before this line
    if options.library:
        measure(options.library, options.device)
        return
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", options.device, "--library"]
    codes = [subprocess.run([*command, name], check=False).returncode for name in LIBRARIES]
    sys.exit(max(map(abs, codes)))


if __name__ == "__main__":
    main()
