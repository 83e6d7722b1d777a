"""A divergence and a kernel of one's own take a dozen lines."""

from dataclasses import dataclass

import numpy as np
import pytest

from fmicl_core import FMICL, DistanceKernel, Divergence, Tsallis, fmicl_reference


@dataclass(frozen=True)
class Cubic(Divergence):
    """f(u) = (u^3 - 1)/2, which is Tsallis of order 3."""

    def score(self, L, ops):
        return 1.5 * ops.exp(2.0 * L)

    def score_slope(self, L, ops):
        return 3.0 * ops.exp(2.0 * L)

    def penalty(self, L, ops):
        return ops.exp(3.0 * L) + 0.5


@dataclass(frozen=True)
class Quartic(DistanceKernel):
    """G = exp(-d^4)."""

    def log_kernel(self, d2, ops):
        return -d2 * d2

    def log_kernel_slope(self, d2, ops):
        return -2.0 * d2


def test_a_divergence_of_ones_own_equals_the_library_s():
    x, y = np.random.default_rng(0).normal(size=(2, 5, 3))
    mine, theirs = (fmicl_reference(x, y, FMICL(d, alpha=2.0)) for d in (Cubic(), Tsallis(3.0)))
    assert mine.loss == pytest.approx(theirs.loss, rel=1e-12)
    np.testing.assert_allclose(mine.grad_x, theirs.grad_x, rtol=1e-12)


def test_a_kernel_of_ones_own_is_its_formula():
    x = np.eye(2)
    got = fmicl_reference(x, x, FMICL("kl", Quartic(), 1.0))
    assert got.uniformity == pytest.approx(np.exp(-4.0))
    assert got.alignment == pytest.approx(1.0)


def test_what_is_not_defined_says_so():
    with pytest.raises(NotImplementedError, match=r"Cubic does not define conjugate"):
        Cubic().conjugate(0.0)
