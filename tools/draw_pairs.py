"""Draw which pairs count, as docs/images/pairs.png: `python tools/draw_pairs.py`.

The masks are those of the specification, `fmicl_core.pairs`, and so those of the losses.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fmicl_core.pairs import Pairs
from fmicl_core.reference import equal_ids

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "pairs.png"
NEITHER, NEGATIVE, POSITIVE = 0, 1, 2
COLOURS = ("#f4f4f4", "#d96c4f", "#2f7f5f")
NAMES = ("neither", "negative", "positive")
SINGLE = Pairs("all", single=True)

#: Title, call, which pairs count, ids of the rows of x (and of y), ids of the bank's rows.
CASES = [
    ("two views", "fmicl_loss(x, y, negatives='all')", Pairs("all"), range(4), None),
    ("labels", "fmicl_loss(z, ids=labels)", SINGLE, [7, 2, 7, 7, 2, 5, 5, 2], None),
    ("four views", "fmicl_loss(z, ids=sample)", SINGLE, [*range(3)] * 4, None),
    ("duplicates", "fmicl_loss(x, y, ids=ids,\nnegatives='all', positives='pair')",
     Pairs("all", "pair"), [0, 1, 0, 2, 3], None),
    ("a queue", "fmicl_loss(x, y, bank=queue,\nids=labels, bank_ids=theirs)",
     Pairs("anchor", has_bank=True), [7, 2, 5, 2], [2, 2, 9, 7, 5, 9, 2, 9]),
]  # fmt: skip


def mask(pairs: Pairs, ids: list[int], bank_ids: list[int] | None) -> NDArray[np.int64]:
    """What every pair is, rows against columns: x, then y, then the bank."""
    n, k = len(ids), len(bank_ids or ())
    rows = {"x": np.zeros((n, 1))} | ({} if pairs.single else {"y": np.zeros((n, 1))})
    rows |= {"bank": np.zeros((k, 1))} if k else {}
    same = equal_ids(rows, ids, bank_ids)
    ends = np.cumsum([0, *(len(side) for side in rows.values())])
    place = {name: slice(*ends[i : i + 2]) for i, name in enumerate(rows)}
    table = np.full((ends[-1],) * 2, NEITHER)

    def put(left: str, right: str, where: NDArray[np.bool_], what: int) -> None:
        table[place[left], place[right]][where] = what
        if not pairs.has_bank:
            table[place[right], place[left]][where.T] = what

    for block in pairs.negative_blocks:
        put(block.left, block.right, ~same[block.left, block.right], NEGATIVE)
    for block in pairs.positive_blocks:
        put(block.left, block.right, same[block.left, block.right], POSITIVE)
    if pairs.positives == "pair":
        put("x", "y", np.eye(n, dtype=bool), POSITIVE)
    np.fill_diagonal(table, NEITHER)
    return table[: len(ids)] if pairs.has_bank else table


def draw(target: Path = PICTURE) -> None:
    """One panel a case."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    figure, panels = plt.subplots(
        1, len(CASES), figsize=(15, 4.4), constrained_layout=True,
        gridspec_kw={"width_ratios": [8, 8, 12, 10, 16]},
    )  # fmt: skip
    for panel, (title, call, pairs, ids, bank_ids) in zip(panels, CASES, strict=True):
        n, ids, others = len(ids), list(ids), bank_ids or []
        table = mask(pairs, ids, bank_ids)
        panel.pcolormesh(
            table, cmap=ListedColormap(COLOURS), vmin=0, vmax=2, edgecolors="white", linewidth=1.5
        )
        arrays = [("z", n)] if pairs.single else [("x", n), ("y", n)]
        arrays += [("bank", len(others))] if others else []
        labels, start = ids * (1 if pairs.single else 2) + others, 0
        for name, size in arrays:
            middle = start + size / 2
            panel.annotate(name, (middle, 0), (0, 19), textcoords="offset points", ha="center",
                           fontsize=9, style="italic")  # fmt: skip
            start += size
            if start < len(labels):
                panel.axvline(start, color="black", linewidth=1)
            if start < len(table):
                panel.axhline(start, color="black", linewidth=1)
        panel.set_xticks(np.arange(len(labels)) + 0.5, labels, fontsize=8)
        panel.set_yticks(np.arange(len(table)) + 0.5, labels[: len(table)], fontsize=8)
        panel.tick_params(length=0)
        panel.invert_yaxis()
        panel.xaxis.tick_top()
        panel.set_aspect("equal")
        for side in panel.spines.values():
            side.set_visible(False)
        panel.set_title(title, fontsize=11, fontweight="bold", y=1.0, pad=36)
        panel.set_xlabel(call, fontsize=8, family="monospace")
    patches = [Patch(color=c, label=n) for c, n in zip(COLOURS[::-1], NAMES[::-1], strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(target, dpi=120, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    draw()
