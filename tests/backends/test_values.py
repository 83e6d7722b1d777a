"""Loss and gradient equal the float64 reference, for every option, dtype and size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmicl_core import DIVERGENCES, FMICL, Cauchy, Cosine, Gaussian, Laplace, fmicl_reference
from fmicl_core.pairs import NEGATIVES

SUITABLE = [name for name, make in DIVERGENCES.items() if make().suitable]
seeds = st.integers(0, 2**32 - 1)
both = pytest.mark.parametrize("implementation", ["dense", "tiled"])
collapsing = pytest.mark.filterwarnings("ignore:.*known to collapse:UserWarning")


@pytest.mark.by_turns(every=8)
@collapsing
@both
def test_float64_equals_the_reference(backend, set_tile, case, draw, distance, implementation):
    """Every divergence with every similarity; tiles of 4 leave a remainder in 11 rows."""
    set_tile(4)
    objective, (x, y, bank) = case.objective, case.features(7, draw)
    truth = fmicl_reference(x, y, objective, bank)
    got = backend.evaluate(x, y, bank, objective, implementation=implementation)
    assert distance(got, truth) < 1e-10


@pytest.mark.many_compilations
@collapsing
@both
@pytest.mark.parametrize("column", range(5))
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_every_combination_equals_the_reference(
    backend, set_tile, every_case, draw, distance, divergence, column, implementation
):
    """The covering cases above, completed to all combinations."""
    set_tile(4)
    for case in every_case(divergence, column):
        objective, (x, y, bank) = case.objective, case.features(8, draw)
        truth = fmicl_reference(x, y, objective, bank)
        got = backend.evaluate(x, y, bank, objective, implementation=implementation)
        assert distance(got, truth) < 1e-10, case


#: Divergence, sigma2, alpha, scheme, rows of the bank.
RANDOM = [
    ("kl", 0.025, 409600.0, "anchor", None),
    ("js", 0.5, 40.0, "all", None),
    ("pearson", 4.0, 0.1, "within", None),
    ("squared_hellinger", 0.5, 40.0, "cross", None),
    ("tsallis", 4.0, 40.0, "anchor", 9),
    ("vlc", 0.025, 409600.0, "all", None),
    ("jeffreys", 0.5, 0.1, "anchor", 9),
]


@both
@pytest.mark.parametrize(("name", "sigma2", "alpha", "scheme", "k"), RANDOM)
@settings(max_examples=5)
@given(seed=seeds)
def test_random_features_equal_the_reference(
    backend, draw, distance, implementation, seed, name, sigma2, alpha, scheme, k
):
    objective = FMICL(name, Gaussian(sigma2), alpha, scheme)
    x, y, bank = draw(seed, k=k)
    truth = fmicl_reference(x, y, objective, bank)
    got = backend.evaluate(x, y, bank, objective, implementation=implementation)
    assert distance(got, truth) < 1e-9


#: Unit round-off times a few: what a rounding of the features alone can cause.
TOLERANCE = 4e-6
#: Gradients leave in the dtype of the features.
GRADIENT = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1.2e-2}


def check_budget(backend, objective, dtype, x, y):
    """|tiled - truth| <= |dense - truth| + tolerance; truth is taken of the rounded features."""
    x, y = (backend.rounded(v, dtype) for v in (x, y))
    truth = fmicl_reference(x, y, objective)
    dense, tiled = (
        backend.evaluate(x, y, None, objective, dtype, implementation=kind)
        for kind in ("dense", "tiled")
    )
    size = abs(truth.score) + objective.alpha * abs(truth.penalty)
    budget = abs(dense.loss - truth.loss) + TOLERANCE * size
    assert abs(tiled.loss - truth.loss) <= budget
    assert abs(dense.loss - truth.loss) <= 10 * TOLERANCE * size
    for result in (dense, tiled):
        assert result.dtypes == {"x": dtype, "y": dtype, "loss": "float32"}
        for key, want in (("x", truth.grad_x), ("y", truth.grad_y)):
            error = np.abs(result.grads[key] - want).max()
            assert error <= GRADIENT[dtype] * np.abs(want).max()


@pytest.mark.by_turns(every=8)
@pytest.mark.parametrize("dtype", GRADIENT)
@pytest.mark.parametrize("name", SUITABLE)
def test_low_precision_within_the_error_budget(backend, set_tile, draw, name, dtype):
    set_tile(16)
    check_budget(backend, FMICL(name, negatives="all"), dtype, *draw(3, 50, 8)[:2])


@pytest.mark.parametrize("dtype", GRADIENT)
@pytest.mark.parametrize("similarity", [Cosine(1.6), Laplace(0.9), Cauchy(1.1)], ids=repr)
def test_other_similarities_within_the_error_budget(backend, set_tile, draw, similarity, dtype):
    set_tile(16)
    check_budget(backend, FMICL("js", similarity, negatives="all"), dtype, *draw(3, 50, 8)[:2])


@both
@pytest.mark.parametrize("name", SUITABLE)
def test_the_text_setting_is_right_in_float32(backend, draw, name, implementation):
    """1/(2 sigma^2) = 20: L reaches -80 at antipodal features."""
    x, y, _ = draw(5, 24, 6)
    x[1] = -x[0]
    x, y = (backend.rounded(v, "float32") for v in (x, y))
    objective = FMICL(name, Gaussian(0.025), 409600.0)
    truth = fmicl_reference(x, y, objective)
    got = backend.evaluate(x, y, None, objective, "float32", implementation)
    size = abs(truth.score) + objective.alpha * abs(truth.penalty)
    assert abs(got.loss - truth.loss) <= 2e-5 * size
    for key, want in (("x", truth.grad_x), ("y", truth.grad_y)):
        assert np.abs(got.grads[key] - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("tile", [1, 3, 10, 11, 12])
@pytest.mark.parametrize(("negatives", "k"), [*((n, None) for n in NEGATIVES), ("anchor", 17)])
def test_the_size_of_tiles_does_not_matter(backend, set_tile, draw, distance, tile, negatives, k):
    set_tile(tile)
    objective = FMICL("js", Gaussian(0.3), 5.0, negatives)
    x, y, bank = draw(tile, k=k)
    got = backend.evaluate(x, y, bank, objective, implementation="tiled")
    assert distance(got, fmicl_reference(x, y, objective, bank)) < 1e-12


@pytest.mark.parametrize("k", [None, 80])
def test_the_shared_logarithms_of_a_large_tile_are_exact(backend, set_tile, draw, distance, k):
    """Rows in groups of 16 and a rest of 5: every way through the shortcut for JS."""
    set_tile(37)
    objective = FMICL("js", Gaussian(0.5, 90.0), 5.0, "cross")
    x, y, bank = draw(8, 111, 6, k)
    got = backend.evaluate(x, y, bank, objective, implementation="tiled")
    assert distance(got, fmicl_reference(x, y, objective, bank)) < 1e-12


@both
@pytest.mark.parametrize("name", SUITABLE)
def test_edges_are_finite(backend, name, implementation):
    """Zero, duplicate and antipodal rows, and rows whose square would overflow or underflow."""
    rows = np.array([[0, 0], [1, 0], [1, 0], [-1, 0], [3e30, 1e-30], [1e-30, 0]], dtype=np.float32)
    objective = FMICL(name, negatives="all")
    truth = fmicl_reference(rows, -rows, objective)
    got = backend.evaluate(rows, -rows, None, objective, "float32", implementation)
    assert got.loss == pytest.approx(truth.loss, rel=1e-4, abs=1e-4)
    assert all(np.isfinite(g[:5]).all() for g in got.grads.values())
    np.testing.assert_allclose(got.grads["x"][:5], truth.grad_x[:5], rtol=1e-3, atol=1e-4)
