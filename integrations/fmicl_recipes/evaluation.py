"""How good features are: kNN, linear probe, alignment, uniformity, rank. By scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler, normalize

from fmicl_core.checks import check_at_least, check_positive, non_finite

Features = NDArray[np.floating]
Labels = NDArray[np.int64]

#: Pairwise statistics use at most this many rows, the first ones.
PAIR_ROWS = 2000
#: Features whose effective rank is below this lie on a line, or nearly so.
COLLAPSED_RANK = 2.0
#: Features whose uniformity is above this lie on a point, or nearly so: 0.22 apart on average.
COLLAPSED_UNIFORMITY = -0.1
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
    k = fitting_k(len(train)) if k is None else check_at_least("k", k, 1)
    check_positive("temperature", temperature)
    _check_finite(train=train, test=test)
    classifier = KNeighborsClassifier(
        n_neighbors=min(k, len(train)),
        weights=lambda squared: np.exp(-(squared**2) / (2.0 * temperature)),
        algorithm="brute",
    )
    # On unit rows |a - b|^2 = 2 - 2 cosine, so this weight is exp(cosine / temperature) rescaled.
    classifier.fit(normalize(train), train_labels)
    return float(classifier.score(normalize(test), test_labels))


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
    scaler = StandardScaler().fit(train)
    # A hundred steps of L-BFGS; a probe need not converge to the last digit.
    probe = LogisticRegression(C=0.1, max_iter=100, tol=1e-3)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probe.fit(scaler.transform(train).astype(np.float32), labels)
    return float(probe.score(scaler.transform(test).astype(np.float32), test_labels))


def alignment(x: Features, y: Features) -> float:
    """Mean squared distance of positive pairs on the unit sphere, in [0, 4]; lower is closer.

    Source: Wang and Isola (2020), with exponent 2.
    """
    _check_finite(x=x, y=y)
    return float(((normalize(x) - normalize(y)) ** 2).sum(axis=1).mean())


def uniformity(x: Features) -> float:
    """Log mean of exp(-2 |x_i - x_j|^2) over i != j on the unit sphere, in [-8, 0].

    Lower is more uniform. Over the first `PAIR_ROWS` rows. Source: Wang and Isola (2020), t = 2.
    """
    _check_finite(x=x)
    unit = normalize(x[:PAIR_ROWS])
    products = unit @ unit.T
    zero = ~unit.any(axis=1)
    products[np.ix_(zero, zero)] = 1.0  # rows of zero length are at one place
    d2 = 2.0 - 2.0 * products[~np.eye(len(unit), dtype=bool)]
    return float(np.log(np.exp(-2.0 * d2).mean()))


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
    cosines = normalize(x) @ normalize(y).T
    own = np.diag(cosines).copy()
    np.fill_diagonal(cosines, -np.inf)
    return float((own > cosines.max(axis=1)).mean())


def pair_distances(x: Features, y: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances of positive pairs (x_i, y_i), and of negative pairs (x_i, x_j), i < j."""
    x, y = normalize(x[:PAIR_ROWS]), normalize(y[:PAIR_ROWS])
    positive = np.linalg.norm(x - y, axis=1)
    products = (x @ x.T)[np.triu_indices(len(x), 1)]
    return positive, np.sqrt(np.clip(2.0 - 2.0 * products, 0.0, None))


def fitting_k(count: int) -> int:
    """Neighbours for kNN among `count` rows: the square root of it, at most `MOST_NEIGHBOURS`."""
    return min(MOST_NEIGHBOURS, max(1, round(math.sqrt(count))))


def evaluate_features(
    train: Features,
    train_labels: Labels,
    test: Features,
    test_labels: Labels,
    *,
    k: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """kNN, linear probe with ten labels a class and with all; accuracies in [0, 1]."""
    everything = (train, train_labels, test, test_labels)
    return {
        "knn_accuracy": knn_accuracy(*everything, k=k),
        "linear10_accuracy": linear_accuracy(*everything, labels_per_class=10, seed=seed),
        "linear_accuracy": linear_accuracy(*everything),
    }


def _check_finite(**arrays: Features) -> None:
    for name, value in arrays.items():
        bad = ~np.isfinite(value).all(axis=1)
        if bad.any():
            raise non_finite(name, np.flatnonzero(bad).tolist())
