"""Where each divergence stays finite: the tables of docs/numerics.md.

    python tools/safe_ranges.py

L = log of the kernel. With the Gaussian on unit features it lies in [log mu - 2/sigma2, log mu].
A number counts as safe when it stays below the largest of its dtype by a factor of 2^20, which
leaves room for the sums over a tile and over the rows of a batch.
"""

import math

import numpy as np

from fmicl_core import DIVERGENCES, Divergence, get_divergence

SPARE = 2.0**20
#: Beyond these nothing is looked for: the range has no end that matters.
FAR = {"float32": 1e30, "float64": 1e200}
SUITABLE = [name for name in DIVERGENCES if get_divergence(name).suitable]


def is_safe(divergence: Divergence, L: float, dtype: str) -> bool:
    """Whether score, penalty and their slopes in the features are safe at L."""
    at = np.array(L, dtype)
    # L = -2/sigma2 of antipodal features: the slope in the features has the factor 1/sigma2.
    rate = max(1.0, -L / 2.0)
    with np.errstate(all="ignore"):
        values = [
            divergence.score(at), divergence.penalty(at),
            rate * divergence.score_slope(at), rate * divergence.penalty_slope(at),
        ]  # fmt: skip
    return all(abs(float(v)) < np.finfo(dtype).max / SPARE for v in values)  # False for NaN


def end_of_range(divergence: Divergence, sign: float, dtype: str) -> float:
    """The L farthest from 0 on one side up to which everything is safe, by bisection."""
    inside, outside = 0.0, FAR[dtype]
    if is_safe(divergence, sign * outside, dtype):
        return sign * math.inf
    while outside - inside > 1e-3 * max(1.0, inside):
        middle = 0.5 * (inside + outside)
        if is_safe(divergence, sign * middle, dtype):
            inside = middle
        else:
            outside = middle
    return sign * inside


def safe_range(name: str, dtype: str) -> tuple[float, float]:
    """Lowest and highest safe L, rounded towards 0."""
    ends = (end_of_range(get_divergence(name), sign, dtype) for sign in (-1.0, 1.0))
    low, high = (end if math.isinf(end) else float(math.trunc(end)) for end in ends)
    return low, high


def smallest_sigma2(low: float) -> float:
    """sigma2 at which antipodal unit features reach L = low, mu = 1; rounded up."""
    if math.isinf(low):
        return 0.0
    digits = 1 - math.floor(math.log10(2.0 / -low))
    return math.ceil(2.0 / -low * 10**digits) / 10**digits


def table(dtype: str) -> list[str]:
    """Lines of the table in Markdown."""
    lines = ["| divergence | lowest L | highest L | smallest sigma2 |", "| --- | --- | --- | --- |"]
    for name in SUITABLE:
        low, high = safe_range(name, dtype)
        sigma2 = smallest_sigma2(low)
        ends = ("none" if math.isinf(end) else f"{end:g}" for end in (low, high))
        lines.append(f"| {name} | {' | '.join(ends)} | {f'{sigma2:g}' if sigma2 else 'any'} |")
    return lines


if __name__ == "__main__":
    for kind in FAR:
        print(f"In {kind}:\n", *table(kind), "", sep="\n")
