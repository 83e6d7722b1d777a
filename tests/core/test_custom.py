"""A divergence and a kernel of one's own take a dozen lines (see tests/conftest.py)."""

import numpy as np
import pytest

from fmicl_core import FMICL, Tsallis, fmicl_reference


def test_a_divergence_of_ones_own_equals_the_library_s(cubic):
    x, y = np.random.default_rng(0).normal(size=(2, 5, 3))
    mine, theirs = (fmicl_reference(x, y, FMICL(d, alpha=2.0)) for d in (cubic, Tsallis(3.0)))
    assert mine.loss == pytest.approx(theirs.loss, rel=1e-12)
    np.testing.assert_allclose(mine.grad_x, theirs.grad_x, rtol=1e-12)


def test_a_kernel_of_ones_own_is_its_formula(quartic):
    x = np.eye(2)
    got = fmicl_reference(x, x, FMICL("kl", quartic, 1.0))
    assert got.penalty == pytest.approx(np.exp(-4.0))
    assert got.score == pytest.approx(1.0)


def test_what_is_not_defined_says_so(cubic):
    with pytest.raises(NotImplementedError, match="Cubic does not define conjugate"):
        cubic.conjugate(0.0)


def test_plain_classes_that_hold_different_things_are_not_equal(kl_by):
    """Backends keep compiled code by the settings; equal ones would share it."""
    one, other = (kl_by(penalty) for penalty in (np.exp, np.expm1))
    assert FMICL(one) != FMICL(other)
    assert FMICL(one) == FMICL(kl_by(np.exp))
    assert len({FMICL(one), FMICL(other), FMICL(kl_by(np.exp))}) == 2
    assert repr(one) != repr(other)
