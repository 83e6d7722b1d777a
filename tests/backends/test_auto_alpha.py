"""alpha = "auto": strength / mean of u over the negative pairs, of the batch, in every form."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fmicl_core
from fmicl_core import FMICL, Cosine, Gaussian, Laplace, fmicl_reference

forms = pytest.mark.parametrize("implementation", ["dense", "tiled"])
many = pytest.mark.many_compilations
some = settings(max_examples=5)
LABELS = np.array([3, 1, 3, 3, 1, 2, 1, 2, 3, 1, 2])
BANK_LABELS = np.array([0, 5, 2, 9, 9, 0, 1, 1, 7])
AUTO = {"alpha": "auto", "strength": 2.0}


@pytest.fixture(autouse=True)
def small_tiles(set_tile):
    set_tile(4)


def objective(divergence, similarity="gaussian", negatives="anchor", **options):
    return FMICL(divergence, similarity, "auto", negatives, **options, strength=2.0)


#: Settings, whether a bank supplies the negatives, and whether there are ids.
CASES = {
    "kl": (objective("kl", Gaussian(0.4, 1.2)), False, False),
    "js": (objective("js", Laplace(0.9), "within"), False, False),
    "labels": (objective("js", Laplace(0.9), "all"), False, True),
    "cosine": (objective("pearson", Cosine(1.6), "cross"), False, False),
    "cosine-kl": (objective("kl", Cosine(0.5), "within"), False, False),
    "cosine-js": (objective("js", Cosine(1.6)), True, True),
    "raw": (objective("tsallis", Gaussian(4.0), normalize=False), True, True),
    "learned": (objective("js", negatives="cross", logit_scale=3.0, logit_bias=-1.0), False, True),
}  # fmt: skip
#: What JAX and TensorFlow compile in short.
IN_SHORT = ("js", "cosine", "learned")


def arrays_of(draw, seed, bank):
    return dict(zip(("x", "y", "bank"), draw(seed, k=9 if bank else None), strict=True))


@forms
@pytest.mark.parametrize(
    "name", [name if name in IN_SHORT else pytest.param(name, marks=many) for name in CASES]
)
def test_every_form_is_the_reference(backend, draw, distance, name, implementation):
    o, bank, labelled = CASES[name]
    arrays = arrays_of(draw, 0, bank)
    ids = {"ids": LABELS} | ({"bank_ids": BANK_LABELS} if bank else {}) if labelled else {}
    truth = fmicl_reference(*list(arrays.values())[:2], o, arrays["bank"], **ids)
    got = backend.evaluate(**arrays, objective=o, implementation=implementation, **ids)
    assert distance(got, truth) < 1e-11
    assert got.alpha == pytest.approx(truth.alpha, rel=1e-12)


@pytest.mark.parametrize("name", ["js", pytest.param("kl", marks=many)])
@forms
def test_compiled_it_is_the_same(backend, draw, distance, name, implementation):
    o, bank, _ = CASES[name]
    arrays = arrays_of(draw, 1, bank)
    truth = fmicl_reference(arrays["x"], arrays["y"], o)
    got = backend.evaluate(**arrays, objective=o, implementation=implementation, compiled=True)
    assert distance(got, truth) < 1e-11
    assert got.alpha == pytest.approx(truth.alpha, rel=1e-12)


@forms
@some
@given(seed=st.integers(0, 2**32 - 1), strength=st.floats(0.1, 50.0))
def test_it_is_the_loss_with_the_number_that_it_reports(
    backend, draw, distance, implementation, seed, strength
):
    """The weight is a constant: not differentiated, in the scale either."""
    arrays = {**arrays_of(draw, seed, False), "logit_scale": np.array(3.0)}
    call = partial(
        backend.call, "fmicl_terms", arrays, divergence="js", implementation=implementation
    )
    auto = call(alpha="auto", strength=strength)
    number = call(alpha=auto.alpha)
    assert distance(auto, number) < 1e-12
    assert number.alpha == auto.alpha


@forms
@some
@given(seed=st.integers(0, 2**32 - 1), strength=st.floats(0.1, 50.0))
def test_of_kl_the_gradient_is_donsker_and_varadhan_s(
    backend, draw, implementation, seed, strength
):
    """The gradient of -mean s + strength * log mean u, by the framework's own derivative."""
    framework = backend.framework
    log = {"torch": "log", "jax": "numpy.log", "tensorflow": "math.log"}[backend.name]
    for part in log.split("."):
        framework = getattr(framework, part)
    x, y, _ = draw(seed)
    terms = partial(
        backend.library.fmicl_terms, similarity=Gaussian(0.4), negatives="cross",
        implementation=implementation,
    )  # fmt: skip

    def bound(leaves):
        found = terms(leaves["x"], leaves["y"])
        return (strength * framework(found.penalty) - found.score,)

    with backend.precision("float64"):
        leaves = {"x": backend.array(x), "y": backend.array(y)}
        _, want = backend.gradients(bound, leaves, compiled=False)
        auto = partial(terms, alpha="auto", strength=strength)
        _, got = backend.gradients(lambda v: (auto(v["x"], v["y"]).loss,), leaves, compiled=False)
        got, want = ({k: backend.numpy(v) for k, v in g.items()} for g in (got, want))
    for name, value in got.items():
        np.testing.assert_allclose(value, want[name], rtol=1e-9, atol=1e-11)


