"""Scale, bias, temperature and alpha in JAX: traced, mapped, differentiated twice, and learned."""

from functools import partial

import numpy as np
import pytest

from fmicl_core import KL

jax = pytest.importorskip("jax", reason="these are tests of the JAX backend")
fmicl_jax = pytest.importorskip("fmicl_jax", reason="these are tests of the JAX backend")
tiled_related = pytest.importorskip("fmicl_jax.tiled_related", reason="as above")
jnp = jax.numpy
#: The dense form is plain code, with little of the framework to go wrong.
both = pytest.mark.parametrize(
    "implementation", ["tiled", pytest.param("dense", marks=pytest.mark.slow)]
)
#: A scale and a bias, an alpha, and temperatures.
SCALARS = {"logit_scale": 2.5, "logit_bias": -1.5}
NUMBERS = ((2.5, -1.5, 3.0), (0.7, 0.5, 1.0), (9.0, -9.0, 40.0))
TEMPERATURES = (0.5, 0.07, 2.0)


@pytest.fixture(autouse=True)
def small_tiles(backend_named, set_tile):
    backend_named("jax")  # with 64 bits
    set_tile(4)


@pytest.fixture
def views(draw):
    return tuple(jnp.asarray(v) for v in draw(0)[:2])


class Counting(KL):
    """KL that counts how often it is traced or run."""

    calls = 0

    def excess_and_slope(self, L, ops):
        type(self).calls += 1
        return super().excess_and_slope(L, ops)


@both
def test_scalars_that_change_are_traced_once(views, implementation):
    """As arguments, of which JAX makes weak types where they are Python's, and in an object."""
    traced = []
    form = {"implementation": implementation}

    @jax.jit
    def step(loss, x, y, scale, bias, alpha, temperature):
        traced.append(scale)
        more = {"logit_scale": scale, "logit_bias": bias}
        total = loss(x, y) + fmicl_jax.fmicl_loss(x, y, alpha=alpha, **more, **form)
        return total + fmicl_jax.dcl_loss(x, y, temperature=temperature, **form)

    for (scale, bias, alpha), temperature in zip(NUMBERS, TEMPERATURES, strict=True):
        more = {"logit_scale": jnp.asarray(scale), "logit_bias": jnp.asarray(bias)}
        loss = fmicl_jax.FMICLLoss(alpha=jnp.asarray(alpha), **more, **form)
        got = step(loss, *views, scale, bias, alpha, temperature)
        want = 2.0 * fmicl_jax.fmicl_loss(*views, alpha=alpha, **more, implementation="dense")
        want += fmicl_jax.dcl_loss(*views, temperature=temperature, implementation="dense")
        assert float(got) == pytest.approx(float(want), rel=1e-11)
    assert len(traced) == 1


def test_outside_of_jit_they_share_a_compiled_sweep(views):
    """Numbers or arrays, with a gradient in the features or in the scalars as well."""

    def of(x, scale, bias, alpha):
        return fmicl_jax.fmicl_loss(
            x, views[1], divergence=Counting(), alpha=alpha, logit_scale=scale, logit_bias=bias,
            implementation="tiled",
        )  # fmt: skip

    def count(how, kind):
        for numbers in NUMBERS:
            how(of)(views[0], *map(kind, numbers))
        return Counting.calls

    before = Counting.calls
    alone = count(jax.grad, float)
    assert alone > before
    assert count(jax.grad, jnp.asarray) == alone
    learned = count(partial(jax.grad, argnums=(0, 1, 2, 3)), float)
    assert learned > alone
    assert count(partial(jax.grad, argnums=(0, 1, 2, 3)), jnp.asarray) == learned


def test_info_nce_is_compiled_once_for_temperatures_and_scales(draw, monkeypatch):
    x, y = (jnp.asarray(v) for v in draw(0, 6, 2)[:2])  # of a shape that no other test compiles
    traced = []
    blocks = tiled_related.info_nce_blocks
    monkeypatch.setattr(tiled_related, "info_nce_blocks", lambda *a: traced.append(a) or blocks(*a))

    def of(x, name, value):
        options = {name: value, "implementation": "tiled", "negatives": "cross"}
        return fmicl_jax.info_nce_loss(x, y, **options)

    for name in ("temperature", "logit_scale"):
        for kind in (float, jnp.asarray):
            for value in TEMPERATURES:
                jax.grad(of)(x, name, kind(value))
    assert len(traced) == 2  # the two passes
    jax.grad(of, argnums=2)(x, "temperature", 0.3)
    assert len(traced) == 3  # a gradient in y as well, which has the temperature in its rows


