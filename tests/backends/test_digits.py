"""How many digits float32 keeps, where the loss or what it is made of is large, small or constant.

Measured against float64 of the same rounded features.
"""

import numpy as np
import pytest

from fmicl_core import FMICL, Gaussian, fmicl_reference
from fmicl_core.related import info_nce_reference

forms = pytest.mark.parametrize("implementation", ["dense", "tiled"])
TEXT = Gaussian(1.0 / 40.0)


def near(backend, n, d, noise, seed=0):
    """Two views whose rows are this far from their partners, as float32 holds them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = x + noise * rng.normal(size=(n, d))
    return backend.rounded(x, "float32"), backend.rounded(y, "float32")


@forms
@pytest.mark.parametrize("name", ["js", "tsallis"])
def test_penalties_that_are_nearly_one_constant_keep_the_loss(backend, name, implementation):
    """JS: alpha times -log 2, of which float32 has 1/32; nothing may be lost beside it."""
    x, y = near(backend, 1024, 32, 0.3)
    objective = FMICL(name, TEXT, 409600.0, "cross")
    got = backend.evaluate(x, y, None, objective, "float32", implementation)
    assert got.loss == pytest.approx(fmicl_reference(x, y, objective).loss, rel=3e-7)


@forms
@pytest.mark.parametrize("name", ["kl", "vlc"])
def test_features_that_have_collapsed_keep_the_loss(backend, name, implementation):
    """2^20 penalties close to one number, added up."""
    x, y = near(backend, 1024, 4, 1e-3)
    x, y = 1.0 + 1e-2 * x, 1.0 + 1e-2 * y
    objective = FMICL(name, Gaussian(), 40.0, "cross")
    got = backend.evaluate(x, y, None, objective, "float32", implementation)
    assert got.loss == pytest.approx(fmicl_reference(x, y, objective).loss, abs=40.0 * 5e-7)


@pytest.mark.parametrize("compiled", [True, False])
@forms
def test_info_nce_that_is_nearly_0_keeps_its_gradient(backend, implementation, compiled):
    """Every probability of a positive is nearly 1; the gradient is of their differences from 1."""
    x, y = near(backend, 64, 32, 0.02)
    options = {"temperature": 0.05, "implementation": implementation}
    call = lambda dtype: backend.call(  # noqa: E731
        "info_nce_loss", {"x": x, "y": y}, dtype, compiled, **options
    )
    truth, got = call("float64"), call("float32")
    assert truth.loss == pytest.approx(info_nce_reference(x, y, 0.05), rel=1e-9)
    assert truth.loss < 1e-4
    for name, want in truth.grads.items():
        error = np.abs(got.grads[name] - want).max() / np.abs(want).max()
        assert error < 1e-5, name


@pytest.mark.parametrize("negatives", ["cross", "all"])
def test_the_dense_gradient_of_info_nce_is_as_good_as_the_tiled_one(backend, negatives):
    x, y = near(backend, 64, 32, 0.5)  # a shape that another test compiles
    call = lambda dtype, form: backend.call(  # noqa: E731
        "info_nce_loss", {"x": x, "y": y}, dtype, temperature=0.1, negatives=negatives,
        implementation=form,
    )  # fmt: skip
    truth = call("float64", "dense").grads["x"]
    errors = {form: np.abs(call("float32", form).grads["x"] - truth).max()
              for form in ("dense", "tiled")}  # fmt: skip
    assert errors["dense"] < 3.0 * errors["tiled"] + 1e-7 * np.abs(truth).max()
