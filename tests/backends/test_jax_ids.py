"""Pairs by id in JAX: jit, vmap, forward mode, and ids wider than its whole numbers."""

from functools import partial

import numpy as np
import pytest

from fmicl_core import KL

jax = pytest.importorskip("jax", reason="these are tests of the JAX backend")
fmicl_jax = pytest.importorskip("fmicl_jax", reason="these are tests of the JAX backend")
tiles = pytest.importorskip("fmicl_jax.tiles", reason="as above")
jnp = jax.numpy
forms = pytest.mark.parametrize(
    ("name", "implementation"),
    [("fmicl_loss", "dense"), ("fmicl_loss", "tiled"), ("info_nce_loss", "tiled")],
)
IDS = np.array([4, -7, 4, 1, 9, 4, 1, 300, 1, 4, 9])
BANK_IDS = np.array([9, 5, 4, 6, 4, 5, 4, 8, 9])


@pytest.fixture(autouse=True)
def small_tiles(backend_named, set_tile):
    backend_named("jax")  # with 64 bits
    set_tile(4)


@pytest.fixture
def x(draw):
    return jnp.asarray(draw(0)[0])


class Counting(KL):
    """KL that counts how often it is traced or run."""

    calls = 0

    def excess_and_slope(self, L, ops):
        type(self).calls += 1
        return super().excess_and_slope(L, ops)

    def score_slope(self, L, ops):
        type(self).calls += 1
        return super().score_slope(L, ops)


def test_other_ids_of_the_same_shape_compile_nothing_anew(x):
    traced = []

    @jax.jit
    def step(x, ids):
        traced.append(ids)
        return fmicl_jax.fmicl_loss(x, ids=ids, implementation="tiled")

    def outside_of_jit(ids):
        return jax.grad(fmicl_jax.FMICLLoss(divergence=Counting(), implementation="tiled"))(
            x, ids=ids
        )

    step(x, IDS)
    outside_of_jit(IDS)
    before = Counting.calls
    assert before > 0
    for ids in (IDS[::-1].copy(), 2**40 * IDS, np.array([0, 0, *range(1, 10)])):
        step(x, ids)
        outside_of_jit(ids)
    assert (len(traced), Counting.calls) == (1, before)


@forms
def test_vmap_over_features_and_ids_equals_a_loop(x, name, implementation):
    many = jnp.stack([x, 0.5 * x[::-1]])
    ids = jnp.stack([jnp.asarray(IDS), jnp.asarray(IDS[::-1] % 3)])
    loss = partial(getattr(fmicl_jax, name), implementation=implementation)

    def run(x, ids):
        return jax.value_and_grad(lambda x: loss(x, ids=ids))(x)

    want = [jax.jit(run)(*each) for each in zip(many, ids, strict=True)]
    batched = jax.jit(jax.vmap(run))(many, ids)
    for got, truth in zip(batched, zip(*want, strict=True), strict=True):
        np.testing.assert_allclose(got, truth, rtol=1e-10, atol=1e-12)
    shared = jax.jit(jax.vmap(run, in_axes=(0, None)))(many, ids[0])
    np.testing.assert_allclose(shared[1][0], want[0][1], rtol=1e-10, atol=1e-12)


@forms
def test_forward_mode_is_the_gradient_times_the_tangent(draw, name, implementation):
    loss = partial(getattr(fmicl_jax, name), implementation=implementation, negatives="all")
    views, ids = [jnp.asarray(v) for v in draw(0)[:2]], jnp.asarray(IDS)
    tangents = [jnp.cos(v) for v in views]
    loss = partial(loss, ids=ids)
    _, slope = jax.jit(partial(jax.jvp, loss))(views, tangents)
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(*views)
    want = sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))
    assert slope == pytest.approx(float(want), rel=1e-12)


