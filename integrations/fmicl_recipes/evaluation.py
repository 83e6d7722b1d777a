"""How good features are: kNN, linear probe, alignment, uniformity, rank. By scikit-learn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler, normalize

from fmicl_core.checks import check_at_least, check_positive, non_finite

Features = NDArray[np.floating]
Labels = NDArray[np.int64]

#: Accuracies by their names in metrics.json, and what they are of.
ACCURACIES = {
    "knn_accuracy": "kNN",
    "linear10_accuracy": "linear, 10 labels a class",
    "linear_accuracy": "linear, all labels",
}
#: Pairwise statistics use at most this many rows, the first ones.
PAIR_ROWS = 2000
#: Features whose effective rank is below this lie on a line, or nearly so.
COLLAPSED_RANK = 2.0
#: Features whose uniformity is above this lie on a point, or nearly so: 0.22 apart on average.
COLLAPSED_UNIFORMITY = -0.1
#: Rows whose coordinates spread less than this lie on a point, as far as float32 can tell.
SAME = 1e-6
#: Neighbours that suit 40,000 training images and more (Wu et al. 2018).
MOST_NEIGHBOURS = 200
#: Repetitions of the probe with few labels, each with other labels drawn.
FEW_LABEL_DRAWS = 5


def knn_accuracy(
    train: Features,
    train_labels: Labels,
    test: Features,
    test_labels: Labels,
    k: int | None = None,
    temperature: float = 0.1,
) -> float:
    """Accuracy in [0, 1] of a vote of the k nearest by cosine, weighted exp(cosine / temperature).

    k is at most the number of training rows, and `fitting_k` of it by default. Source: Wu et al.
    (2018), section 3.4.

    Raises:
        ValueError: features are not finite, or k < 1.
    """
    k = _neighbours(k, len(train))
    check_positive("temperature", temperature)
    _check_finite(train=train, test=test)
    classifier = KNeighborsClassifier(
        n_neighbors=k,
        weights=lambda squared: np.exp(-(squared**2) / (2.0 * temperature)),
        algorithm="brute",
    )
    # On unit rows |a - b|^2 = 2 - 2 cosine, so this weight is exp(cosine / temperature) rescaled.
    return _accuracy(classifier, unit(train), train_labels, unit(test), test_labels)


def linear_accuracy(
    train: Features,
    train_labels: Labels,
    test: Features,
    test_labels: Labels,
    labels_per_class: int | None = None,
    seed: int = 0,
) -> float:
    """Accuracy in [0, 1] of logistic regression on standardised features.

    Args:
        train: (N, D) features the probe learns from.
        train_labels: (N,).
        test: (M, D).
        test_labels: (M,).
        labels_per_class: learn from this many samples a class only, averaged over
            `FEW_LABEL_DRAWS` draws; None takes all.
        seed: of the draws.

    Raises:
        ValueError: features are not finite, or labels_per_class < 1.
    """
    _check_finite(train=train, test=test)
    if labels_per_class is None:
        return _probe(train, train_labels, test, test_labels)
    check_at_least("labels_per_class", labels_per_class, 1)
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(FEW_LABEL_DRAWS):
        order = rng.permutation(len(train_labels))
        picked = [
            order[train_labels[order] == c][:labels_per_class] for c in np.unique(train_labels)
        ]
        rows = np.concatenate(picked)
        scores.append(_probe(train[rows], train_labels[rows], test, test_labels))
    return float(np.mean(scores))


def _probe(train: Features, labels: Labels, test: Features, test_labels: Labels) -> float:
    exponent = int(np.frexp(max(np.abs(train).max(), np.abs(test).max()))[1])
    train, test = np.ldexp(train, -exponent), np.ldexp(test, -exponent)  # squares do not overflow
    scaler = StandardScaler(copy=False).fit(train)
    train, test = (scaler.transform(x).astype(np.float32, copy=False) for x in (train, test))
    # A hundred steps of L-BFGS; a probe need not converge to the last digit.
    probe = LogisticRegression(C=0.1, max_iter=100, tol=1e-3)
    return _accuracy(probe, train, labels, test, test_labels)


def _accuracy(
    classifier: Any, train: Features, labels: Labels, test: Features, test_labels: Labels
) -> float:
    """Share of test rows that a classifier, fitted to the training rows, gets right."""
    with warnings.catch_warnings():  # of a probe that may go on, and of classes of a row or two
        warnings.simplefilter("ignore")
        classifier.fit(train, labels)
        return float(np.mean(classifier.predict(test) == test_labels))


def unit(x: Features) -> Features:
    """Rows scaled to length 1, zero rows left; squares of huge and of tiny ones lose nothing."""
    exponent = np.frexp(np.abs(x).max(axis=1, keepdims=True, initial=0.0))[1]
    return normalize(np.ldexp(x, -exponent), copy=False)


def on_a_point(x: Features) -> bool:
    """Whether all rows (N, D) are the same on the unit sphere; so are fewer than two, or zeros."""
    return len(x) < 2 or float(np.ptp(unit(x), axis=0).max()) < SAME


def alignment(x: Features, y: Features) -> float:
    """Mean squared distance of positive pairs on the unit sphere, in [0, 4]; lower is closer.

    Source: Wang and Isola (2020), with exponent 2.
    """
    _check_finite(x=x, y=y)
    return float(((unit(x) - unit(y)) ** 2).sum(axis=1).mean())


def uniformity(x: Features) -> float:
    """Log mean of exp(-2 |x_i - x_j|^2) over i != j on the unit sphere, in [-8, 0].

    Lower is more uniform; 0 where all rows lie on a point, as zero rows do, and a row alone. Over
    the first `PAIR_ROWS` rows. Source: Wang and Isola (2020), t = 2.
    """
    _check_finite(x=x)
    rows = unit(x[:PAIR_ROWS])
    if len(rows) < 2:
        return 0.0
    return float(np.log(np.exp(-2.0 * _squared_distances(rows)).mean()))


def _squared_distances(rows: Features) -> Features:
    """Of row i and row j, i < j, of unit rows and zero rows; two zero rows are at one point."""
    length2 = np.einsum("nd,nd->n", rows, rows).round()  # 1, or 0 of a zero row
    i, j = np.triu_indices(len(rows), 1)
    return np.clip((length2[i] + length2[j]) - 2.0 * (rows @ rows.T)[i, j], 0.0, None)


def embedding_rank(x: Features) -> float:
    """Effective rank of the features, from 1 (collapsed) to D: exp of the entropy of the spectrum.

    Source: RankMe, Garrido et al. (2023), eq. 1.
    """
    _check_finite(x=x)
    singular = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    share = singular / max(singular.sum(), 1e-300)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def spread(x: Features, y: Features) -> dict[str, float]:
    """Contrastive accuracy, alignment, uniformity and effective rank of two views (N, d).

    By their names in tables and in the history.
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

    A tie counts as wrong. By chance the share is 1 / N, of N rows.
    """
    _check_finite(x=x, y=y)
    cosines = unit(x) @ unit(y).T
    own = np.diag(cosines).copy()
    np.fill_diagonal(cosines, -np.inf)
    return float((own > cosines.max(axis=1)).mean())


def pair_distances(x: Features, y: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances of positive pairs (x_i, y_i), and of negative pairs (x_i, x_j), i < j.

    On the unit sphere; of the first `PAIR_ROWS` rows.
    """
    x, y = unit(x[:PAIR_ROWS]), unit(y[:PAIR_ROWS])
    positive = np.linalg.norm(x - y, axis=1)
    return positive, np.sqrt(_squared_distances(x))


