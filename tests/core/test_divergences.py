"""Every divergence obeys its definitions: convexity, duality, slopes; the paper's misprints."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from fmicl_core import DIVERGENCES, KL, Pearson, Tsallis, VinczeLeCam, get_divergence

ALL = [make() for make in DIVERGENCES.values()] + [Tsallis(0.5), Tsallis(2.0), Tsallis(3.0)]
SUITABLE = [d for d in ALL if d.suitable]
every = pytest.mark.parametrize("divergence", ALL, ids=repr)
L_values = st.floats(-4.0, 2.0)
u_values = st.floats(0.02, 8.0)


def slope(function, at, step=1e-5):
    return (function(at + step) - function(at - step)) / (2 * step)


@every
@given(u=u_values, v=u_values, share=st.floats(0.0, 1.0))
def test_f_is_convex_and_vanishes_at_one(divergence, u, v, share):
    mixed = divergence.f(share * u + (1 - share) * v)
    assert mixed <= share * divergence.f(u) + (1 - share) * divergence.f(v) + 1e-9
    assert divergence.f(1.0) == pytest.approx(0.0, abs=1e-12)


@every
@given(L=L_values)
def test_score_is_the_derivative_of_f(divergence, L):
    assert divergence.score(L) == pytest.approx(
        slope(divergence.f, math.exp(L)), rel=1e-4, abs=1e-6
    )


@every
@given(L=L_values)
def test_fenchel_young_equality(divergence, L):
    u, t = math.exp(L), divergence.score(L)
    assert divergence.conjugate(t) == pytest.approx(u * t - divergence.f(u), rel=1e-8, abs=1e-9)
    assert divergence.penalty(L) == pytest.approx(divergence.conjugate(t), rel=1e-8, abs=1e-9)
    assert divergence.conjugate_slope(t) == pytest.approx(u, rel=1e-7)


@every
@given(L=st.floats(-2.0, 1.0), shift=st.floats(-0.3, 0.3))
def test_conjugate_is_the_supremum(divergence, L, shift):
    low, high = divergence.conjugate_domain
    t = divergence.score(L) + shift
    t = min(max(t, low), high - 0.05)
    best = minimize_scalar(
        lambda w: divergence.f(math.exp(w)) - t * math.exp(w), bounds=(-30.0, 12.0),
        method="bounded", options={"xatol": 1e-10},
    )  # fmt: skip
    assert divergence.conjugate(t) == pytest.approx(-best.fun, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("divergence", "t", "value"),
    [(Pearson(), -5.0, -1.0), (VinczeLeCam(), -10.0, -1.0), (Tsallis(2.0), -1.0, 1.0)],
    ids=repr,
)
def test_conjugate_is_minus_f_of_zero_below_the_range_of_the_score(divergence, t, value):
    assert divergence.conjugate(t) == pytest.approx(value)
    assert divergence.conjugate_slope(t) == 0.0


@every
@given(L=L_values)
def test_slopes_are_derivatives_and_tied_by_the_density(divergence, L):
    close = {"rel": 1e-5, "abs": 1e-7}
    assert divergence.score_slope(L) == pytest.approx(slope(divergence.score, L), **close)
    assert divergence.penalty_slope(L) == pytest.approx(slope(divergence.penalty, L), **close)
    tied = math.exp(L) * divergence.score_slope(L)
    assert divergence.penalty_slope(L) == pytest.approx(tied, rel=1e-12)


@every
@given(L=st.lists(L_values, min_size=6, max_size=6))
def test_shared_forms_equal_the_plain_ones(divergence, L):
    L = np.array(L).reshape(2, 3)
    excess, weight = divergence.excess_and_slope(L)
    total, again = divergence.excess_total_and_slope(L)
    np.testing.assert_allclose(divergence.excess(L), excess, rtol=1e-12, atol=1e-13)
    penalty = excess + divergence.penalty_limit
    np.testing.assert_allclose(penalty, divergence.penalty(L), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(weight, divergence.penalty_slope(L), rtol=1e-12)
    np.testing.assert_allclose(again, weight, rtol=1e-12)
    np.testing.assert_allclose(total, excess.sum(), rtol=1e-12, atol=1e-12)


@every
def test_the_excess_of_far_pairs_keeps_its_digits_unless_the_penalty_has_no_limit(divergence):
    far = np.array([-20.0, -21.0], dtype=np.float32)
    excess = divergence.excess(far)
    if divergence.penalty(-700.0) < -10.0:  # Jeffreys, reverse KL, Neyman
        assert divergence.penalty_limit == 0.0
        return
    assert divergence.penalty(-700.0) == pytest.approx(divergence.penalty_limit, abs=1e-15)
    assert (excess > 0.0).all()
    np.testing.assert_allclose(excess, divergence.excess(far.astype(np.float64)), rtol=1e-5)


@every
@given(L=L_values, gap=st.floats(1e-3, 2.0))
def test_score_and_penalty_increase(divergence, L, gap):
    assert divergence.score(L + gap) > divergence.score(L)
    assert divergence.penalty(L + gap) > divergence.penalty(L)


@pytest.mark.parametrize("divergence", SUITABLE, ids=repr)
@given(a=st.floats(0.0, 4.0), b=st.floats(0.0, 4.0), rate=st.sampled_from([0.5, 1.0, 2.0]))
def test_penalty_is_strictly_convex_in_the_squared_distance(divergence, a, b, rate):
    h = lambda d2: divergence.penalty(-rate * d2)  # noqa: E731
    gap = 0.5 * (h(a) + h(b)) - h(0.5 * (a + b))
    assert gap >= 1e-5 * (a - b) ** 2 * math.exp(-8.0 * rate) - 1e-15


def test_vincze_le_cam_is_convex_near_zero_only_below_height_two():
    second = lambda mu: np.diff(VinczeLeCam().penalty(math.log(mu) - np.array([0, 1e-3, 2e-3])), 2)  # noqa: E731
    assert second(1.9) > 0 > second(2.1)


def test_reverse_kl_is_linear_and_neyman_concave_in_the_squared_distance():
    d2 = np.linspace(0.0, 4.0, 41)
    np.testing.assert_allclose(np.diff(DIVERGENCES["reverse_kl"]().penalty(-d2), 2), 0, atol=1e-12)
    assert (np.diff(DIVERGENCES["neyman"]().penalty(-d2), 2) < 0).all()


@every
def test_float32_is_accurate_where_the_text_setting_reaches(divergence):
    L = np.linspace(-80.0, 5.0, 4001, dtype=np.float32)
    methods = ["score", "penalty", "score_slope", "penalty_slope"]
    for name in methods:
        with np.errstate(over="ignore"):
            got = getattr(divergence, name)(L).astype(np.float64)
        want = getattr(divergence, name)(L.astype(np.float64))
        inside = np.abs(want) < 1e37  # Neyman's score leaves float32
        scale = 1.0 + np.abs(want[inside])
        # L itself is rounded; e^(k L) turns that into a relative error of k |L| 2^-24.
        assert np.isfinite(got[inside]).all()
        assert (np.abs(got[inside] - want[inside]) <= 2e-5 * scale).all()


def test_jensen_shannon_is_finite_far_out_in_float32():
    L = np.array([-120.0, 120.0], dtype=np.float32)
    js = get_divergence("js")
    for values in (js.score(L), js.penalty(L), js.score_slope(L), js.penalty_slope(L)):
        assert np.isfinite(values).all()


@given(u=u_values)
def test_misprint_vincze_le_cam_composition(u):
    right = 3 - 8 / (u + 1) + 4 / (u + 1) ** 2
    assert VinczeLeCam().penalty(math.log(u)) == pytest.approx(right, abs=1e-12)
    printed = 3 - 4 / (u + 1)
    assert printed - right == pytest.approx(1 - (1 - 2 / (u + 1)) ** 2, abs=1e-12)


@pytest.mark.parametrize("order", [0.5, 1.5, 2.0, 3.0])
def test_misprint_tsallis_is_normalised(order):
    assert Tsallis(order).f(1.0) == 0.0
    assert 1.0**order / (order - 1.0) != 0.0  # as printed


@given(u=u_values, alpha=st.floats(0.5, 50.0), name=st.sampled_from([d.name for d in SUITABLE]))
def test_weight_alpha_is_a_divergence_with_taller_kernel(u, alpha, name):
    """f_alpha(u) = alpha f(u/alpha) - alpha f(1/alpha), height alpha: same score, alpha penalty."""
    d = get_divergence(name)
    f_alpha = lambda w: alpha * d.f(w / alpha) - alpha * d.f(1 / alpha)  # noqa: E731
    tall = alpha * u
    score = slope(f_alpha, tall, 1e-5 * tall)
    assert score == pytest.approx(d.score(math.log(u)), rel=1e-4, abs=1e-5)
    penalty = tall * score - f_alpha(tall)
    constant = alpha * d.f(1 / alpha)
    expected = alpha * d.penalty(math.log(u)) + constant
    assert penalty == pytest.approx(expected, rel=1e-3, abs=2e-3 * alpha)


@every
def test_specs_are_values(divergence):
    scope = {type(d).__name__: type(d) for d in ALL}
    assert eval(repr(divergence), scope) == divergence
    assert pickle.loads(pickle.dumps(divergence)) == divergence
    assert hash(divergence) == hash(eval(repr(divergence), scope))


def test_registry_names_what_it_has():
    assert get_divergence("tsallis", order=2.0) == Tsallis(2.0)
    assert get_divergence(KL()) is not None
    with pytest.raises(ValueError, match=r"`divergence`. Expected one of 'kl', 'js', .*'foo'"):
        get_divergence("foo")


@pytest.mark.parametrize("order", [0, -1.0, math.nan, math.inf, "2", True])
def test_tsallis_refuses_a_bad_order(order):
    with pytest.raises(ValueError, match=r"`order`. Expected a finite number > 0"):
        Tsallis(order)


def test_tsallis_refuses_order_one():
    with pytest.raises(ValueError, match=r"Expected a number other than 1.*KL"):
        Tsallis(1)
