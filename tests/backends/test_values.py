"""Loss and gradient equal the float64 reference, for every option, dtype and size."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmicl_core import DIVERGENCES, FMICL, Cauchy, Cosine, Gaussian, Laplace, fmicl_reference
from fmicl_core.objective import NEGATIVES

SIMILARITIES = (Gaussian(0.4, 1.2), Gaussian(0.5, 150.0), Cosine(1.6), Laplace(0.9), Cauchy(1.1))
SUITABLE = [name for name, make in DIVERGENCES.items() if make().suitable]
seeds = st.integers(0, 2**32 - 1)
banks = st.sampled_from([None, 3, 9])
both = pytest.mark.parametrize("implementation", ["dense", "tiled"])
every_scheme = pytest.mark.parametrize("negatives", NEGATIVES)


def make(*options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FMICL(*options)


def draw(seed, n=11, d=5, k=None):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = x + 0.5 * rng.normal(size=(n, d))
    return x, y, None if k is None else rng.normal(size=(k, d))


def distance(result, truth):
    """Relative error of the loss and of each gradient, by their largest entries."""
    wanted = {"x": truth.grad_x, "y": truth.grad_y, "bank": truth.grad_bank}
    errors = [abs(result.loss - truth.loss) / (abs(truth.alignment) + abs(truth.uniformity))]
    scale = max(np.abs(g).max() for g in wanted.values() if g is not None)
    errors += [np.abs(g - wanted[k]).max() / scale for k, g in result.grads.items()]
    return max(errors)


@both
@every_scheme
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=repr)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_float64_equals_the_reference(
    backend, set_tile, divergence, similarity, negatives, implementation
):
    """Both with and without unit rows and bank; tiles of 4 leave a remainder in 11 rows."""
    set_tile(4)
    for normalize, k in ((True, None), (False, None), (True, 9), (False, 3)):
        try:
            objective = make(divergence, similarity, 3.0, negatives, normalize)
        except ValueError:
            continue  # this cosine leaves the domain of the conjugate: tests/core/test_objective
        x, y, bank = draw(len(divergence) + 10 * normalize, k=k)
        truth = fmicl_reference(x, y, objective, bank)
        got = backend.evaluate(x, y, bank, objective, implementation=implementation)
        assert distance(got, truth) < 1e-10
        assert got.alignment == pytest.approx(truth.alignment, rel=1e-10)
        assert got.uniformity == pytest.approx(truth.uniformity, rel=1e-10, abs=1e-12)


@both
@given(
    seed=seeds,
    name=st.sampled_from(SUITABLE),
    scheme=st.sampled_from([*NEGATIVES]),
    k=banks,
    sigma2=st.sampled_from([0.025, 0.5, 4.0]),
    alpha=st.sampled_from([0.1, 40.0, 409600.0]),
)
def test_random_settings_equal_the_reference(
    backend, implementation, seed, name, scheme, k, sigma2, alpha
):
    objective = FMICL(name, Gaussian(sigma2), alpha, scheme)
    x, y, bank = draw(seed, k=k)
    truth = fmicl_reference(x, y, objective, bank)
    got = backend.evaluate(x, y, bank, objective, implementation=implementation)
    assert distance(got, truth) < 1e-9


#: Unit round-off times a few: what a rounding of the inputs' features alone can cause.
TOLERANCE = {"float32": 4e-6, "float16": 4e-6, "bfloat16": 4e-6}
#: Gradients leave in the dtype of the features.
GRADIENT = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1.2e-2}


@every_scheme
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", SUITABLE)
def test_low_precision_within_the_error_budget(backend, set_tile, name, dtype, negatives):
    """|tiled - truth| <= |dense - truth| + tolerance; truth is taken of the rounded features."""
    set_tile(16)
    objective = FMICL(name, negatives=negatives)
    x, y, _ = (None if v is None else backend.rounded(v, dtype) for v in draw(3, 50, 8))
    truth = fmicl_reference(x, y, objective)
    kinds = ("dense", "tiled")
    dense, tiled = (
        backend.evaluate(x, y, None, objective, dtype, implementation=kind) for kind in kinds
    )
    size = abs(truth.alignment) + objective.alpha * abs(truth.uniformity)
    budget = abs(dense.loss - truth.loss) + TOLERANCE[dtype] * size
    assert abs(tiled.loss - truth.loss) <= budget
    assert abs(dense.loss - truth.loss) <= 10 * TOLERANCE[dtype] * size
    for result in (dense, tiled):
        assert result.dtypes == {"x": dtype, "y": dtype, "loss": "float32"}
        for key, want in (("x", truth.grad_x), ("y", truth.grad_y)):
            error = np.abs(result.grads[key] - want).max()
            assert error <= GRADIENT[dtype] * np.abs(want).max()


@both
@pytest.mark.parametrize("name", SUITABLE)
def test_the_text_setting_is_right_in_float32(backend, name, implementation):
    """1/(2 sigma^2) = 20: L reaches -80 at antipodal features."""
    x, y, _ = draw(5, 24, 6)
    x[1] = -x[0]
    x, y = (backend.rounded(v, "float32") for v in (x, y))
    objective = FMICL(name, Gaussian(0.025), 409600.0)
    truth = fmicl_reference(x, y, objective)
    got = backend.evaluate(x, y, None, objective, "float32", implementation)
    size = abs(truth.alignment) + objective.alpha * abs(truth.uniformity)
    assert abs(got.loss - truth.loss) <= 2e-5 * size
    for key, want in (("x", truth.grad_x), ("y", truth.grad_y)):
        assert np.abs(got.grads[key] - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("tile", [1, 2, 3, 7, 10, 11, 12, 100])
@pytest.mark.parametrize("k", [None, 3, 17])
@every_scheme
def test_the_size_of_tiles_does_not_matter(backend, set_tile, tile, k, negatives):
    set_tile(tile)
    objective = FMICL("js", Gaussian(0.3), 5.0, negatives)
    x, y, bank = draw(tile, k=k)
    got = backend.evaluate(x, y, bank, objective, implementation="tiled")
    assert distance(got, fmicl_reference(x, y, objective, bank)) < 1e-12


def test_the_shared_logarithms_of_a_large_tile_are_exact(backend, set_tile):
    """Rows in groups of 16 and a rest of 5: every way through the shortcut for JS."""
    set_tile(37)
    objective = FMICL("js", Gaussian(0.5, 90.0), 5.0, "cross")
    x, y, bank = draw(8, 111, 6, 80)
    for rows in (None, bank):
        got = backend.evaluate(x, y, rows, objective, implementation="tiled")
        assert distance(got, fmicl_reference(x, y, objective, rows)) < 1e-12


@both
@every_scheme
@given(seed=seeds)
def test_permutation_rotation_and_scale(backend, implementation, negatives, seed):
    objective = FMICL("kl", negatives=negatives)
    x, y, _ = draw(seed)
    rng = np.random.default_rng(seed)
    order, turn = rng.permutation(11), np.linalg.qr(rng.normal(size=(5, 5)))[0]
    base = backend.evaluate(x, y, None, objective, implementation=implementation)
    moved = backend.evaluate(
        3.0 * x[order] @ turn, 0.1 * y[order] @ turn, None, objective,
        implementation=implementation,
    )  # fmt: skip
    assert moved.loss == pytest.approx(base.loss, rel=1e-11, abs=1e-11)
    np.testing.assert_allclose(3.0 * moved.grads["x"], base.grads["x"][order] @ turn, atol=1e-10)
    np.testing.assert_allclose((base.grads["x"] * x).sum(axis=1), 0.0, atol=1e-10)


@both
@given(seed=seeds)
def test_descent_reduces_the_loss(backend, implementation, seed):
    objective = FMICL("js", negatives="all")
    x, y, _ = draw(seed)
    base = backend.evaluate(x, y, None, objective, implementation=implementation)
    slope = sum((g**2).sum() for g in base.grads.values())
    step = 1e-4 / (1.0 + slope)
    after = backend.evaluate(
        x - step * base.grads["x"], y - step * base.grads["y"], None, objective,
        implementation=implementation,
    )  # fmt: skip
    assert after.loss - base.loss == pytest.approx(-step * slope, rel=0.05, abs=1e-12)


@both
@every_scheme
@pytest.mark.parametrize("name", SUITABLE)
def test_edges_are_finite(backend, name, negatives, implementation):
    """Zero, duplicate and antipodal rows, and rows whose square would overflow or underflow."""
    rows = np.array([[0, 0], [1, 0], [1, 0], [-1, 0], [3e30, 1e-30], [1e-30, 0]], dtype=np.float32)
    objective = FMICL(name, negatives=negatives)
    truth = fmicl_reference(rows, -rows, objective)
    got = backend.evaluate(rows, -rows, None, objective, "float32", implementation)
    assert got.loss == pytest.approx(truth.loss, rel=1e-4, abs=1e-4)
    assert all(np.isfinite(g[:5]).all() for g in got.grads.values())
    np.testing.assert_allclose(got.grads["x"][:5], truth.grad_x[:5], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [
    {}, {"negatives": "cross", "temperature": 0.1}, {"negatives": "anchor"},
    {"negatives": "within", "normalize": False}, {"bank": 7},
], ids=str)  # fmt: skip
@given(seed=seeds)
def test_info_nce_equals_its_reference(backend, options, seed):
    from fmicl_core.related import info_nce_reference

    check_related(backend, "info_nce_loss", info_nce_reference, seed, dict(options))


@pytest.mark.parametrize("options", [
    {}, {"t": 1.0, "uniformity_weight": 0.3}, {"exponent": 3.0, "normalize": False},
], ids=str)  # fmt: skip
@given(seed=seeds)
def test_alignment_uniformity_equals_its_reference(backend, options, seed):
    from fmicl_core.related import alignment_uniformity_reference as reference

    check_related(backend, "alignment_uniformity_loss", reference, seed, dict(options))


@pytest.mark.parametrize("options", [{}, {"normalize": False}], ids=str)
@given(seed=seeds)
def test_spectral_contrastive_equals_its_reference(backend, options, seed):
    from fmicl_core.related import spectral_contrastive_reference as reference

    check_related(backend, "spectral_contrastive_loss", reference, seed, dict(options))


def check_related(backend, name, reference, seed, options):
    x, y, bank = draw(seed, k=options.pop("bank", None))
    x, y = 0.5 * x, 0.5 * y
    got = backend.call(name, {"x": x, "y": y, "bank": bank}, **options)
    if bank is not None:
        options["bank"] = bank
    assert got.loss == pytest.approx(reference(x, y, **options), rel=1e-11, abs=1e-11)
    direction = np.random.default_rng(seed).normal(size=x.shape)
    ahead, behind = (reference(x + s * direction, y, **options) for s in (1e-6, -1e-6))
    slope = (got.grads["x"] * direction).sum()
    assert (ahead - behind) / 2e-6 == pytest.approx(slope, rel=1e-5, abs=1e-7)
