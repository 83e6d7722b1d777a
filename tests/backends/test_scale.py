"""logit_scale, logit_bias, temperature: numbers or arrays, with gradient, in every form."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmicl_core import FMICL, Cosine, Gaussian, fmicl_reference
from fmicl_core.related import info_nce_reference

both = pytest.mark.parametrize("implementation", ["dense", "tiled"])
some = settings(max_examples=5)
many_compilations = pytest.mark.many_compilations
IDS = np.array([4, -7, 4, 1, 9, 4, 1, 300, 1, 4, 9])
BANK_IDS = np.array([9, 5, 4, 6, 4, 5, 4, 8, 9])
#: What is given beside x; scheme; divergence, similarity and whether rows are scaled; whether ids.
GIVEN = [
    ("y", "all", "js", Gaussian(), True, False),
    ("y bank", "anchor", "pearson", Gaussian(0.4, 1.2), True, True),
    ("y", "cross", "kl", Cosine(0.7), False, True),
    ("y", "anchor", "kl", Gaussian(), True, False),
    ("y", "within", "vlc", Gaussian(), False, False),
    ("y", "cross", "tsallis", Gaussian(), True, False),
    ("", "anchor", "js", Gaussian(0.5, 150.0), True, True),
    ("y", "all", "jeffreys", Gaussian(), True, True),
    ("y bank", "anchor", "squared_hellinger", Gaussian(), False, False),
]
every_case = partial(pytest.mark.parametrize, "case", ids=lambda c: "-".join(map(str, c[:3])))(
    [c if i < 3 else pytest.param(c, marks=many_compilations) for i, c in enumerate(GIVEN)]
)


def arrays_of(case, seed, draw):
    """Features and ids by argument."""
    x, y, bank = draw(seed, k=9)
    given = {"x": x, "y": y if "y" in case[0] else None, "bank": bank if "b" in case[0] else None}
    ids = {"ids": IDS, "bank_ids": BANK_IDS if "b" in case[0] else None} if case[5] else {}
    return given, ids


@both
@every_case
@some
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.2, 1.0, 3.7]),
    bias=st.sampled_from([-4.0, 0.0, 1.5]),
)
def test_it_is_the_reference(
    backend, set_tile, draw, distance, case, implementation, seed, scale, bias
):
    """Loss, terms, and the gradients in all features and both scalars."""
    set_tile(4)
    _, negatives, divergence, similarity, normalize, _ = case
    objective = FMICL(divergence, similarity, 3.0, negatives, normalize, "ids", scale, bias)
    features, ids = arrays_of(case, seed, draw)
    got = backend.evaluate(**features, **ids, objective=objective, implementation=implementation)
    assert {"logit_scale", "logit_bias"} < got.grads.keys()
    truth = fmicl_reference(**features, **ids, objective=objective)
    assert distance(got, truth) < 1e-11


@both
@pytest.mark.parametrize("similarity", [Gaussian(0.3, 1.7), Cosine(0.8)], ids=str)
def test_what_is_not_given_is_that_of_the_similarity(backend, draw, similarity, implementation):
    x, y, _ = draw(3)
    a, c = similarity.logits()
    losses = [
        backend.call(
            "fmicl_loss", {"x": x, "y": y}, divergence="kl", similarity=similarity,
            negatives="all", implementation=implementation, **given,
        )
        for given in (
            {}, {"logit_scale": a, "logit_bias": c}, {"logit_scale": a}, {"logit_bias": c},
        )
    ]  # fmt: skip
    for got in losses[1:]:
        assert got.loss == pytest.approx(losses[0].loss, rel=1e-13)
        np.testing.assert_allclose(got.grads["x"], losses[0].grads["x"], rtol=1e-9, atol=1e-13)


@both
def test_only_the_scalars_may_learn(backend, draw, implementation):
    """As with a frozen encoder: features have no gradient, the scale and the bias do."""
    x, y, _ = draw(4)
    objective = FMICL("js", alpha=3.0, negatives="all", logit_scale=2.0, logit_bias=-1.0)
    truth = fmicl_reference(x, y, objective)
    with backend.precision("float64"):
        x, y = backend.array(x), backend.array(y)

        def value(leaves):
            loss = backend.library.fmicl_loss(
                x, y, divergence="js", alpha=3.0, negatives="all", implementation=implementation,
                **leaves,
            )  # fmt: skip
            return (loss,)

        leaves = {k: backend.array(getattr(objective, k)) for k in ("logit_scale", "logit_bias")}
        _, gradients = backend.gradients(value, leaves, False)
        assert float(gradients["logit_scale"]) == pytest.approx(truth.grad_scale, rel=1e-11)
        assert float(gradients["logit_bias"]) == pytest.approx(truth.grad_bias, rel=1e-11)


@both
def test_no_bound_of_the_logits_is_taken_for_granted(backend, draw, distance, implementation):
    """Products of e^L over rows would overflow here."""
    x, y, _ = draw(5)
    objective = FMICL("js", alpha=3.0, negatives="cross", logit_scale=100.0, logit_bias=40.0)
    got = backend.evaluate(x, y, None, objective, "float32", implementation)
    truth = fmicl_reference(*(backend.rounded(v, "float32") for v in (x, y)), objective)
    assert distance(got, truth) < 1e-4
    assert got.loss == pytest.approx(truth.loss, rel=1e-5)


def test_scalars_of_another_dtype_leave_that_of_the_loss(backend, draw):
    x, y, _ = draw(6)
    with backend.precision("float64"):
        leaves = {k: backend.array(np.array(1.5), "float64") for k in ("logit_scale", "logit_bias")}
        x, y = backend.array(x, "float32"), backend.array(y, "float32")

        def value(leaves):
            return (backend.library.fmicl_loss(x, y, **leaves),)

        (loss,), gradients = backend.gradients(value, leaves, False)
        assert "float32" in str(loss.dtype)
        assert all("float64" in str(g.dtype) for g in gradients.values())


SCALAR = "a finite number > 0, or an array of no dimension that holds one"
BAD = [
    ({"logit_scale": 0.0}, "`logit_scale`. Expected a finite number > 0. Received: l"),
    ({"logit_scale": "10"}, "`logit_scale`. Expected a finite number > 0. Received: l"),
    ({"logit_bias": math.inf}, "`logit_bias`. Expected a finite number. Received: logit"),
    ({"logit_scale": np.ones(2)}, f"`logit_scale`. Expected {SCALAR}. Received: logit_scale.s"),
    ({"logit_scale": np.array(-2.0)}, f"`logit_scale`. Expected {SCALAR}. Received: logit_scale="),
    ({"logit_bias": np.array(math.nan)}, "`logit_bias`. Expected a finite number, or an array of"),
    ({"logit_scale": 2.0, "similarity": "laplace"},
     "`similarity`. Expected 'gaussian' or 'cosine' beside `logit_scale` and `logit_bias`."),
    ({"logit_bias": 2.0, "divergence": "js", "similarity": Cosine(1.6)},
     "`similarity`. Expected 'gaussian' beside `logit_scale` and `logit_bias` and this diverg"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), BAD, ids=[str(o) for o, _ in BAD])
def test_what_is_wrong_is_said(backend, draw, options, message):
    x, y, _ = draw(7)
    with backend.precision("float64"):
        given = {
            k: backend.array(v) if isinstance(v, np.ndarray) else v for k, v in options.items()
        }
        x, y = backend.array(x), backend.array(y)
        with pytest.raises(ValueError) as error:
            backend.library.fmicl_loss(x, y, **given)
        assert message in str(error.value)


INFO_NCE = [("y", "all"), ("y", "cross"), ("y bank", "all"), ("y", "within")]


@both
@pytest.mark.parametrize(
    "case",
    [c if i < 1 else pytest.param(c, marks=many_compilations) for i, c in enumerate(INFO_NCE)],
)  # fmt: skip
@some
@given(seed=st.integers(0, 2**32 - 1), temperature=st.sampled_from([0.07, 0.5, 2.0]))
def test_info_nce_has_a_gradient_in_its_temperature(
    backend, set_tile, draw, case, implementation, seed, temperature
):
    set_tile(4)
    x, y, bank = draw(seed, k=9 if "bank" in case[0] else None)
    options = {"negatives": case[1], "implementation": implementation}
    truth = lambda t: info_nce_reference(x, y, t, case[1], bank)  # noqa: E731
    step = 1e-5 * temperature
    slope = (truth(temperature + step) - truth(temperature - step)) / (2 * step)
    arrays = {"x": x, "y": y, "bank": bank}
    by_temperature, by_scale = (
        backend.call("info_nce_loss", arrays | {k: np.array(v)}, **options)
        for k, v in (("temperature", temperature), ("logit_scale", 1.0 / temperature))
    )
    assert by_temperature.loss == pytest.approx(truth(temperature), rel=1e-11, abs=1e-12)
    assert by_scale.loss == pytest.approx(by_temperature.loss, rel=1e-12, abs=1e-12)
    assert by_temperature.grads["temperature"] == pytest.approx(slope, rel=1e-6, abs=1e-7)
    in_scale = -by_temperature.grads["temperature"] * temperature**2
    assert by_scale.grads["logit_scale"] == pytest.approx(in_scale, rel=1e-9, abs=1e-12)


BAD_INFO_NCE = [
    ({"temperature": 0.0}, "`temperature`. Expected a finite number > 0. Received: t"),
    ({"temperature": np.ones(1)}, f"`temperature`. Expected {SCALAR}. Received: temperature.s"),
    ({"logit_scale": -1.0}, "`logit_scale`. Expected a finite number > 0. Received: l"),
    ({"logit_scale": 5.0, "temperature": 0.1},
     "`temperature`. Expected to be left out beside `logit_scale`, which is 1 / temperature."),
    ({"temperature": np.array(-0.1)}, f"`temperature`. Expected {SCALAR}. Received: temperature="),
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"), BAD_INFO_NCE, ids=[str(o) for o, _ in BAD_INFO_NCE]
)
def test_what_is_wrong_with_a_temperature_is_said(backend, draw, options, message):
    x, y, _ = draw(8)
    with backend.precision("float64"):
        given = {
            k: backend.array(v) if isinstance(v, np.ndarray) else v for k, v in options.items()
        }
        x, y = backend.array(x), backend.array(y)
        with pytest.raises(ValueError) as error:
            backend.library.info_nce_loss(x, y, **given)
        assert message in str(error.value)
