"""Time and extra memory of InfoNCE, tiled against dense, compiled where its users would compile it.

    python -m benchmarks.info_nce torch jax tensorflow

prints a row for each scheme; `python -m benchmarks` writes the same to benchmarks/results.
"""

from __future__ import annotations

import sys
from functools import partial

from benchmarks.memory import extra_mib
from benchmarks.steps import STEPS
from benchmarks.timing import Row, interleaved, median_ratio, medians

FORMS = ("tiled", "dense")


def compare(framework: str, n: int, d: int, negatives: str, repeats: int) -> Row:
    """Times of both forms, forward and backward, their ratio, and the memory of both in MiB."""
    step = partial(STEPS[framework], n, d, "info_nce_loss", negatives=negatives)
    times = interleaved({form: step(implementation=form) for form in FORMS}, repeats)
    row: Row = {"framework": framework, "n": n, "d": d, "negatives": negatives} | medians(times)
    row["dense_over_tiled"] = median_ratio(times, "dense", "tiled")
    for form in FORMS:
        row[f"{form}_mib"] = extra_mib(framework, n, d, negatives, form, "info_nce_loss")
    return row


if __name__ == "__main__":
    for name in sys.argv[1:] or STEPS:
        for scheme in ("cross", "all"):
            print(compare(name, 4096, 128, scheme, 7), flush=True)
