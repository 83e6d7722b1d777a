"""How features lie on the unit sphere: alignment, uniformity, rank, and whether they collapsed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fmicl_core.checks import non_finite

#: Features (N, D), a row for each sample.
Features = NDArray[np.floating]

#: Pairwise statistics use at most this many rows, the first ones.
PAIR_ROWS = 2000
#: Features whose effective rank is below this lie on a line, or nearly so.
COLLAPSED_RANK = 2.0
#: Features whose uniformity is above this lie on a point, or nearly so: 0.22 apart on average.
COLLAPSED_UNIFORMITY = -0.1
#: Rows whose coordinates spread less than this lie on a point, as far as float32 can tell.
SAME = 1e-6


def spread(x: Features, y: Features) -> dict[str, float]:
    """Contrastive accuracy, alignment, uniformity and effective rank of two views (N, d).

    They go by their names in tables and in the history.
    """
    return {
        "contrastive_accuracy": contrastive_accuracy(x, y),
        "alignment": alignment(x, y),
        "uniformity": uniformity(x),
        "embedding_rank": embedding_rank(x),
    }


def collapsed(scores: Mapping[str, float]) -> bool:
    """Whether features with these scores of `spread` lie nearly on a line or on a point."""
    on_line = scores["embedding_rank"] < COLLAPSED_RANK
    return on_line or scores["uniformity"] > COLLAPSED_UNIFORMITY


def contrastive_accuracy(x: Features, y: Features) -> float:
    """Share of samples i, in [0, 1], whose nearest of all y_j by cosine is y_i.

    A tie counts as wrong. By chance the share is 1 / N, for N rows.
    """
    check_finite(x=x, y=y)
    cosines = unit(x) @ unit(y).T
    own = np.diag(cosines).copy()
    np.fill_diagonal(cosines, -np.inf)
    return float((own > cosines.max(axis=1)).mean())


def alignment(x: Features, y: Features) -> float:
    """Mean squared distance of positive pairs on the unit sphere, in [0, 4]; lower is closer.

    Source: Wang and Isola (2020), with exponent 2.
    """
    check_finite(x=x, y=y)
    return float(((unit(x) - unit(y)) ** 2).sum(axis=1).mean())


def uniformity(x: Features) -> float:
    """Log mean of exp(-2 |x_i - x_j|^2) over i != j on the unit sphere, in [-8, 0].

    Lower is more uniform; 0 where all rows lie on a point, as zero rows do, and a row alone. Only
    the first `PAIR_ROWS` rows count. Source: Wang and Isola (2020), t = 2.
    """
    check_finite(x=x)
    rows = unit(x[:PAIR_ROWS])
    if len(rows) < 2:
        return 0.0
    return float(np.log(np.exp(-2.0 * _squared_distances(rows)).mean()))


def embedding_rank(x: Features) -> float:
    """Effective rank of the features, from 1 (collapsed) to D: exp of the entropy of the spectrum.

    Source: RankMe, Garrido et al. (2023), eq. 1.
    """
    check_finite(x=x)
    singular = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    share = singular / max(singular.sum(), 1e-300)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def pair_distances(x: Features, y: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances on the unit sphere of positive pairs (x_i, y_i), and of negative ones (x_i, x_j).

    Negative pairs have i < j. Only the first `PAIR_ROWS` rows count.
    """
    x, y = unit(x[:PAIR_ROWS]), unit(y[:PAIR_ROWS])
    positive = np.linalg.norm(x - y, axis=1)
    return positive, np.sqrt(_squared_distances(x))


def on_a_point(x: Features) -> bool:
    """Whether all rows (N, D) are the same on the unit sphere; so are zeros, and fewer than two."""
    return len(x) < 2 or float(np.ptp(unit(x), axis=0).max()) < SAME


def unit(x: Features) -> Features:
    """Rows scaled to length 1; zero rows stay. Squares of huge and of tiny rows lose nothing."""
    exponent = np.frexp(np.abs(x).max(axis=1, keepdims=True, initial=0.0))[1]
    rows: Features = np.ldexp(x, -exponent)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    lengths[lengths == 0.0] = 1.0
    return rows / lengths[:, None]


def check_finite(**arrays: Features) -> None:
    """Check features (N, D), given by name.

    Raises:
        ValueError: some are not finite; the message says which rows.
    """
    for name, value in arrays.items():
        bad = ~np.isfinite(value).all(axis=1)
        if bad.any():
            raise non_finite(name, np.flatnonzero(bad).tolist())


def _squared_distances(rows: Features) -> Features:
    """Squared distances of rows i < j, which have length 1 or 0; two zero rows are at one point."""
    length2 = np.einsum("nd,nd->n", rows, rows).round()  # 1, or 0 of a zero row
    i, j = np.triu_indices(len(rows), 1)
    return np.clip((length2[i] + length2[j]) - 2.0 * (rows @ rows.T)[i, j], 0.0, None)