@many
@given(height=st.floats(0.01, 100.0))
@some
def test_a_factor_of_the_kernel_changes_nothing_of_kl(backend, draw, height):
    """Neither the gradient nor alpha times the penalty, which is the strength."""
    arrays = arrays_of(draw, 2, False)
    plain, tall = (
        backend.call("fmicl_terms", arrays, similarity=Gaussian(0.4, mu), **AUTO)
        for mu in (1.0, height)
    )
    for got in (plain, tall):
        assert got.alpha * got.penalty == pytest.approx(AUTO["strength"], rel=1e-12)
    assert tall.alpha * height == pytest.approx(plain.alpha, rel=1e-12)
    for name, value in plain.grads.items():
        np.testing.assert_allclose(tall.grads[name], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("alpha", ["auto", 40.0])
def test_the_weight_is_an_array_in_the_dtype_of_the_loss(backend, draw, dtype, alpha):
    x, y, _ = draw(3)
    with backend.precision("float64"):
        given = [backend.array(v, dtype) for v in (x, y)]
        terms = backend.library.fmicl_terms(*given, alpha=alpha)
        assert terms.alpha.dtype == terms.loss.dtype
        assert "float32" in str(terms.alpha.dtype)
        if alpha == "auto":
            rounded = [backend.rounded(v, dtype) for v in (x, y)]
            alpha = fmicl_reference(*rounded, FMICL(alpha="auto")).alpha
        assert float(terms.alpha) == pytest.approx(alpha, rel=1e-5)


def test_as_an_object(backend, draw):
    library = backend.library
    loss = library.FMICLLoss(divergence="js", similarity=Gaussian(0.3), **AUTO)
    assert loss.objective == objective("js", Gaussian(0.3))
    x, y, bank = (backend.array(v) for v in draw(4, k=9))
    terms = loss.terms(x, y, bank)
    want = library.fmicl_terms(x, y, bank=bank, divergence="js", similarity=Gaussian(0.3), **AUTO)
    assert [float(v) for v in terms] == [float(v) for v in want]
    scope = {name: getattr(fmicl_core, name) for name in fmicl_core.__all__}
    twin = eval(repr(loss), scope | {"FMICLLoss": library.FMICLLoss})
    assert twin.objective == loss.objective
    assert library.FMICLLoss(alpha="auto").objective == FMICL(alpha="auto", strength=5.0)


@many
def test_features_and_their_gradients_as_for_a_number(backend, draw):
    x, y = (backend.array(v) for v in draw(5)[:2])
    got, want = (
        backend.library.loss_and_gradients(x, y, loss=backend.library.fmicl_loss, **options)
        for options in (AUTO, {"alpha": float(backend.library.fmicl_terms(x, y, **AUTO).alpha)})
    )
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(backend.numpy(mine), backend.numpy(theirs), rtol=1e-11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 5.0}, r"`strength`. Expected None unless alpha='auto'"),
        ({"alpha": 40.0, "strength": 5.0}, r"`strength`. Expected None unless alpha='auto'"),
        ({"alpha": "auto", "strength": 0.0}, r"`strength`. Expected a finite number > 0"),
        ({"alpha": "auto", "strength": "5"}, r"`strength`. Expected a finite number > 0"),
        ({"alpha": "automatic"}, r"`alpha`. Expected a finite number > 0 or 'auto'"),
    ],
)
def test_what_does_not_go_together_is_refused(backend, draw, options, message):
    x, y = (backend.array(v) for v in draw(6)[:2])
    library = backend.library
    for call in (
        lambda: library.fmicl_loss(x, y, **options), lambda: library.fmicl_terms(x, y, **options),
        lambda: library.FMICLLoss(**options), lambda: FMICL(**options),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()


def test_the_strength_is_a_number_and_kcl_has_a_number_alpha(backend, draw):
    x, y = (backend.array(v) for v in draw(6)[:2])
    array = backend.array(np.array(5.0))
    with pytest.raises(ValueError, match=r"`strength`. Expected a finite number > 0"):
        backend.library.fmicl_loss(x, y, alpha="auto", strength=array)
    with pytest.raises(ValueError, match=r"`alpha`. Expected a finite number > 0. Received"):
        backend.library.kcl_loss(x, y, alpha="auto")


@forms
@pytest.mark.parametrize("divergence", ["kl", pytest.param("js", marks=many)])
def test_a_kernel_too_narrow_for_the_dtype_is_said(backend, divergence, implementation):
    """u = exp(-|x - y|^2 / (2 sigma^2)) is 0 then, and the weight infinite."""
    rows = backend.array(np.eye(5))
    options = {"divergence": divergence, "similarity": Gaussian(1e-4)}
    with pytest.raises(ValueError, match=r"alpha='auto' divides by the mean of u .* wider kernel"):
        backend.library.fmicl_loss(rows, rows, implementation=implementation, **options, **AUTO)
