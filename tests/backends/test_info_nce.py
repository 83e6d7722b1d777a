"""InfoNCE in two passes over tiles is InfoNCE: every scheme, dtype, temperature and size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmicl_core.pairs import NEGATIVES
from fmicl_core.related import info_nce_reference

PAIRS = (*NEGATIVES, "bank")
every_supply = pytest.mark.parametrize("pairs", PAIRS)
#: Beyond the error of the dense gradient in the same dtype, relative to the largest entry.
GRADIENT = {"float32": 1e-5, "bfloat16": 4e-3, "float16": 5e-4}


def scheme(pairs):
    return {} if pairs == "bank" else {"negatives": pairs}


def loss_of(backend, arrays, implementation, dtype="float64", compiled=False, **options):
    names = dict(zip(("x", "y", "bank"), arrays, strict=True))
    return backend.call(
        "info_nce_loss", names, dtype, compiled, implementation=implementation, **options
    )


def close(got, want, tolerance):
    assert got.grads.keys() == want.grads.keys()
    for name, gradient in want.grads.items():
        scale = max(np.abs(g).max() for g in want.grads.values())
        assert np.abs(got.grads[name] - gradient).max() <= tolerance * scale


@every_supply
@settings(max_examples=5)
@given(
    seed=st.integers(0, 2**32 - 1),
    temperature=st.sampled_from([0.01, 0.1, 0.5, 3.0]),
    normalize=st.booleans(),
)
def test_tiled_is_dense_is_the_reference(
    backend, set_tile, draw, pairs, seed, temperature, normalize
):
    """Value and every gradient, with sizes off the tile."""
    set_tile(4)
    arrays = draw(seed, k=9 if pairs == "bank" else None)
    options = {"temperature": temperature, "normalize": normalize, **scheme(pairs)}
    dense, tiled = (loss_of(backend, arrays, i, **options) for i in ("dense", "tiled"))
    truth = info_nce_reference(arrays[0], arrays[1], bank=arrays[2], **options)
    assert dense.loss == pytest.approx(truth, rel=1e-11, abs=1e-11)
    assert tiled.loss == pytest.approx(truth, rel=1e-11, abs=1e-11)
    for name, gradient in dense.grads.items():
        np.testing.assert_allclose(tiled.grads[name], gradient, rtol=1e-9, atol=1e-12 / temperature)


@pytest.mark.parametrize(("pairs", "tile"), [("all", 1), ("within", 12), ("bank", 10)])
def test_the_size_of_tiles_does_not_matter(backend, set_tile, draw, pairs, tile):
    set_tile(tile)
    arrays = draw(tile, k=9 if pairs == "bank" else None)
    dense, tiled = (loss_of(backend, arrays, i, **scheme(pairs)) for i in ("dense", "tiled"))
    assert tiled.loss == pytest.approx(dense.loss, rel=1e-12)
    close(tiled, dense, 1e-12)


def test_compiled_is_eager(backend, set_tile, draw):
    set_tile(4)
    arrays = draw(7, k=9)
    options = {"implementation": "tiled", "temperature": 0.1}
    eager, compiled = (loss_of(backend, arrays, compiled=c, **options) for c in (False, True))
    assert compiled.loss == pytest.approx(eager.loss, rel=1e-12)
    close(compiled, eager, 1e-11)


@pytest.mark.parametrize(("pairs", "temperature", "dtype"), [
    ("all", 0.01, "float32"), ("bank", 0.1, "float32"),
    ("all", 0.05, "bfloat16"), ("all", 0.05, "float16"),
])  # fmt: skip
def test_within_the_error_budget(backend, set_tile, draw, pairs, temperature, dtype):
    """No further from the truth than the dense form in the same dtype, give or take a rounding."""
    set_tile(4)
    arrays = draw(3, k=9 if pairs == "bank" else None)
    arrays = [None if v is None else backend.rounded(v, dtype) for v in arrays]
    options = {"temperature": temperature, **scheme(pairs)}
    truth = loss_of(backend, arrays, "dense", **options)
    dense, tiled = (loss_of(backend, arrays, i, dtype, **options) for i in ("dense", "tiled"))
    kept = {"x": dtype, "y": dtype} | ({"bank": dtype} if pairs == "bank" else {})
    assert tiled.dtypes == {**kept, "loss": "float32"}
    assert tiled.loss == pytest.approx(truth.loss, rel=1e-5)
    for name, gradient in truth.grads.items():
        error, allowed = (np.abs(r.grads[name] - gradient).max() for r in (tiled, dense))
        assert error <= allowed + GRADIENT[dtype] * np.abs(gradient).max()


@pytest.mark.parametrize(
    ("size", "options"),
    [(1.0, {"temperature": 0.002}), (1e3, {"normalize": False}), (0.0, {"temperature": 0.01})],
    ids=["cold", "long", "zero"],
)
def test_scores_beyond_the_range_of_exp(backend, set_tile, size, options):
    """Duplicate, antipodal and orthogonal rows, float32: e^500, e^-500 and more; or no scores."""
    set_tile(4)
    x, y = np.zeros((2, 11, 5))
    x[:5, 0], y[3:, 0], x[5:, 1], y[:3, 1] = size, -size, size, size
    x[8], y[9] = -x[8], -y[9]
    got = loss_of(backend, (x, y, None), "tiled", "float32", **options)
    assert got.loss == pytest.approx(info_nce_reference(x, y, **options), rel=1e-5)
    close(got, loss_of(backend, (x, y, None), "dense", **options), 1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("argument", ["x", "y", "bank"])
def test_what_is_not_finite_shows_in_the_loss(backend, set_tile, draw, argument, value):
    """As in the dense form: NaN, and no error."""
    set_tile(4)
    arrays = dict(zip(("x", "y", "bank"), draw(0, k=9), strict=True))
    arrays[argument][5, 1] = value
    for implementation in ("dense", "tiled"):
        assert np.isnan(loss_of(backend, arrays.values(), implementation).loss)


@pytest.mark.parametrize(("n", "k"), [(2, None), (1, 9)])
def test_the_smallest_batches(backend, draw, n, k):
    """All in one tile."""
    x, y, bank = draw(0, n, k=k)
    x, y = (backend.array(v) for v in (x, y))
    given = {} if bank is None else {"bank": backend.array(bank)}
    got = backend.library.info_nce_loss(x, y, implementation="tiled", **given)
    want = info_nce_reference(backend.numpy(x), backend.numpy(y), bank=bank)
    assert float(got) == pytest.approx(want, rel=1e-12)
