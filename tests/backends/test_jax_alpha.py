"""alpha = "auto" in JAX: static, traced once, found of constants, the same in every form."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from fmicl_core import KL, Gaussian

jax = pytest.importorskip("jax", reason="these are tests of the JAX backend")
fmicl_jax = pytest.importorskip("fmicl_jax", reason="these are tests of the JAX backend")
fused = pytest.importorskip("fmicl_jax.fused", reason="as above")
tiled = pytest.importorskip("fmicl_jax.tiled", reason="as above")
jnp = jax.numpy
AUTO = {"alpha": "auto", "strength": 2.0}
both = pytest.mark.parametrize("implementation", ["dense", "tiled"])


@pytest.fixture(autouse=True)
def small_tiles(backend_named, set_tile):
    backend_named("jax")  # with 64 bits
    set_tile(4)


@pytest.fixture
def views(draw):
    return tuple(jnp.asarray(v) for v in draw(0)[:2])


@pytest.fixture
def sweeps(monkeypatch):
    """Whether a sweep is one for u, and the gradients wanted of it, of all that are traced."""
    seen, swept = [], tiled.sweep_ordered

    def noting(left, right, bias, numbers, weights, plan, wanted):
        seen.append((plan.pairwise.divergence == KL(), any(wanted)))
        return swept(left, right, bias, numbers, weights, plan, wanted)

    monkeypatch.setattr(tiled, "sweep_ordered", noting)
    return seen


def test_an_object_is_static_and_traced_once(views):
    """Batches of another mean u are no other program, another strength is one."""
    traced, make = [], partial(fmicl_jax.FMICLLoss, alpha="auto", divergence="js")

    @jax.jit
    def step(loss, x, y):
        traced.append(loss)
        return loss.terms(x, y)

    assert make() == make(strength=5)
    assert hash(make()) == hash(make(strength=5))
    assert jax.tree.leaves(make()) == []
    assert (make().alpha, make().objective.strength) == ("auto", 5.0)
    found = [step(loss, s * views[0] + 1.0, views[1]) for loss in (make(), make(strength=5.0))
             for s in (0.5, 2.0)]  # fmt: skip
    assert found[0].alpha == found[2].alpha != found[1].alpha
    assert len(traced) == 1
    assert step(make(strength=10.0), *views).alpha == 2.0 * step(make(), *views).alpha
    assert len(traced) == 2


def test_an_object_with_a_scale_that_learns_has_that_leaf_alone(views):
    loss = fmicl_jax.FMICLLoss(**AUTO, divergence="js", logit_scale=jnp.asarray(2.0))
    assert jax.tree.leaves(loss) == [2.0]
    slope = jax.jit(jax.grad(lambda loss: loss(*views)))(loss).logit_scale
    fixed = replace(loss, alpha=float(loss.terms(*views).alpha), strength=None)
    want = jax.jit(jax.grad(lambda loss: loss(*views)))(fixed).logit_scale
    assert float(slope) == pytest.approx(float(want), rel=1e-12)
    assert replace(fixed, logit_scale=3.0).objective.logit_scale == 3.0
    assert "alpha='auto', strength=2.0, logit_scale" in repr(loss)


@pytest.mark.parametrize(("width", "mode"), [(3, jax.jit), (4, lambda step: step)])
def test_no_gradient_is_made_of_u(draw, sweeps, width, mode):
    x, y = (jnp.asarray(v) for v in draw(0, 7, width)[:2])  # of shapes that no other test compiles
    options = {"implementation": "tiled", "negatives": "all", "divergence": "vlc"}

    def of(x, y, bias):
        return fmicl_jax.fmicl_loss(x, y, logit_bias=bias, **AUTO, **options)

    mode(jax.grad(of, argnums=(0, 1, 2)))(x, y, 0.5)
    assert {wanted for of_u, wanted in sweeps if of_u} == {False}
    assert {wanted for of_u, wanted in sweeps if not of_u} == {True}


def test_of_kl_the_penalty_is_u_and_nothing_is_swept_twice(draw, sweeps):
    x, y = (jnp.asarray(v) for v in draw(0, 7, 2)[:2])  # of a shape that no other test compiles
    step = partial(fmicl_jax.fmicl_loss, implementation="tiled")
    jax.jit(jax.grad(partial(step, **AUTO)))(x, y)
    assert sweeps == [(True, True)]


@both
def test_second_derivatives_and_forward_mode_take_the_weight_for_a_constant(views, implementation):
    loss = partial(fmicl_jax.fmicl_loss, divergence="js", implementation=implementation)
    terms = fmicl_jax.fmicl_terms(*views, divergence="js", **AUTO)
    moved = tuple(map(jnp.cos, views))
    _, slope = jax.jit(lambda *v: jax.jvp(partial(loss, **AUTO), v, moved))(*views)
    _, want = jax.jit(lambda *v: jax.jvp(partial(loss, alpha=terms.alpha), v, moved))(*views)
    assert float(slope) == pytest.approx(float(want), rel=1e-11)
    if implementation == "dense":
        options = {"divergence": "kl", "implementation": "dense"}
        curved = jax.jit(jax.hessian(partial(fmicl_jax.fmicl_loss, **AUTO, **options)))(*views)
        assert bool(jnp.isfinite(curved).all())


def test_fused_by_pallas_equals_dense(draw, monkeypatch):
    """For KL, whose penalty is u, and for a cosine, whose u has formulas of its own."""
    monkeypatch.setattr(fused, "INTERPRET", True)
    x, y = (jnp.asarray(v, jnp.float32) for v in draw(0)[:2])
    ids = jnp.arange(len(x)) % 8
    for options in (
        {"similarity": Gaussian(0.4)},
        {"divergence": "pearson", "similarity": "cosine"},
    ):

        def of(x, form):
            terms = fmicl_jax.fmicl_terms(x, y, ids=ids, implementation=form, **AUTO, **options)  # noqa: B023
            return terms.loss, terms

        run = jax.jit(jax.grad(of, has_aux=True), static_argnums=1)
        (gradient, terms), (want, values) = run(x, "fused"), run(x, "dense")
        np.testing.assert_allclose(terms, values, rtol=1e-5)
        np.testing.assert_allclose(gradient, want, atol=1e-5 * float(jnp.abs(want).max()))


FAR = {"similarity": Gaussian(1e-4)}
HUGE = {"divergence": "js", "logit_bias": 800.0}


@pytest.mark.parametrize(("options", "remedy"), [
    (FAR, "which is 0 here: take a wider kernel"),
    (HUGE, "leaves the range of the dtype: take a smaller `logit_scale`"),
])  # fmt: skip
def test_a_mean_that_cannot_be_divided_by_is_said(views, options, remedy):
    """Also where the loss without a penalty would be finite."""
    message = rf"`x`. Expected features with a finite loss under FMICL\(.*alpha='auto'.*{remedy}"
    with pytest.raises(ValueError, match=message):
        fmicl_jax.fmicl_loss(*views, **AUTO, **options)
    traced = jax.jit(partial(fmicl_jax.fmicl_loss, **AUTO, **options))(*views)
    assert not bool(jnp.isfinite(traced))


@pytest.mark.parametrize(("function", "options", "message"), [
    ("fmicl_loss", {"alpha": "40"}, "`alpha`. Expected a finite number > 0 or 'auto'"),
    ("fmicl_loss", {"strength": 2.0}, "`strength`. Expected None unless alpha='auto'"),
    ("FMICLLoss", {"alpha": "auto", "strength": -1.0}, "`strength`. Expected a finite number > 0"),
    ("kcl_loss", {"alpha": "auto"}, "`alpha`. Expected a finite number > 0. Received"),
])  # fmt: skip
def test_what_is_no_weight_is_refused(views, function, options, message):
    given = () if function == "FMICLLoss" else views
    with pytest.raises(ValueError, match=message):
        getattr(fmicl_jax, function)(*given, **options)


def test_gradients_and_cached_losses_take_it(views):
    options = {"divergence": "js", **AUTO}
    want, slope = jax.value_and_grad(partial(fmicl_jax.fmicl_loss, **options))(*views)
    plain = fmicl_jax.loss_and_gradients(*views, **options)
    cached = fmicl_jax.cached_loss(
        fmicl_jax.fmicl_loss, lambda scale, x: scale * x, 1.0, *views, mini_batch_size=6, **options
    )
    assert float(plain.loss) == float(want) == pytest.approx(float(cached), rel=1e-12)
    np.testing.assert_allclose(plain.x, slope, rtol=1e-12)