@both
def test_vmap_over_scalars_equals_a_loop(views, implementation):
    """As in a search for the best of several scales."""
    loss = partial(fmicl_jax.siglip_loss, implementation=implementation)

    def of(scale, bias, x):
        return loss(x, views[1], logit_scale=scale, logit_bias=bias)

    run = jax.value_and_grad(of, argnums=(0, 1, 2))
    scales, biases = jnp.array([1.5, 8.0]), jnp.array([-1.0, -6.0])
    got = jax.jit(jax.vmap(run, in_axes=(0, 0, None)))(scales, biases, views[0])
    once = jax.jit(run)
    for i, numbers in enumerate(zip(scales, biases, strict=True)):
        want = once(*numbers, views[0])
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), [
    ("fmicl_loss", {"divergence": "js", **SCALARS}),
    ("dcl_loss", {"temperature": 0.4}),
    pytest.param("clip_loss", {"logit_scale": 3.0}, marks=pytest.mark.slow),
])  # fmt: skip
def test_forward_mode_is_the_gradient_times_the_tangent(views, name, options):
    def of(x, scalars):
        return getattr(fmicl_jax, name)(x, views[1], implementation="tiled", **scalars)

    scalars = {k: jnp.asarray(v) for k, v in options.items() if k != "divergence"}
    fixed = {k: v for k, v in options.items() if k not in scalars}
    function = lambda x, scalars: of(x, scalars | fixed)  # noqa: E731
    moved = jnp.cos(views[0]), jax.tree.map(lambda v: 0.3 * v, scalars)
    _, slope = jax.jit(partial(jax.jvp, function))((views[0], scalars), moved)
    gradients = jax.jit(jax.grad(function, argnums=(0, 1)))(views[0], scalars)
    parts = jax.tree.map(lambda g, t: (g * t).sum(), gradients, moved)
    assert slope == pytest.approx(float(sum(jax.tree.leaves(parts))), rel=1e-11)


def test_dense_has_second_derivatives_in_scalars(views):
    def of(scalars):
        return fmicl_jax.fmicl_loss(
            *views, divergence="js", logit_scale=scalars[0], logit_bias=scalars[1],
            implementation="dense",
        )  # fmt: skip

    at, slope = jnp.array([2.5, -1.5]), jax.jit(jax.grad(of))
    curved = jax.jit(jax.hessian(of))(at)
    for i, step in enumerate(1e-5 * jnp.eye(2)):
        want = (slope(at + step) - slope(at - step)) / 2e-5
        np.testing.assert_allclose(curved[i], want, rtol=1e-6)


def test_tiled_refuses_a_second_derivative_in_a_bias_and_says_what_to_do(views):
    def of(bias):
        return fmicl_jax.fmicl_loss(*views, logit_bias=bias, implementation="tiled")

    with pytest.raises(RuntimeError, match=r"use implementation='dense'"):
        jax.hessian(of)(0.5)


def test_tiled_keeps_linear_memory_for_the_backward_pass_of_scalars():
    def saved(n):
        rows = jax.ShapeDtypeStruct((n, 16), jnp.float32)
        number = jax.ShapeDtypeStruct((), jnp.float32)

        def of(x, y, scale, bias):
            return fmicl_jax.siglip_loss(
                x, y, logit_scale=scale, logit_bias=bias, implementation="tiled"
            )

        kept = jax.eval_shape(lambda *a: jax.vjp(of, *a)[1], rows, rows, number, number)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))

    assert saved(512) < 2.2 * saved(256)


