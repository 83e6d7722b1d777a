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


def softmax_cases(
    rows: int, kinds: tuple[str, ...] = ("dense", "tiled")
) -> Iterator[tuple[str, str, dict[str, Any], tuple[str, ...], dict[str, Any], dict[str, float]]]:
    """InfoNCE and its kin, with and without ids, which are equal on several ranks.

    Name, function, options, names of the arrays beside x, ids by argument, and the scalars that
    learn by argument.
    """
    labels, stacked = np.arange(rows) * 7 % 3 - 1, np.arange(rows) % (rows - rows // 2)
    labelled, copies = {"ids": labels}, {"ids": stacked}
    bank = labelled | {"bank_ids": np.array([0, 5, -1, 9, 9, 0])}
    hot, scale = {"temperature": 0.3}, {"logit_scale": 3.5}
    for kind in kinds:
        form = {"implementation": kind}
        for scheme in NEGATIVES:
            options = form | hot | {"negatives": scheme}
            yield f"info-nce-{scheme}-{kind}", "info_nce_loss", options, ("y",), {}, {}
        pair = form | {"negatives": "within", "positives": "pair"}
        all_of = form | {"negatives": "all"}
        yield f"info-nce-bank-{kind}", "info_nce_loss", form | hot, ("y", "bank"), {}, {}
        yield f"info-nce-labels-{kind}", "info_nce_loss", all_of, ("y",), labelled, scale
        yield (
            f"info-nce-cross-labels-{kind}",
            "info_nce_loss",
            (form | {"negatives": "cross"}),
            ("y",),
            labelled,
            {},
        )
        yield f"info-nce-stacked-{kind}", "info_nce_loss", all_of, (), copies, {}
        yield f"info-nce-duplicates-{kind}", "info_nce_loss", pair, ("y",), copies, {}
        yield f"info-nce-bank-ids-{kind}", "info_nce_loss", form, ("y", "bank"), bank, {}
        yield f"clip-{kind}", "clip_loss", form, ("y",), {}, scale
        yield f"clip-ids-{kind}", "clip_loss", form, ("y",), labelled, scale
        yield f"dcl-{kind}", "dcl_loss", form, ("y",), {}, {}
        yield f"dcl-ids-{kind}", "dcl_loss", form, (), copies, scale
        yield f"dhel-{kind}", "dhel_loss", form, ("y",), {}, {}


def report(got: Any, gradient: Any, want: Any, truth: Any) -> dict[str, float]:
    """Largest difference of the values; ratio of the gradients' norms, and their cosine."""
    a, b = np.ravel(gradient), np.ravel(truth)
    return {
        "values": float(np.abs(np.subtract(got, want)).max()),
        "ratio": float(np.linalg.norm(a) / np.linalg.norm(b)),
        "cosine": float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)),
    }
