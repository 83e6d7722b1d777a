"""`python -m benchmarks.gpu`: every GPU path against the float64 reference, then timed.

The one entry point for whoever has a GPU. It writes benchmarks/results/gpu_check.csv and
gpu_speed.csv with machine and versions. `--device cpu` rehearses it on a small scale.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.__main__ import write
from benchmarks.timing import Row
from fmicl_core import DIVERGENCES, FMICL, fmicl_reference, get_divergence
from fmicl_core.objective import NEGATIVES
from fmicl_torch import fmicl_loss

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: Largest relative error of the loss and of the gradient that passes.
LIMIT = {"float32": 5e-5, "bfloat16": 2e-2}


def views(n: int, d: int, dtype: torch.dtype, device: str) -> list[torch.Tensor]:
    """Two views of `n` samples that ask for gradients."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator)
    y = x + 0.5 * torch.randn(n, d, generator=generator)
    return [v.to(device, dtype).requires_grad_() for v in (x, y)]


def check(divergence: str, negatives: str, implementation: str, dtype: str, device: str) -> Row:
    """Relative errors of one loss and its gradient, truth taken of the rounded features."""
    x, y = views(700, 64, DTYPES[dtype], device)
    options = {"divergence": divergence, "negatives": negatives}
    loss = fmicl_loss(x, y, implementation=implementation, **options)  # type: ignore[arg-type]
    loss.backward()
    rows = [v.detach().double().cpu().numpy() for v in (x, y)]
    truth = fmicl_reference(*rows, FMICL(**options))  # type: ignore[arg-type]
    size = abs(truth.alignment) + FMICL().alpha * abs(truth.uniformity)
    loss_error = abs(loss.item() - truth.loss) / size
    grads = [v.grad.double().cpu().numpy() for v in (x, y) if v.grad is not None]
    wanted = (truth.grad_x, truth.grad_y)
    grad_error = max(abs(g - w).max() / abs(w).max() for g, w in zip(grads, wanted, strict=True))
    return {
        **options, "implementation": implementation, "dtype": dtype,
        "loss_error": float(loss_error), "gradient_error": float(grad_error),
        "passed": int(max(loss_error, grad_error) <= LIMIT[dtype]),
    }  # fmt: skip


def milliseconds(call: Callable[[], None], device: str, repeats: int = 10) -> float:
    """Median time of a call, after two to warm up."""
    times = []
    for turn in range(repeats + 2):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        if turn >= 2:
            times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device != "cpu":
        torch.cuda.synchronize()


def speed(n: int, d: int, dtype: str, device: str, dense: bool) -> Row:
    """Tiled, dense and compiled dense "cross" with their gradients, in milliseconds."""
    x, y = views(n, d, DTYPES[dtype], device)
    row: Row = {"n": n, "d": d, "dtype": dtype}

    def step(loss: Callable[..., torch.Tensor], implementation: str) -> Callable[[], None]:
        def call() -> None:
            x.grad = y.grad = None
            loss(x, y, divergence="js", negatives="cross", implementation=implementation,
                 check_finite=False).backward()  # fmt: skip

        return call

    row["tiled_ms"] = milliseconds(step(fmicl_loss, "tiled"), device)
    if dense:
        row["dense_ms"] = milliseconds(step(fmicl_loss, "dense"), device)
        row["compiled_dense_ms"] = milliseconds(step(torch.compile(fmicl_loss), "dense"), device)
    return row


def main() -> None:
    """Check, time, print, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    facts = {"device": "cpu" if device == "cpu" else torch.cuda.get_device_name()}
    suitable = [name for name in DIVERGENCES if get_divergence(name).suitable]
    rows = [
        {**check(divergence, negatives, implementation, dtype, device), **facts}
        for divergence in suitable
        for negatives in NEGATIVES
        for implementation in ("dense", "tiled")
        for dtype in DTYPES
    ]
    failed = [row for row in rows if not row["passed"]]
    print(f"{len(rows) - len(failed)} of {len(rows)} checks passed")
    for row in failed:
        print(row)
    write("gpu_check.csv" if device != "cpu" else "gpu_check_rehearsal.csv", rows)

    sizes = (1024, 2048) if device == "cpu" else (1024, 8192, 65536)
    rows = [
        {**speed(n, 128, dtype, device, dense=n <= 16384), **facts}
        for n in sizes
        for dtype in DTYPES
    ]
    for row in rows:
        row.setdefault("dense_ms", "")
        row.setdefault("compiled_dense_ms", "")
        print(row)
    write("gpu_speed.csv" if device != "cpu" else "gpu_speed_rehearsal.csv", rows)


if __name__ == "__main__":
    main()