def test_second_derivatives_of_the_dense_form_see_no_pair_that_does_not_count(x):
    """Two rows coincide, where the slope of a Laplace kernel in their distance is infinite."""
    x = x.at[2].set(x[0])
    options = {"similarity": "laplace", "implementation": "dense", "positives": "pair"}
    loss = partial(fmicl_jax.fmicl_loss, ids=jnp.asarray(IDS), **options)
    y = jnp.roll(x, 4, axis=0)
    slope = jax.jit(jax.grad(lambda v: loss(v, y)))
    _, curved = jax.jit(partial(jax.jvp, slope))((x,), (jnp.cos(x),))
    ahead, behind = (slope(x + s * jnp.cos(x)) for s in (1e-5, -1e-5))
    np.testing.assert_allclose(curved, (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-7)
    with pytest.raises(RuntimeError, match=r"use implementation='dense'"):
        jax.hessian(lambda v: fmicl_jax.fmicl_loss(v, ids=IDS, implementation="tiled"))(x)


@pytest.mark.parametrize("bits", [False, True])
def test_ids_wider_than_jax_s_whole_numbers_do_not_collide(draw, bits):
    """NumPy's 64 bits of which the lower 32 are alike, without x64, beside ids of other dtypes."""
    x, _, bank = (v if v is None else v.astype(np.float32) for v in draw(0, k=9))
    with jax.enable_x64(bits):
        loss = partial(fmicl_jax.fmicl_loss, x, bank=bank, implementation="dense")
        want = float(loss(ids=IDS, bank_ids=BANK_IDS))
        assert float(loss(ids=IDS * 2**32, bank_ids=BANK_IDS * 2**32)) == want
        small = jnp.asarray(BANK_IDS, jnp.int8)
        assert float(loss(ids=np.where(IDS == 300, 2**32 + 4, IDS), bank_ids=small)) == want
        unsigned = np.where(IDS < 0, 2**32 - 7, IDS).astype(np.uint32)
        assert float(loss(ids=unsigned, bank_ids=np.where(BANK_IDS == 5, -7, BANK_IDS))) == want
        assert float(jax.jit(loss)(ids=IDS, bank_ids=small)) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("name", ["fmicl_loss", "info_nce_loss"])
def test_while_tracing_ids_that_leave_no_pair_give_nan(x, name):
    loss = jax.jit(lambda x, ids: getattr(fmicl_jax, name)(x, ids=ids))
    assert jnp.isfinite(loss(x, jnp.asarray(IDS)))
    for ids in (jnp.zeros(11, int), jnp.arange(11)):
        assert jnp.isnan(loss(x, ids))


@pytest.mark.parametrize("name", ["fmicl_loss", "info_nce_loss"])
def test_tiled_keeps_linear_memory_for_the_backward_pass(name):
    def saved(n):
        rows, ids = jnp.ones((n, 16), jnp.float32), jnp.arange(n, dtype=jnp.int32) // 2
        loss = partial(getattr(fmicl_jax, name), ids=ids, implementation="tiled")
        kept = jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(loss, x)[1], rows))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in kept)

    assert saved(512) < 20 * 512 * 16 * 4
    assert saved(512) < 2.2 * saved(256)


def test_positives_are_looked_for_in_tiles_that_can_have_them():
    numbers = jnp.array([0, 0, 0, 3, 3, 5, 5, 5, 5, 9, 10])  # in tiles of 4, 4 and 3
    sides = tiles.tile_numbers((numbers, None), 4)
    visited = jnp.zeros((3, 3), int)
    for symmetric, want in ((True, [[1, 1, 0], [0, 1, 1], [0, 0, 1]]),
                            (False, [[1, 1, 0], [1, 1, 1], [0, 1, 1]])):  # fmt: skip
        got = tiles.over_meeting_tiles(
            sides, symmetric, lambda seen, i, j: seen.at[i, j].add(1), visited
        )
        np.testing.assert_array_equal(got, want)
    apart = tiles.tile_numbers((numbers, 20 + numbers), 4)
    got = tiles.over_meeting_tiles(apart, False, lambda seen, i, j: seen + 1, visited)
    assert not got.any()
