"""f-MICL of a small batch is an unbiased estimate of that of a large one, and InfoNCE is not."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmicl_core import DIVERGENCES, FMICL, Gaussian, fmicl_reference
from fmicl_core.pairs import NEGATIVES
from fmicl_core.related import info_nce_reference

SUITABLE = [name for name, make in DIVERGENCES.items() if make().suitable]
ROWS = 6


def views(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, 4))
    return x, x + 0.5 * rng.normal(size=x.shape)


def averages(x, y, n, values):
    """Loss and gradients in x and y, each averaged over all batches of n samples."""
    batches = [list(rows) for rows in combinations(range(ROWS), n)]
    total = [0.0, np.zeros_like(x), np.zeros_like(y)]
    for rows in batches:
        loss, *grads = values(x[rows], y[rows])
        total[0] += loss / len(batches)
        for sum_of, grad in zip(total[1:], grads, strict=True):
            sum_of[rows] += grad / len(batches)
    return total


@pytest.mark.parametrize("divergence", SUITABLE)
@pytest.mark.parametrize("negatives", NEGATIVES)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, ROWS - 1))
def test_small_batches_have_the_loss_and_gradient_of_the_large_one(divergence, negatives, seed, n):
    """Every term is a mean over pairs, and every pair stands in equally many batches."""
    objective = FMICL(divergence, Gaussian(0.6), 3.0, negatives)

    def values(x, y):
        truth = fmicl_reference(x, y, objective)
        return truth.loss, truth.grad_x, truth.grad_y

    x, y = views(seed)
    for got, want in zip(averages(x, y, n, values), values(x, y), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize("negatives", NEGATIVES)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, ROWS - 1))
def test_small_batches_have_a_smaller_info_nce(negatives, seed, n):
    """A logarithm stands around its sum, and grows with the number of its terms."""
    x, y = views(seed)

    def value(x, y):
        return (info_nce_reference(x, y, negatives=negatives, temperature=0.5),)

    assert averages(x, y, n, lambda *rows: (*value(*rows), 0.0, 0.0))[0] < value(x, y)[0] - 1e-2


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_small_batches_have_another_gradient_of_info_nce(negatives, n):
    """By differences in every feature of x; 1 - cosine or length would hide one or the other."""
    x, y = views(0)

    def mean_loss(x, n):
        batches = [list(rows) for rows in combinations(range(ROWS), n)]
        options = {"negatives": negatives, "temperature": 0.5}
        return np.mean([info_nce_reference(x[b], y[b], **options) for b in batches])

    def gradient(n):
        steps = 1e-5 * np.eye(x.size).reshape(-1, *x.shape)
        return np.array([mean_loss(x + s, n) - mean_loss(x - s, n) for s in steps]) / 2e-5

    want = gradient(ROWS)
    assert np.linalg.norm(gradient(n) - want) > 0.02 * np.linalg.norm(want)