def fitting_k(count: int) -> int:
    """Neighbours for kNN among `count` rows: the square root of it, at most `MOST_NEIGHBOURS`."""
    return min(MOST_NEIGHBOURS, max(1, round(math.sqrt(count))))


def _neighbours(k: int | None, count: int) -> int:
    """The number of neighbours that kNN takes among `count` rows when it is asked for k."""
    return fitting_k(count) if k is None else min(check_at_least("k", k, 1), count)


def wilson_interval(accuracy: float, count: int) -> tuple[float, float]:
    """Where an accuracy on `count` samples lies with a confidence of 95 percent, in [0, 1].

    Binomial. Source: Wilson (1927).
    """
    z2 = NormalDist().inv_cdf(0.975) ** 2 / count
    centre = (accuracy + z2 / 2.0) / (1.0 + z2)
    half = math.sqrt(z2 * (accuracy * (1.0 - accuracy) + z2 / 4.0)) / (1.0 + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def evaluate_features(
    train: Features,
    train_labels: Labels,
    test: Features,
    test_labels: Labels,
    *,
    k: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """kNN, linear probe with ten labels a class and with all; accuracies in [0, 1].

    Beside them "knn_k", the number of neighbours.
    """
    everything = (train, train_labels, test, test_labels)
    k = _neighbours(k, len(train))
    return {
        "knn_k": k,
        "knn_accuracy": knn_accuracy(*everything, k=k),
        "linear10_accuracy": linear_accuracy(*everything, labels_per_class=10, seed=seed),
        "linear_accuracy": linear_accuracy(*everything),
    }


def _check_finite(**arrays: Features) -> None:
    for name, value in arrays.items():
        bad = ~np.isfinite(value).all(axis=1)
        if bad.any():
            raise non_finite(name, np.flatnonzero(bad).tolist())
