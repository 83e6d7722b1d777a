"""Theorems about the loss that hold in every backend, and agreement of the backends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmicl_check import ADAPTERS
from fmicl_core import DIVERGENCES, FMICL, Gaussian, fmicl_reference
from fmicl_core.pairs import NEGATIVES

SUITABLE = [name for name, make in DIVERGENCES.items() if make().suitable]
seeds = st.integers(0, 2**32 - 1)
both = pytest.mark.parametrize("implementation", ["dense", "tiled"])
every_scheme = pytest.mark.parametrize("negatives", NEGATIVES)
some = settings(max_examples=5)
collapsing = pytest.mark.filterwarnings("ignore:.*known to collapse:UserWarning")


@both
@every_scheme
@some
@given(seed=seeds)
def test_permutation_rotation_and_scale(backend, draw, implementation, negatives, seed):
    objective = FMICL("kl", negatives=negatives)
    x, y, _ = draw(seed)
    rng = np.random.default_rng(seed)
    order, turn = rng.permutation(len(x)), np.linalg.qr(rng.normal(size=(5, 5)))[0]
    base = backend.evaluate(x, y, None, objective, implementation=implementation)
    moved = backend.evaluate(
        3.0 * x[order] @ turn, 0.1 * y[order] @ turn, None, objective,
        implementation=implementation,
    )  # fmt: skip
    assert moved.loss == pytest.approx(base.loss, rel=1e-11, abs=1e-11)
    np.testing.assert_allclose(3.0 * moved.grads["x"], base.grads["x"][order] @ turn, atol=1e-10)
    np.testing.assert_allclose(0.1 * moved.grads["y"], base.grads["y"][order] @ turn, atol=1e-10)


@both
@pytest.mark.parametrize("k", [None, 9])
@some
@given(seed=seeds)
def test_the_gradient_is_orthogonal_to_the_feature(backend, draw, implementation, k, seed):
    """Of normalised features, whose length does not count."""
    x, y, bank = draw(seed, k=k)
    got = backend.evaluate(x, y, bank, FMICL("js", negatives="all"), implementation=implementation)
    for name, feature in (("x", x), ("y", y), ("bank", bank)):
        if feature is not None:
            along = (got.grads[name] * feature).sum(axis=1)
            np.testing.assert_allclose(along, 0.0, atol=1e-10)


@both
@pytest.mark.parametrize("negatives", ["within", "cross", "all"])
@some
@given(seed=seeds)
def test_views_can_be_swapped(backend, draw, implementation, negatives, seed):
    objective = FMICL("js", Gaussian(0.3), 5.0, negatives)
    x, y, _ = draw(seed)
    one = backend.evaluate(x, y, None, objective, implementation=implementation)
    two = backend.evaluate(y, x, None, objective, implementation=implementation)
    assert two.loss == pytest.approx(one.loss, rel=1e-12)
    np.testing.assert_allclose(two.grads["x"], one.grads["y"], atol=1e-12)
    np.testing.assert_allclose(two.grads["y"], one.grads["x"], atol=1e-12)


def test_the_anchor_is_the_first_view(backend, draw):
    x, y, _ = draw(0)
    one, two = (backend.evaluate(*views, None, FMICL()) for views in ((x, y), (y, x)))
    assert abs(one.loss - two.loss) > 1e-3


@both
@some
@given(seed=seeds)
def test_the_parts_of_a_bank_add_up(backend, set_tile, draw, implementation, seed):
    set_tile(4)
    objective = FMICL("pearson", Gaussian(0.3))
    x, y, bank = draw(seed, k=9)
    whole, *parts = (
        backend.evaluate(x, y, part, objective, implementation=implementation)
        for part in (bank, bank[:6], bank[6:])
    )
    mean = sum(w * p.penalty for w, p in zip((6 / 9, 3 / 9), parts, strict=True))
    assert whole.penalty == pytest.approx(mean, rel=1e-12)
    weighted = [6 / 9 * parts[0].grads["bank"], 3 / 9 * parts[1].grads["bank"]]
    np.testing.assert_allclose(whole.grads["bank"], np.concatenate(weighted), atol=1e-12)


@both
@some
@given(seed=seeds)
def test_descent_reduces_the_loss(backend, draw, implementation, seed):
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


@collapsing
@both
def test_the_gradient_is_the_central_difference(backend, set_tile, few, draw, implementation):
    set_tile(4)
    rng = np.random.default_rng(5)
    arrays = dict(zip(("x", "y", "bank"), few.features(5, draw), strict=True))
    directions = {k: rng.normal(size=v.shape) for k, v in arrays.items() if v is not None}

    def at(step):
        moved = arrays | {k: arrays[k] + step * d for k, d in directions.items()}
        return backend.evaluate(**moved, objective=few.objective, implementation=implementation)

    products = [at(0.0).grads[k] * d for k, d in directions.items()]
    difference = (at(1e-5).loss - at(-1e-5).loss) / 2e-5
    size = sum(np.abs(p).sum() for p in products)
    assert difference == pytest.approx(sum(p.sum() for p in products), abs=1e-6 * size)


@pytest.mark.by_turns(torch=True)
@collapsing
@both
def test_compiled_equals_eager(backend, set_tile, few, draw, distance, implementation):
    set_tile(4)
    x, y, bank = few.features(6, draw)
    options = {"objective": few.objective, "implementation": implementation}
    eager, compiled = (backend.evaluate(x, y, bank, compiled=c, **options) for c in (False, True))
    assert distance(compiled, eager) < 1e-13


@both
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("negatives", "k"), [("anchor", None), ("all", None), ("anchor", 9)])
def test_a_user_s_divergence_and_kernel_work(
    backend, set_tile, draw, distance, cubic, quartic, negatives, k, compiled, implementation
):
    """Neither is known to the library: tests/conftest.py defines them in a dozen lines each."""
    set_tile(4)
    objective = FMICL(cubic, quartic, 2.0, negatives)
    x, y, bank = draw(9, k=k)
    got = backend.evaluate(
        x, y, bank, objective, implementation=implementation, compiled=compiled
    )  # fmt: skip
    assert distance(got, fmicl_reference(x, y, objective, bank)) < 1e-12


@collapsing
@both
@pytest.mark.parametrize("backend", [name for name in ADAPTERS if name != "torch"], indirect=True)
def test_frameworks_agree(
    backend, backend_named, set_tile, few, draw, distance, implementation
):  # fmt: skip
    """With PyTorch, in float64, each by way of its own arrays and derivatives; so with another."""
    set_tile(4)
    x, y, bank = few.features(4, draw)
    options = {"objective": few.objective, "implementation": implementation}
    want = backend_named("torch").evaluate(x, y, bank, **options)
    assert distance(backend.evaluate(x, y, bank, **options), want) < 5e-13
