"""What a JAX user relies on: jit, vmap, static specs, forward mode, Optax and Flax steps."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from fmicl_core import KL, Tsallis

jax = pytest.importorskip("jax", reason="these are tests of the JAX backend")
fmicl_jax = pytest.importorskip("fmicl_jax", reason="these are tests of the JAX backend")
both = pytest.mark.parametrize("implementation", ["dense", "tiled"])
both_losses = pytest.mark.parametrize("name", ["fmicl_loss", "info_nce_loss"])
#: InfoNCE in its dense form is plain code, with nothing of the framework to go wrong.
forms = pytest.mark.parametrize(
    ("name", "implementation"),
    [("fmicl_loss", "dense"), ("fmicl_loss", "tiled"), ("info_nce_loss", "tiled")],
)
tiled_related = pytest.importorskip("fmicl_jax.tiled_related", reason="as above")
jnp = jax.numpy
AUTO = jax.sharding.AxisType.Auto


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

    def penalty(self, L, ops):
        type(self).calls += 1
        return super().penalty(L, ops)

    def excess_and_slope(self, L, ops):
        type(self).calls += 1
        return super().excess_and_slope(L, ops)


def test_equal_specs_are_one_static_argument(views):
    traced = []

    @partial(jax.jit, static_argnames=("divergence", "alpha"))
    def step(x, y, **options):
        traced.append(options)
        return fmicl_jax.fmicl_loss(x, y, **options)

    for order in (1.5, 1.5, 2.5):
        step(*views, divergence=Tsallis(order), alpha=2.0)
    assert len(traced) == 2


def test_equal_loss_objects_are_one_argument_without_leaves(views):
    traced = []

    @jax.jit
    def step(loss, x, y):
        traced.append(loss)
        return loss(x, y)

    make = partial(fmicl_jax.FMICLLoss, divergence="tsallis", implementation="tiled")
    assert make() == make()
    assert hash(make()) == hash(make())
    assert jax.tree.leaves(make()) == []
    for loss in (make(), make(), replace(make(), alpha=2.0)):
        step(loss, *views)
    assert len(traced) == 2


@both
def test_an_alpha_that_changes_compiles_nothing_anew(views, implementation):
    traced = []

    @jax.jit
    def step(loss, x, y, alpha):
        traced.append(alpha)
        return loss(x, y) + fmicl_jax.fmicl_loss(x, y, alpha=alpha, implementation=implementation)

    make = partial(fmicl_jax.FMICLLoss, implementation=implementation)
    for alpha in (1.0, 2.0, 7.5):
        got = step(make(alpha=jnp.asarray(alpha)), *views, alpha)
        want = 2.0 * fmicl_jax.fmicl_loss(*views, alpha=alpha)
        assert float(got) == pytest.approx(float(want), rel=1e-12)
    assert len(traced) == 1
    loss = make(alpha=jnp.asarray(3.0))
    assert jax.tree.leaves(loss) == [3.0]
    assert jax.tree.map(lambda leaf: 2.0 * leaf, loss).objective.alpha == 6.0


def test_what_a_loss_was_made_with_does_not_change():
    for name, value in (("alpha", 10.0), ("divergence", "js"), ("objective", None)):
        with pytest.raises(AttributeError):
            setattr(fmicl_jax.FMICLLoss(), name, value)


def test_the_function_itself_takes_static_names(views):
    loss = jax.jit(fmicl_jax.fmicl_loss, static_argnames=("divergence", "implementation"))
    got = loss(*views, divergence="js", implementation="tiled")
    assert got == pytest.approx(float(fmicl_jax.fmicl_loss(*views, divergence="js")), rel=1e-12)


def test_outside_of_jit_equal_specs_share_a_compiled_sweep(views):
    def once(alpha):
        loss = partial(fmicl_jax.fmicl_loss, divergence=Counting(), implementation="tiled")
        return jax.grad(partial(loss, alpha=alpha))(*views)

    once(1.0)
    before = Counting.calls
    assert before > 0
    once(1.0)
    once(2.0)  # alpha is not part of the sweep: a schedule of it does not compile anew
    assert Counting.calls == before


@both_losses
def test_the_trace_does_not_grow_with_the_batch(name):
    def equations(n):
        rows = jax.ShapeDtypeStruct((n, 4), jnp.float32)
        loss = partial(getattr(fmicl_jax, name), implementation="tiled", negatives="all")
        return len(re.findall(r" = ", str(jax.make_jaxpr(jax.grad(loss))(rows, rows))))

    assert equations(16) == equations(800)


def test_info_nce_is_not_compiled_anew_for_another_temperature(draw, monkeypatch):
    x, y = (jnp.asarray(v) for v in draw(0, 6, 2)[:2])  # of a shape that no other test compiles
    traced = []
    blocks = tiled_related.info_nce_blocks
    monkeypatch.setattr(tiled_related, "info_nce_blocks", lambda *a: traced.append(a) or blocks(*a))
    for temperature in (0.5, 0.5, 0.1):
        loss = partial(fmicl_jax.info_nce_loss, temperature=temperature, implementation="tiled")
        jax.grad(loss)(x, y)
    assert len(traced) == 2  # the two passes


@forms
def test_vmap_equals_a_loop(draw, name, implementation):
    """Of the loss and of its gradient, jitted or not, over one argument or both."""
    x, y = (jnp.asarray(v).reshape(3, 7, 5) for v in draw(1, 21)[:2])
    loss = partial(getattr(fmicl_jax, name), implementation=implementation, negatives="all")
    run = jax.jit(jax.value_and_grad(loss, argnums=1))
    values, gradients = zip(*(run(a, b) for a, b in zip(x, y, strict=True)), strict=True)
    close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)
    close(jax.vmap(loss)(x, y), values)
    close(jax.jit(jax.vmap(jax.grad(loss, argnums=1)))(x, y), gradients)
    close(jax.jit(jax.grad(lambda y: jax.vmap(loss)(x, y).sum()))(y), gradients)
    close(jax.jit(jax.vmap(loss, in_axes=(0, None)))(x, y[0])[0], values[0])


@forms
def test_forward_mode_is_the_gradient_times_the_tangent(views, name, implementation):
    loss = partial(getattr(fmicl_jax, name), implementation=implementation, negatives="all")
    x, y = views
    tangents = jnp.cos(x), jnp.sin(y)
    _, slope = jax.jit(partial(jax.jvp, loss))(views, tangents)
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, y)
    want = sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))
    assert slope == pytest.approx(float(want), rel=1e-12)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(loss))(x, y), gradients[0], atol=1e-12)


@both
def test_a_mesh_of_one_device_is_no_mesh(views, implementation):
    loss = partial(fmicl_jax.fmicl_loss, negatives="all", implementation=implementation)
    mesh, rows = (
        jax.make_mesh((1,), ("batch",), axis_types=(AUTO,)),
        jax.sharding.PartitionSpec("batch"),
    )
    mapped = jax.shard_map(
        partial(loss, axis_name="batch"), mesh=mesh, in_specs=(rows, rows),
        out_specs=jax.sharding.PartitionSpec(),
    )  # fmt: skip
    want, got = (jax.jit(jax.value_and_grad(f))(*views) for f in (loss, mapped))
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12)
    np.testing.assert_allclose(got[1], want[1], atol=1e-12)


@both
def test_terms_are_differentiable_one_by_one(views, implementation):
    terms = jax.jacrev(partial(fmicl_jax.fmicl_terms, implementation=implementation))(*views)
    want = 40.0 * terms.penalty - terms.score
    np.testing.assert_allclose(terms.loss, want, atol=1e-12)


@both
def test_scan_and_remat(views, implementation):
    loss = partial(fmicl_jax.fmicl_loss, implementation=implementation)
    want = jax.grad(loss)(*views)
    np.testing.assert_allclose(jax.grad(jax.checkpoint(loss))(*views), want, atol=1e-13)

    def steps(x):
        return jax.lax.scan(lambda total, _: (total + loss(x, views[1]), None), 0.0, None, 3)[0]

    np.testing.assert_allclose(jax.grad(steps)(views[0]), 3 * want, atol=1e-12)


def test_dense_has_second_derivatives(views):
    loss = partial(fmicl_jax.fmicl_loss, divergence="vlc", implementation="dense")
    x, y = views
    slope = jax.jit(jax.grad(loss))
    ahead, behind = (slope(x + s * jnp.cos(x), y) for s in (1e-5, -1e-5))
    curved = jnp.einsum("ijkl,kl->ij", jax.jit(jax.hessian(loss))(x, y), jnp.cos(x))
    np.testing.assert_allclose(curved, (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-8)


@both_losses
@pytest.mark.parametrize("second", [
    jax.hessian,
    lambda f: jax.grad(lambda x, y: jax.grad(f)(x, y).sum()),
    lambda f: lambda x, y: jax.jvp(jax.grad(f), (x, y), (x, y)),
    lambda f: jax.jit(jax.hessian(f)),
], ids=["hessian", "grad of grad", "jvp of grad", "jit of hessian"])  # fmt: skip
def test_tiled_refuses_a_second_derivative_and_says_what_to_do(views, second, name):
    loss = partial(getattr(fmicl_jax, name), implementation="tiled")
    with pytest.raises(RuntimeError, match=r"use implementation='dense'"):
        second(loss)(*views)


@both_losses
def test_auto_is_dense_for_small_batches_and_tiled_for_large_ones(name):
    def gradient_of_gradient(n):
        rows = jax.ShapeDtypeStruct((n, 4), jnp.float32)
        jax.eval_shape(jax.hessian(getattr(fmicl_jax, name)), rows, rows)

    gradient_of_gradient(512)
    with pytest.raises(RuntimeError, match=r"use implementation='dense'"):
        gradient_of_gradient(513)


@both_losses
def test_tiled_keeps_linear_memory_for_the_backward_pass(name):
    def saved(n, implementation):
        rows = jnp.ones((n, 16), jnp.float32)
        loss = partial(getattr(fmicl_jax, name), negatives="cross", implementation=implementation)
        kept = jax.tree.leaves(jax.eval_shape(lambda x, y: jax.vjp(loss, x, y)[1], rows, rows))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in kept)

    assert saved(512, "tiled") < 20 * 512 * 16 * 4
    assert saved(512, "tiled") < 2.2 * saved(256, "tiled")
    assert saved(512, "dense") > 3.0 * saved(256, "dense")


def test_without_x64_everything_is_float32(draw):
    with jax.enable_x64(False):
        x, y, _ = draw(0)
        loss, gradient = jax.value_and_grad(fmicl_jax.fmicl_loss)(jnp.asarray(x), jnp.asarray(y))
        assert (loss.dtype, gradient.dtype) == (jnp.float32, jnp.float32)
        assert float(fmicl_jax.fmicl_loss(x, y)) == float(loss)  # NumPy's float64 is narrowed


def test_while_tracing_nan_shows_in_the_loss_and_sizes_must_be_known(views):
    x, y = views
    assert jnp.isnan(jax.jit(fmicl_jax.fmicl_loss)(x * jnp.nan, y))
    with pytest.raises(ValueError, match=r"`y`. Expected the shape of `x`, \(11, 5\)"):
        jax.jit(fmicl_jax.fmicl_loss)(x, y[:4])
    rows = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n, 5"), jnp.float32)
    with pytest.raises(ValueError, match=r"`x`. Expected sizes that are known while tracing"):
        jax.export.export(jax.jit(fmicl_jax.fmicl_loss))(rows, rows)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_drops_into_a_flax_and_optax_step(require, draw, dtype):
    """The step is written for any loss of two views; InfoNCE and f-MICL go in as they are."""
    nnx, optax = require("flax.nnx"), require("optax")
    traced = []

    @nnx.jit
    def step(model, optimizer, x, y, loss):
        traced.append(loss)
        value, gradient = nnx.value_and_grad(lambda m: loss(m(x), m(y)))(model)
        optimizer.update(model, gradient)
        return value

    x, y = (jnp.asarray(v, jnp.float32) for v in draw(2)[:2])
    model = nnx.Linear(5, 4, dtype=dtype, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.05), wrt=nnx.Param)
    loss = partial(fmicl_jax.FMICLLoss, divergence="js", implementation="tiled")
    values = [step(model, optimizer, x, y, loss()) for _ in range(20)]
    assert len(traced) == 1
    assert values[0].dtype == jnp.float32
    assert values[-1] < values[0] - 0.1