def test_scalars_of_other_dtypes_leave_that_of_the_loss(views):
    """Numbers of Python, NumPy and JAX beside float32 rows, with 64 bits or without."""
    x, y = (np.asarray(v, np.float32) for v in views)
    for wide in (True, False):
        with jax.enable_x64(wide):
            want = fmicl_jax.fmicl_loss(x, y, alpha=3.0, logit_scale=2.0, logit_bias=-1.0)
            for kind in (int, np.float64, np.array, jnp.int32):
                numbers = {"alpha": kind(3), "logit_scale": kind(2), "logit_bias": kind(-1)}
                got = fmicl_jax.fmicl_loss(x, y, **numbers)
                assert got.dtype == jnp.float32
                assert float(got) == pytest.approx(float(want), rel=1e-6)
    half = fmicl_jax.info_nce_loss(x, y, temperature=jnp.bfloat16(0.3))
    exact = fmicl_jax.info_nce_loss(x, y, temperature=float(jnp.bfloat16(0.3)))
    assert half.dtype == jnp.float32
    assert float(half) == pytest.approx(float(exact), rel=1e-6)


def test_an_object_has_the_scalars_that_are_arrays_as_leaves(views):
    loss = fmicl_jax.FMICLLoss(logit_scale=jnp.asarray(2.0), alpha=3, logit_bias=-1)
    assert jax.tree.leaves(loss) == [2.0]
    twice = jax.tree.map(lambda leaf: 2.0 * leaf, loss)
    assert (twice.alpha, twice.logit_scale, twice.logit_bias) == (3.0, 4.0, -1.0)
    assert (twice.objective.logit_scale, twice.objective.logit_bias) == (4.0, -1.0)
    learned = jax.grad(lambda loss: loss(*views))(loss)
    function = partial(fmicl_jax.fmicl_loss, *views, alpha=3.0, logit_bias=-1.0)
    want = jax.grad(lambda scale: function(logit_scale=scale))(2.0)
    assert float(learned.logit_scale) == pytest.approx(float(want), rel=1e-12)


def test_an_object_prints_the_scalars_that_were_given():
    assert "logit" not in repr(fmicl_jax.FMICLLoss())
    shown = repr(fmicl_jax.FMICLLoss(alpha=3, logit_bias=-1))
    assert "alpha=3.0, logit_bias=-1.0, negatives" in shown


def test_scale_and_bias_learn_in_a_training_step(require, draw):
    """SigLIP's towers, and its scale as the logarithm that its authors learn."""
    optax, traced = require("optax"), []
    x, y, _ = draw(2, 24, 5)
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    start = {"tower": jnp.eye(5), "log_scale": jnp.log(10.0), "bias": jnp.array(-10.0)}
    learned = jax.tree.map(lambda v: v.astype(jnp.float32), start)
    optimizer = optax.adam(0.05)

    @jax.jit
    def step(learned, state):
        traced.append(state)

        def of(p):
            scale = jnp.exp(p["log_scale"])
            return fmicl_jax.siglip_loss(
                x @ p["tower"], y @ p["tower"], logit_scale=scale, logit_bias=p["bias"],
                implementation="tiled",
            )  # fmt: skip

        value, gradient = jax.value_and_grad(of)(learned)
        moves, state = optimizer.update(gradient, state)
        return optax.apply_updates(learned, moves), state, value

    state, values = optimizer.init(learned), []
    for _ in range(40):
        learned, state, value = step(learned, state)
        values.append(float(value))
    assert len(traced) == 1
    assert values[-1] < values[0] - 0.2
    assert abs(float(learned["bias"]) + 10.0) > 0.1
    assert abs(float(learned["log_scale"]) - np.log(10.0)) > 0.1


@both
def test_a_decoupled_softmax_without_a_negative_is_said(views, draw, implementation):
    """Its sum is empty; of a bank that has the ids of some anchors only, rows may have none."""
    bank = jnp.asarray(draw(1)[0])
    ids, bank_ids = jnp.arange(11), jnp.full(11, 3)
    with pytest.raises(ValueError, match=r"`bank_ids`. Expected a row of the bank whose id"):
        fmicl_jax.dcl_loss(
            *views, bank=bank, ids=ids, bank_ids=bank_ids, implementation=implementation
        )
