"""A linear probe of any number of features: softmax regression, computed in parts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.preprocessing import StandardScaler

from fmicl_recipes.data.splits import Labels
from fmicl_recipes.sphere import Features

#: Rows that are standardised, and multiplied by the weights, at a time.
PART = 8192


class SoftmaxProbe:
    """Multinomial logistic regression on standardised features, by L-BFGS.

    It minimises what scikit-learn's `LogisticRegression(C=c)` does,
    sum_i -log softmax(W x_i + b)[y_i] + |W|^2 / (2 c), but holds no copy of the features and no
    array of rows by classes.

    Args:
        c: inverse strength of the penalty.
        steps: most steps of L-BFGS.
        tolerance: largest slope, of the mean over the rows, at which it ends.
    """

    def __init__(self, c: float, steps: int, tolerance: float) -> None:
        self.c, self.steps, self.tolerance = c, steps, tolerance

    def fit(self, features: Features, labels: Labels) -> SoftmaxProbe:
        """Fit features (N, D) to labels (N,)."""
        self.classes, targets = np.unique(labels, return_inverse=True)
        self.scaler = StandardScaler()
        for start in range(0, len(features), PART):
            self.scaler.partial_fit(features[start : start + PART])
        shape = features.shape[1] + 1, len(self.classes)  # the last row holds the biases
        found = minimize(
            self._mean_loss, np.zeros(shape).ravel(), (features, targets, shape), "L-BFGS-B",
            jac=True, options={"maxiter": self.steps, "gtol": self.tolerance, "maxls": 50},
        )  # fmt: skip
        self.weights = found.x.reshape(shape)
        return self

    def predict(self, features: Features) -> Labels:
        """The likeliest labels (N,) of features (N, D)."""
        starts = range(0, len(features), PART)
        weights = self.weights.astype(np.float32)
        best = [self._scores(features[i : i + PART], weights)[1].argmax(axis=1) for i in starts]
        return self.classes[np.concatenate(best)]

    def _scores(
        self, part: Features, weights: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Standardised features (n, D), and their scores (n, K)."""
        rows = self.scaler.transform(part).astype(np.float32, copy=False)
        return rows, rows @ weights[:-1] + weights[-1]

    def _mean_loss(
        self, values: NDArray[np.float64], features: Features, targets: NDArray[np.int64],
        shape: tuple[int, int],
    ) -> tuple[float, NDArray[np.float64]]:  # fmt: skip
        """The loss over N, and its slopes in the weights."""
        exact = values.reshape(shape)
        weights = exact.astype(np.float32)
        penalty = 1.0 / (self.c * len(features))
        slopes = penalty * exact
        slopes[-1] = 0.0
        loss = 0.5 * penalty * float(np.square(exact[:-1]).sum())
        for start in range(0, len(features), PART):
            rows, scores = self._scores(features[start : start + PART], weights)
            own = np.arange(len(rows)), targets[start : start + PART]
            scores -= scores.max(axis=1, keepdims=True)
            logits = scores[own]
            np.exp(scores, out=scores)
            total = scores.sum(axis=1, keepdims=True)
            loss += float((np.log(total[:, 0]) - logits).sum(dtype=np.float64)) / len(features)
            scores /= total
            scores[own] -= 1.0
            slopes[:-1] += (rows.T @ scores) / len(features)
            slopes[-1] += scores.sum(axis=0, dtype=np.float64) / len(features)
        return loss, slopes.ravel()
