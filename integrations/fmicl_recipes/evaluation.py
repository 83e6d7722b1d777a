"""How well features tell classes apart: kNN and linear probe, by scikit-learn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from fmicl_core.checks import check_at_least, check_positive
from fmicl_core.renamed import warn_renamed
from fmicl_recipes import sphere
from fmicl_recipes.data.splits import Labels
from fmicl_recipes.probe import SoftmaxProbe
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.sphere import Features, check_finite, unit

#: What the accuracies measure, by their names in metrics.json.
ACCURACIES = {
    "knn_accuracy": "kNN",
    "linear10_accuracy": "linear, 10 labels a class",
    "linear_accuracy": "linear, all labels",
}
#: Number of neighbours that suits 40,000 training images and more (Wu et al. 2018).
MOST_NEIGHBOURS = 200
#: Training rows among which kNN looks by default, at most.
KNN_ROWS = TrainSettings.knn_train
#: Numbers in the training features above which the linear probe is computed in parts.
PROBE_NUMBERS = 10**8
#: C, steps and tolerance of the probe: a hundred steps of L-BFGS, as a probe need not converge to
#: the last digit.
PROBE = (0.1, 100, 1e-3)
#: Repetitions of the probe with few labels, each with other labels drawn.
FEW_LABEL_DRAWS = 5


def evaluate_features(
    train: Features,
    train_labels: Labels,
    test: Features,
    test_labels: Labels,
    *,
    k: int | None = None,
    knn_train: int = KNN_ROWS,
    seed: int = 0,
) -> dict[str, float]:
    """Accuracies in [0, 1] of kNN, and of a linear probe with ten labels a class and with all.

    Beside them there are "knn_k", the number of neighbours, and, where kNN did not look among all
    training rows, "knn_train", the number of those that it looked among.

    Args:
        train: (N, D) features to learn from.
        train_labels: (N,) their labels.
        test: (M, D) features to classify.
        test_labels: (M,) their labels.
        k: number of neighbours, at most N; None takes `fitting_k`.
        knn_train: number of training rows among which kNN looks, see `knn_rows`.
        seed: seed of the draws of these rows, and of ten labels a class.

    Raises:
        ValueError: features are not finite, or k < 1.
    """
    everything = (train, train_labels, test, test_labels)
    rows = knn_rows(len(train), knn_train, seed)
    near, near_labels = (train, train_labels) if rows is None else (train[rows], train_labels[rows])
    k = neighbours_among(k, len(near))
    drawn = {} if rows is None else {"knn_train": len(rows)}
    return {
        "knn_k": k,
        **drawn,
        "knn_accuracy": knn_accuracy(near, near_labels, test, test_labels, k=k),
        "linear10_accuracy": linear_accuracy(*everything, labels_per_class=10, seed=seed),
        "linear_accuracy": linear_accuracy(*everything),
    }


def knn_accuracy(
    train: Features,
    train_labels: Labels,
    test: Features,
    test_labels: Labels,
    k: int | None = None,
    temperature: float = 0.1,
) -> float:
    """Share in [0, 1] of the test rows whose class `knn_classes` finds."""
    found = knn_classes(train, train_labels, test, k, temperature)
    return float(np.mean(found == test_labels))


def knn_classes(
    train: Features,
    train_labels: Labels,
    test: Features,
    k: int | None = None,
    temperature: float = 0.1,
) -> Labels:
    """Classes (M,) by a vote of the k nearest by cosine, weighted exp(cosine / temperature).

    Args:
        train: (N, D) features to learn from.
        train_labels: (N,) their labels.
        test: (M, D) features to classify.
        k: number of neighbours, at most N; None takes `fitting_k`.
        temperature: number > 0 by which the cosines are divided.

    Raises:
        ValueError: features are not finite, or k < 1.

    Source: Wu et al. (2018), section 3.4.
    """
    k = neighbours_among(k, len(train))
    check_positive("temperature", temperature)
    check_finite(train=train, test=test)
    classifier = KNeighborsClassifier(
        n_neighbors=k,
        weights=lambda squared: np.exp(-(squared**2) / (2.0 * temperature)),
        algorithm="brute",
    )
    # On unit rows |a - b|^2 = 2 - 2 cosine, so this weight is exp(cosine / temperature) rescaled.
    with _quiet():
        found: Labels = classifier.fit(unit(train), train_labels).predict(unit(test))
        return found


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
        train: (N, D) features to learn from.
        train_labels: (N,) their labels.
        test: (M, D) features to classify.
        test_labels: (M,) their labels.
        labels_per_class: number of samples a class to learn from, with the mean taken over
            `FEW_LABEL_DRAWS` draws; None takes all samples.
        seed: seed of the draws.

    Raises:
        ValueError: features are not finite, or labels_per_class < 1.
    """
    check_finite(train=train, test=test)
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
    """Accuracy of logistic regression, whatever the scale of the features."""
    if train.size > PROBE_NUMBERS:
        return _accuracy(SoftmaxProbe(*PROBE), train, labels, test, test_labels)
    exponent = int(np.frexp(max(np.abs(train).max(), np.abs(test).max()))[1])
    train, test = np.ldexp(train, -exponent), np.ldexp(test, -exponent)  # squares do not overflow
    scaler = StandardScaler(copy=False).fit(train)
    train, test = (scaler.transform(x).astype(np.float32, copy=False) for x in (train, test))
    c, steps, tolerance = PROBE
    probe = LogisticRegression(C=c, max_iter=steps, tol=tolerance)
    return _accuracy(probe, train, labels, test, test_labels)


def _accuracy(
    classifier: Any, train: Features, labels: Labels, test: Features, test_labels: Labels
) -> float:
    """Share of test rows that a classifier, fitted to the training rows, gets right."""
    with _quiet():
        classifier.fit(train, labels)
        return float(np.mean(classifier.predict(test) == test_labels))


@contextmanager
def _quiet() -> Iterator[None]:
    """Let nobody warn of a probe that may go on, or of classes of a row or two."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def knn_rows(count: int, most: int, seed: int) -> NDArray[np.int64] | None:
    """The training rows, `most` of `count`, among which kNN looks; None for all of them."""
    if count <= most:
        return None
    return np.sort(np.random.default_rng((seed, count)).permutation(count)[:most])


def fitting_k(count: int) -> int:
    """Neighbours for kNN among `count` rows: the square root of it, at most `MOST_NEIGHBOURS`."""
    return min(MOST_NEIGHBOURS, max(1, round(math.sqrt(count))))


def neighbours_among(k: int | None, count: int) -> int:
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


def __getattr__(name: str) -> Any:
    """Names that are in `fmicl_recipes.sphere` now; they go with the next release."""
    if name.startswith("_") or not hasattr(sphere, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_renamed(f"fmicl_recipes.evaluation.{name}", f"fmicl_recipes.sphere.{name}")
    return getattr(sphere, name)
