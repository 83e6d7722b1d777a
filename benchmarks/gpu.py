"""`python -m benchmarks.gpu`: every GPU path against the float64 reference, then timed.

The one entry point for whoever has a GPU. It writes benchmarks/results/gpu_check.csv and
gpu_speed.csv with machine and versions. No failure of a case keeps it from the others; each is in
its row. On a small scale, with the kernel in Triton's interpreter, it can be rehearsed:

    TRITON_INTERPRET=1 python -m benchmarks.gpu --device cpu
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

import torch

from benchmarks.__main__ import write
from benchmarks.gpu_speed import guarded, precision, speeds, views
from benchmarks.timing import Row
from fmicl_core import DIVERGENCES, FMICL, fmicl_reference, get_divergence
from fmicl_core.objective import NEGATIVES
from fmicl_torch import fmicl_loss

#: Largest relative error of the loss and of the gradient that passes.
LIMIT = {"float32": 5e-5, "tf32": 5e-3, "float16": 5e-3, "bfloat16": 2e-2}
FORMS = ("dense", "tiled", "kernel", "kernel_deterministic")
CHECK_COLUMNS = ("loss_error", "gradient_error", "passed", "error")
SPEED_COLUMNS = ("ms", "fraction_of_rate", "extra_mib", "value", "error")


def check(
    divergence: str, negatives: str, form: str, dtype: str, n: int, d: int, device: str
) -> Row:
    """Relative errors of one loss and its gradient, truth taken of the rounded features."""
    x, y = views(n, d, dtype, device)
    options = {"divergence": divergence, "negatives": negatives}
    with precision(dtype, form == "kernel_deterministic"):
        name = form.split("_")[0]
        loss = fmicl_loss(x, y, implementation=name, **options)  # type: ignore[arg-type]
        loss.backward()
    rows = [v.detach().double().cpu().numpy() for v in (x, y)]
    truth = fmicl_reference(*rows, FMICL(**options))  # type: ignore[arg-type]
    size = abs(truth.alignment) + FMICL().alpha * abs(truth.uniformity)
    loss_error = abs(loss.item() - truth.loss) / size
    grads = [v.grad.double().cpu().numpy() for v in (x, y) if v.grad is not None]
    wanted = (truth.grad_x, truth.grad_y)
    grad_error = max(abs(g - w).max() / abs(w).max() for g, w in zip(grads, wanted, strict=True))
    return {
        "loss_error": float(loss_error), "gradient_error": float(grad_error),
        "passed": int(max(loss_error, grad_error) <= LIMIT[dtype]),
    }  # fmt: skip


def checks(device: str) -> Iterator[Row]:
    """A row for each divergence, scheme, form and dtype, and for each width of the kernel."""
    n = 150 if device == "cpu" else 700
    suitable = [name for name in DIVERGENCES if get_divergence(name).suitable]
    runs = [
        (divergence, negatives, form, dtype, n, 64)
        for divergence in (suitable[:2] if device == "cpu" else suitable)
        for negatives in NEGATIVES
        for form in FORMS
        for dtype in LIMIT
    ]
    widths = (5, 150) if device == "cpu" else (5, 100, 128, 200, 512, 768, 1024)
    runs += [
        ("js", "all", form, dtype, n, d) for form in FORMS[2:] for dtype in LIMIT for d in widths
    ]
    for run in runs:
        names = ("divergence", "negatives", "implementation", "dtype", "n", "d")
        what: Row = dict(zip(names, run, strict=True))
        yield what | guarded(lambda run=run: check(*run, device))


def complete(rows: list[Row], columns: tuple[str, ...]) -> list[Row]:
    """The rows with the same columns in each, and the device."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    empty: Row = dict.fromkeys(columns, "")
    return [row | empty | {c: row[c] for c in columns if c in row} | {"device": device}
            for row in rows]  # fmt: skip


def main() -> None:
    """Check, time, print, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    if (device == "cpu") != (os.environ.get("TRITON_INTERPRET") == "1"):
        parser.error("TRITON_INTERPRET=1 belongs to --device cpu")  # read before this line
    suffix = "" if device != "cpu" else "_rehearsal"
    rows = complete(list(checks(device)), CHECK_COLUMNS)
    failed = [row for row in rows if row["passed"] != 1]
    print(f"{len(rows) - len(failed)} of {len(rows)} checks passed")
    for row in failed:
        print(row)
    write(f"gpu_check{suffix}.csv", rows)

    rows = []
    try:
        for row in speeds(device):
            print(row, flush=True)
            rows.append(row)
    finally:  # an interruption keeps what there is
        write(f"gpu_speed{suffix}.csv", complete(rows, SPEED_COLUMNS))


if __name__ == "__main__":
    main()
