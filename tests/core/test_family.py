"""Learned scale and bias in the specification, and the divergences of losses by name."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmicl_core import FMICL, Cosine, Gaussian, JensenShannon, fmicl_reference
from fmicl_core.family import KernelContrast, Sigmoid, clip_reference, siglip_reference
from fmicl_core.pairs import NEGATIVES
from fmicl_core.related import info_nce_reference

seeds = st.integers(0, 2**32 - 1)
LABELS = np.array([2, 0, 2, 1, 0, 2])


def draw(seed, n=6, d=4):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(n, d))


@pytest.mark.parametrize("similarity", [Gaussian(), Cosine()], ids=str)
@pytest.mark.parametrize("negatives", NEGATIVES)
@given(seed=seeds, scale=st.floats(0.3, 4.0), bias=st.floats(-3.0, 2.0), normalize=st.booleans())
def test_slopes_in_scale_and_bias_are_those_of_the_loss(
    seed, negatives, similarity, scale, bias, normalize
):
    x, y = draw(seed)

    def at(scale, bias):
        objective = FMICL("kl", similarity, 3.0, negatives, normalize, "ids", scale, bias)
        return fmicl_reference(0.5 * x, 0.5 * y, objective, ids=LABELS)

    h, truth = 1e-5, at(scale, bias)
    in_scale = (at(scale + h, bias).loss - at(scale - h, bias).loss) / (2 * h)
    in_bias = (at(scale, bias + h).loss - at(scale, bias - h).loss) / (2 * h)
    size = 1e-5 * (abs(truth.score) + 3.0 * abs(truth.penalty) + 1.0)
    assert truth.grad_scale == pytest.approx(in_scale, rel=1e-5, abs=size)
    assert truth.grad_bias == pytest.approx(in_bias, rel=1e-5, abs=size)


@given(seed=seeds, t=st.floats(0.5, 20.0), b=st.floats(-12.0, 3.0))
def test_siglip_is_jensen_shannon_f_micl(seed, t, b):
    """Whatever it is written with: learned scale and bias, or sigma^2 = 1/t and mu = e^(b + t)."""
    x, y = draw(seed)
    n = len(x)
    want = siglip_reference(x, y, t, b)
    learned = {"logit_scale": t, "logit_bias": b}
    same = FMICL(Sigmoid(), alpha=n - 1, negatives="cross", **learned)
    js = FMICL("js", alpha=n - 1, negatives="cross", **learned)
    kernel = FMICL("js", Gaussian(1.0 / t, math.exp(b + t)), n - 1, "cross")
    results = [fmicl_reference(x, y, objective) for objective in (same, js, kernel)]
    assert results[0].loss == pytest.approx(want, rel=1e-12)
    for result in results[1:]:
        assert result.loss + n * math.log(2.0) == pytest.approx(want, rel=1e-12)
        np.testing.assert_allclose(result.grad_x, results[0].grad_x, rtol=1e-9, atol=1e-12)


@given(seed=seeds)
def test_clip_is_the_mean_of_both_directions(seed):
    x, y = draw(seed)
    one_way = [info_nce_reference(*s, 0.2, "cross", ids=LABELS) for s in ((x, y), (y, x))]
    assert clip_reference(x, y, 5.0, ids=LABELS) == pytest.approx(np.mean(one_way), rel=1e-13)


@pytest.mark.parametrize("divergence", [Sigmoid(), KernelContrast()], ids=str)
def test_divergences_of_losses_by_name_are_consistent(divergence):
    L, h = np.linspace(-5.0, 2.0, 15), 1e-6
    for value, slope in (
        (divergence.score, divergence.score_slope), (divergence.penalty, divergence.penalty_slope),
    ):  # fmt: skip
        np.testing.assert_allclose((value(L + h) - value(L - h)) / (2 * h), slope(L), atol=1e-8)
    excess, slope = divergence.excess_and_slope(L)
    np.testing.assert_allclose(excess, divergence.penalty(L) - divergence.penalty_limit)
    np.testing.assert_allclose(slope, divergence.penalty_slope(L), rtol=1e-12)
    np.testing.assert_allclose(divergence.excess_total_and_slope(L)[0], excess.sum(), rtol=1e-12)
    # f*(t) = sup u t - f(u), where it is finite.
    u = np.linspace(1e-6, 60.0, 600001)
    for t in (-0.4, -0.1) if isinstance(divergence, Sigmoid) else (-0.4, 0.0, 0.4):
        wanted = (u * t - divergence.f(u)).max()
        if isinstance(divergence, KernelContrast):
            wanted = max(wanted, -0.5)  # at u = 0
        assert divergence.conjugate(np.array(t)) == pytest.approx(wanted, abs=1e-5)


def test_sigmoid_differs_from_jensen_shannon_by_constants():
    L = np.linspace(-8.0, 4.0, 25)
    js, sigmoid = JensenShannon(), Sigmoid()
    np.testing.assert_allclose(js.score(L) - sigmoid.score(L), math.log(2.0))
    np.testing.assert_allclose(js.penalty(L) - sigmoid.penalty(L), -math.log(2.0))
