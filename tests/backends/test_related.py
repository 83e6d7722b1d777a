"""InfoNCE and the other related losses equal their references, value and slope."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmicl_core import related

CASES = [
    ("info_nce", {}, None),
    ("info_nce", {"negatives": "cross", "temperature": 0.1}, None),
    ("info_nce", {"negatives": "anchor"}, None),
    ("info_nce", {"negatives": "within", "normalize": False}, None),
    ("info_nce", {}, 9),
    ("alignment_uniformity", {}, None),
    ("alignment_uniformity", {"t": 1.0, "uniformity_weight": 0.3}, None),
    ("alignment_uniformity", {"exponent": 3.0, "normalize": False}, None),
    ("alignment_uniformity", {"exponent": 0.7}, None),
    ("spectral_contrastive", {}, None),
    ("spectral_contrastive", {"normalize": False}, None),
]


@pytest.mark.parametrize(("name", "options", "k"), CASES, ids=str)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1))
def test_related_losses_equal_their_references(backend, draw, name, options, k, seed):
    x, y, bank = draw(seed, k=k)
    x, y = 0.5 * x, 0.5 * y
    got = backend.call(f"{name}_loss", {"x": x, "y": y, "bank": bank}, **options)
    fixed = options if bank is None else {**options, "bank": bank}
    reference = getattr(related, f"{name}_reference")
    assert got.loss == pytest.approx(reference(x, y, **fixed), rel=1e-11, abs=1e-11)
    direction = np.random.default_rng(seed).normal(size=x.shape)
    ahead, behind = (reference(x + s * direction, y, **fixed) for s in (1e-6, -1e-6))
    slope = (got.grads["x"] * direction).sum()
    assert (ahead - behind) / 2e-6 == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ["info_nce", "alignment_uniformity", "spectral_contrastive"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_related_losses_compute_in_float32(backend, draw, name, dtype):
    x, y = (backend.rounded(v, dtype) for v in draw(1)[:2])
    got = backend.call(f"{name}_loss", {"x": x, "y": y}, dtype)
    assert got.dtypes == {"x": dtype, "y": dtype, "loss": "float32"}
    want = getattr(related, f"{name}_reference")(x, y)
    assert got.loss == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
def test_a_pair_that_coincides_has_the_slope_of_its_uniformity_alone(backend, draw, exponent):
    x, y, _ = draw(2)
    y[3] = x[3]
    call = lambda x, y: backend.call(  # noqa: E731
        "alignment_uniformity_loss", {"x": x, "y": y}, exponent=exponent, normalize=False
    )
    got = call(x, y)
    assert got.loss == pytest.approx(
        related.alignment_uniformity_reference(x, y, exponent=exponent, normalize=False)
    )
    if exponent < 2.0:  # the uniformity of x does not know y
        twin = y + np.eye(11)[:, 3:4] * np.linspace(1.0, 2.0, 5)
        pull = 2.0 * exponent  # any function of the pair is symmetric about y = x
        both = [call(x, y_).grads["x"][3] for y_ in (twin, 2.0 * y - twin)]
        np.testing.assert_allclose(got.grads["x"][3], np.mean(both, axis=0), atol=1e-12 * pull)
    assert all(np.isfinite(g).all() for g in got.grads.values())
