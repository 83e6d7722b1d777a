"""Digits: every backend's functions are accurate with their slopes, and extremes stay finite."""

import math
import runpy
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from fmicl_core import DIVERGENCES, FMICL, NUMPY, Gaussian, fmicl_reference

ROOT = Path(__file__).resolve().parents[2]
RANGES = runpy.run_path(str(ROOT / "tools" / "safe_ranges.py"))
SUITABLE = [name for name, make in DIVERGENCES.items() if make().suitable]
both = pytest.mark.parametrize("implementation", ["dense", "tiled"])


@pytest.fixture
def ops(backend):
    """The functions of one array that the backend gives to the specification."""
    return getattr(import_module(f"fmicl_{backend.name}.ops"), backend.name.upper())


SLOPES = {
    "exp": np.exp,
    "expm1": np.exp,
    "log": lambda x: 1.0 / x,
    "log1p": lambda x: 1.0 / (1.0 + x),
    "softplus": NUMPY.sigmoid,
    "sigmoid": lambda x: NUMPY.sigmoid(x) * NUMPY.sigmoid(-x),
    "relu": lambda x: (x > 0) * 1.0,
}
#: Where the functions are used; logarithms of positive numbers only.
POINTS = np.array([-80, -30, -17.5, -9, -1, -1e-3, -1e-8, 1e-8, 1e-3, 0.5, 1, 4.8]).reshape(3, 4)


@pytest.mark.by_turns(every=2)  # so that every function is in it
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", SLOPES)
def test_functions_and_their_slopes_keep_their_digits(backend, ops, name, compiled, dtype):
    """Relative to each value, however small: a slope that rounds to 0 fails."""
    points = np.abs(POINTS) if name.startswith("log") else POINTS
    with backend.precision(dtype):
        function = getattr(ops, name)
        leaves = {"L": backend.array(points, dtype)}
        at = backend.numpy(leaves["L"]).astype(np.float64)
        values, slopes = backend.gradients(
            lambda given: (ops.sum(function(given["L"])), function(given["L"])),
            leaves, compiled,
        )  # fmt: skip
        got, slope = (backend.numpy(v) for v in (values[1], slopes["L"]))
    close = {"rtol": 2e-5 if dtype == "float32" else 1e-12, "atol": 0.0}
    np.testing.assert_allclose(got, getattr(NUMPY, name)(at), **close)
    np.testing.assert_allclose(slope, SLOPES[name](at), **close)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 4), (40, 7)])
def test_sums_are_those_of_numpy(backend, ops, dtype, shape):
    """Both reductions, the logarithms of products up to their bound and of numbers near 0."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0.0, 199.0, shape)
    small = 1e-9 * values
    with backend.precision(dtype):
        x = backend.array(values, dtype)
        got = [float(backend.numpy(f(x))) for f in (ops.sum, ops.sum_log1p)]
        got.append(float(backend.numpy(ops.sum_log1p(backend.array(small, dtype)))))
    close = {"rel": 1e-6 if dtype == "float32" else 1e-13}
    assert got == [
        pytest.approx(values.sum(), **close),
        pytest.approx(np.log1p(values).sum(), **close),
        pytest.approx(np.log1p(small).sum(), **close),
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("middle", [2.0, -2.0, -5.0, -30.0])
def test_softplus_and_sigmoid_keep_their_digits_together(backend, ops, dtype, middle):
    """Of many numbers, also where all are so small that 1 + e^z is 1."""
    z = np.random.default_rng(0).uniform(middle - 2.0, middle + 2.0, (203, 301))
    with backend.precision(dtype):
        x = backend.array(z, dtype)
        at = backend.numpy(x).astype(np.float64)
        got = [backend.numpy(v) for v in ops.sum_softplus_and_sigmoid(x + 0.0)]
    close = {"rtol": 2e-6 if dtype == "float32" else 1e-13}
    np.testing.assert_allclose(got[0], NUMPY.softplus(at).sum(), **close)
    np.testing.assert_allclose(got[1], NUMPY.sigmoid(at), **close)


#: Duplicate, antipodal and orthogonal pairs, positive and negative.
LEFT = np.array([[1, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0]], dtype=np.float64)
RIGHT = np.array([[-1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=np.float64)


def extreme(backend, objective, implementation):
    """Result and truth in float32."""
    got = backend.evaluate(LEFT, RIGHT, None, objective, "float32", implementation)
    return got, fmicl_reference(LEFT, RIGHT, objective)


def check_finite(result, truth):
    assert result.loss == pytest.approx(truth.loss, rel=1e-3)
    for name, want in (("x", truth.grad_x), ("y", truth.grad_y)):
        assert np.isfinite(result.grads[name]).all()
        error = np.abs(result.grads[name] - want).max()
        assert error <= 1e-3 * max(1.0, np.abs(want).max())


@both
@pytest.mark.parametrize("name", SUITABLE)
def test_finite_at_the_smallest_sigma(backend, name, implementation):
    low, _ = RANGES["safe_range"](name, "float32")
    sigma2 = max(1e-8, RANGES["smallest_sigma2"](low))
    check_finite(*extreme(backend, FMICL(name, Gaussian(sigma2), negatives="all"), implementation))


@both
@pytest.mark.parametrize("name", SUITABLE)
def test_finite_at_the_largest_height(backend, name, implementation):
    _, high = RANGES["safe_range"](name, "float32")
    kernel = Gaussian(0.5, math.exp(min(high, 80.0)))
    check_finite(*extreme(backend, FMICL(name, kernel, 1.0, "all"), implementation))


@both
@pytest.mark.parametrize("alpha", [1e-30, 1e30])
@pytest.mark.parametrize("name", SUITABLE)
def test_finite_at_any_weight(backend, name, alpha, implementation):
    check_finite(*extreme(backend, FMICL(name, alpha=alpha, negatives="all"), implementation))


@both
@pytest.mark.parametrize("name", ["squared_hellinger", "jeffreys"])
def test_beyond_the_range_is_an_error_and_not_a_nan(backend, name, implementation):
    low, _ = RANGES["safe_range"](name, "float32")
    objective = FMICL(name, Gaussian(RANGES["smallest_sigma2"](low) / 3.0))
    x, y = (backend.array(v, "float32") for v in (LEFT, RIGHT))
    loss = backend.library.FMICLLoss(
        divergence=objective.divergence, similarity=objective.similarity,
        implementation=implementation,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"Expected features with a finite loss under FMICL"):
        loss(x, y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_documented_ranges_are_the_computed_ones(dtype):
    documented = (ROOT / "docs" / "numerics.md").read_text(encoding="utf-8")
    assert "\n".join(RANGES["table"](dtype)) in documented
