"""What the programs of the ranks share: the batch, the cases, and what is reported of each."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from fmicl_core.pairs import NEGATIVES


def views(rows: int) -> tuple[np.ndarray, ...]:
    """Inputs x, y and of a bank, and the matrix that stands for the encoder; float64."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 5))
    y = x + 0.5 * rng.normal(size=(rows, 5))
    return x, y, rng.normal(size=(6, 5)), rng.normal(size=(5, 3))


def cases(
    kinds: tuple[str, ...] = ("dense", "tiled"),
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Name, options of the loss, and whether there is a bank."""
    for scheme, kind in itertools.product(NEGATIVES, kinds):
        yield f"{scheme}-{kind}", {"negatives": scheme, "implementation": kind}, False
    for kind in kinds:
        yield f"bank-{kind}", {"implementation": kind}, True


def cases_with_ids(
    rows: int, kinds: tuple[str, ...] = ("dense", "tiled")
) -> Iterator[tuple[str, dict[str, Any], tuple[str, ...], dict[str, np.ndarray]]]:
    """Name, options, names of the arrays beside x, and ids by argument; equal ones on all ranks."""
    labels, stacked = np.arange(rows) * 7 % 3 - 1, np.arange(rows) % (rows - rows // 2)
    more = {"bank_ids": np.array([0, 5, -1, 9, 9, 0])}
    for kind in kinds:
        form = {"implementation": kind}
        within = form | {"negatives": "within", "positives": "pair"}
        yield f"stacked views-{kind}", form, (), {"ids": stacked}
        yield f"labels-{kind}", form | {"negatives": "all"}, ("y",), {"ids": labels}
        yield f"duplicates-{kind}", within, ("y",), {"ids": stacked}
        yield f"bank with ids-{kind}", form, ("y", "bank"), {"ids": labels} | more


def learned_cases(
    kinds: tuple[str, ...] = ("dense", "tiled"),
) -> Iterator[tuple[str, str, dict[str, Any], bool, dict[str, float]]]:
    """Name, function, options, whether there is a bank, and the scalars that learn by argument.

    A rank's gradients in the scalars are averaged over the ranks, as those of an encoder are.
    """
    scalars = {"logit_scale": 3.5, "logit_bias": -1.25}
    for kind in kinds:
        for scheme in ("all", "cross"):
            options = {"divergence": "js", "negatives": scheme, "implementation": kind}
            yield f"learned-{scheme}-{kind}", "fmicl_loss", options, False, scalars
        bank = {"divergence": "js", "implementation": kind}
        yield f"learned-bank-{kind}", "fmicl_loss", bank, True, scalars
        yield f"siglip-{kind}", "siglip_loss", {"implementation": kind}, False, scalars


def report(got: Any, gradient: Any, want: Any, truth: Any) -> dict[str, float]:
    """Largest difference of the values; ratio of the gradients' norms, and their cosine."""
    a, b = np.ravel(gradient), np.ravel(truth)
    return {
        "values": float(np.abs(np.subtract(got, want)).max()),
        "ratio": float(np.linalg.norm(a) / np.linalg.norm(b)),
        "cosine": float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)),
    }
