"""`python -m benchmarks.scale`: what a learned scale and bias cost, in time and in memory.

Two views, tiled, float32, forward and backward: the loss with the similarity's own numbers, with
logit_scale and logit_bias as numbers, and with both learned, whose gradients are taken, too.
Times are taken in turn in one process, memory in a process of its own.

    python -m benchmarks.scale                    # all frameworks that are installed
    python -m benchmarks.scale torch --n 8192
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from functools import partial
from importlib import import_module
from typing import Any

from benchmarks.__main__ import show, write
from benchmarks.memory import peak_of_second_run, probed_mib
from benchmarks.steps import STEPS_OF, Step
from benchmarks.timing import Row, interleaved, median_ratio, medians

KINDS = ("own", "numbers", "learned")
#: What is measured: function and options.
LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "KL": ("fmicl_loss", {"divergence": "kl"}),
    "JS": ("fmicl_loss", {"divergence": "js"}),
    "JS cross": ("fmicl_loss", {"divergence": "js", "negatives": "cross"}),
    "InfoNCE": ("info_nce_loss", {"negatives": "all"}),
}
#: logit_scale and logit_bias of the default Gaussian; InfoNCE's scale at its default temperature.
SCALE, BIAS = 2.0, -2.0


def step_of(framework: str, loss: str, kind: str, n: int, d: int) -> Step:
    """Loss and gradient of N pairs of rows."""
    name, options = LOSSES[loss]
    of = partial(getattr(import_module(f"fmicl_{framework}"), name), **options)
    of = partial(of, implementation="tiled")
    names = ("logit_scale", "logit_bias") if name == "fmicl_loss" else ("logit_scale",)
    values: dict[str, Any] = dict(zip(names, (SCALE, BIAS), strict=False))

    if kind == "own":
        values = {}
    elif kind == "learned" and framework == "torch":
        import torch

        values = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in values.items()}

    def value(x: Any, y: Any) -> Any:
        if kind == "learned" and framework != "torch":
            # Scalars that depend on x have gradients, which go on into x.
            return of(x, y, **{k: v + 0.0 * x[0, 0] for k, v in values.items()})
        return of(x, y, **values)

    return STEPS_OF[framework](value, n, d)


def rows_of(framework: str, loss: str, n: int, d: int, repeats: int) -> list[Row]:
    """A row for every kind of scalars."""
    calls = {kind: step_of(framework, loss, kind, n, d) for kind in KINDS}
    times = interleaved(calls, repeats, row=0.1)
    seconds = medians(times)
    return [
        show({
            "framework": framework, "loss": loss, "scalars": kind, "n": n, "d": d,
            "time_s": seconds[f"{kind}_s"], "times_own": median_ratio(times, kind, "own"),
            "extra_mib": probed_mib("benchmarks.scale", framework, loss, kind, n=n, d=d),
        })
        for kind in KINDS
    ]  # fmt: skip


def main() -> None:
    """Measure, print, and write benchmarks/results/scale_cpu.csv."""
    installed = [name for name in STEPS_OF if importlib.util.find_spec(name)]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("frameworks", nargs="*", help=f"default: {' '.join(installed)}")
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--d", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # its allocator keeps what was freed
        step = step_of(options.frameworks[0], *options.probe, options.n, options.d)
        print(peak_of_second_run(step)[0] - 2 * options.n * options.d * 4)
        return
    rows = [
        row
        for framework in options.frameworks or installed
        for loss in options.losses
        for row in rows_of(framework, loss, options.n, options.d, options.repeats)
    ]
    write("scale_cpu.csv", rows, ("torch", "jax", "tensorflow"))


if __name__ == "__main__":
    main()
