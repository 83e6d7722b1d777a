"""alpha = "auto" in TensorFlow: one graph for every batch, and no gradient of u."""

from functools import partial

import numpy as np
import pytest

from fmicl_core import KL, Gaussian

tf = pytest.importorskip("tensorflow", reason="these are tests of the TensorFlow backend")
fmicl_tensorflow = pytest.importorskip(
    "fmicl_tensorflow", reason="these are tests of the TensorFlow backend"
)
tiled = pytest.importorskip("fmicl_tensorflow.tiled", reason="as above")
AUTO = {"alpha": "auto", "strength": 2.0}
JS = {"divergence": "js", "negatives": "all"}
both = pytest.mark.parametrize("implementation", ["dense", "tiled"])


@pytest.fixture(autouse=True)
def small_tiles(set_tile):
    set_tile(4)


@pytest.fixture
def views(draw):
    return tuple(tf.constant(v) for v in draw(0)[:2])


def gradient(of, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = of(x)
    return value, tape.gradient(value, x)


@both
@pytest.mark.parametrize("compiled", [False, True])
def test_one_graph_finds_the_weight_of_every_batch(views, implementation, compiled):
    """Equal, with its gradient, to a loss with the number that it reports."""
    loss = fmicl_tensorflow.FMICLLoss(**AUTO, **JS, implementation=implementation)
    x, y = views
    signature = [tf.TensorSpec([None, None], tf.float64)]
    options = {"input_signature": signature} if not compiled else {"jit_compile": True}
    step = tf.function(lambda x: gradient(lambda x: loss(x, y), x), **options)
    weights = [float(loss.terms(s * x + 1.0, y).alpha) for s in (0.5, 2.0)]
    assert weights[0] != weights[1]
    for scale, weight in zip((0.5, 2.0), weights, strict=True):
        batch = scale * x + 1.0
        number = partial(fmicl_tensorflow.fmicl_loss, alpha=weight, **JS, implementation="dense")
        wanted = gradient(lambda x: number(x, y), batch)  # noqa: B023
        for got, want in zip(step(batch), wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
    assert step.experimental_get_tracing_count() == 1


def test_no_gradient_is_made_of_u(views, monkeypatch):
    """Left to XLA, the sums of a gradient would be made although nothing takes them."""
    x, y = views
    plans, compiled = [], tiled.compiled_sweep
    monkeypatch.setattr(tiled, "compiled_sweep", lambda p: plans.append(p) or compiled(p))
    of = partial(fmicl_tensorflow.fmicl_loss, logit_bias=0.5, **AUTO, implementation="tiled")
    gradient(lambda x: of(x, y, divergence="vlc"), x)
    assert [(p.pairwise.divergence == KL(), p.gradient) for p in plans] == [
        (False, True), (True, False),
    ]  # fmt: skip
    (value,) = compiled(plans[1])(None, None, [x], tf.constant(0.5, tf.float64))
    assert value.shape == ()
    plans.clear()
    gradient(lambda x: of(x, y, divergence="kl"), x)  # whose penalty is u
    assert [p.gradient for p in plans] == [True]


def test_a_scale_that_learns_takes_the_weight_for_a_constant(views):
    scale = tf.Variable(2.0, dtype=tf.float64)
    loss = fmicl_tensorflow.FMICLLoss(**AUTO, **JS, logit_scale=scale, implementation="tiled")
    fixed = partial(fmicl_tensorflow.fmicl_loss, alpha=loss.terms(*views).alpha, **JS)
    _, got = gradient(lambda s: loss(*views), scale)
    _, want = gradient(lambda s: fixed(*views, logit_scale=s), scale)
    assert float(got) == pytest.approx(float(want), rel=1e-11)


def test_an_object_keeps_and_prints_what_it_was_made_with():
    loss = fmicl_tensorflow.FMICLLoss(alpha="auto")
    assert (loss.alpha, loss.strength, loss.objective.strength) == ("auto", 5.0, 5.0)
    assert "alpha='auto'" in repr(loss)
    assert "strength=5.0" in repr(loss)
    assert fmicl_tensorflow.FMICLLoss().strength is None
    with pytest.raises(ValueError, match=r"`strength`. Expected to be given when the loss is made"):
        loss.strength = 2.0


@pytest.mark.parametrize(("options", "remedy"), [
    ({"similarity": Gaussian(1e-4)}, "which is 0 here: take a wider kernel"),
    ({"divergence": "js", "logit_bias": 800.0}, "take a smaller `logit_scale` or `logit_bias`"),
])  # fmt: skip
def test_a_mean_that_cannot_be_divided_by_is_said(views, options, remedy):
    """Also where the loss without a penalty would be finite."""
    message = rf"`x`. Expected features with a finite loss under FMICL\(.*alpha='auto'.*{remedy}"
    loss = partial(fmicl_tensorflow.fmicl_loss, **AUTO, **options)
    with pytest.raises(ValueError, match=message):
        loss(*views)
    assert not np.isfinite(tf.function(loss)(*views))


@pytest.mark.parametrize(("function", "options", "message"), [
    ("fmicl_loss", {"alpha": "40"}, "`alpha`. Expected a finite number > 0 or 'auto'"),
    ("fmicl_loss", {"strength": 2.0}, "`strength`. Expected None unless alpha='auto'"),
    ("FMICLLoss", {"alpha": "auto", "strength": -1.0}, "`strength`. Expected a finite number > 0"),
    ("kcl_loss", {"alpha": "auto"}, "`alpha`. Expected a finite number > 0. Received"),
])  # fmt: skip
def test_what_is_no_weight_is_refused(views, function, options, message):
    given = () if function == "FMICLLoss" else views
    with pytest.raises(ValueError, match=message):
        getattr(fmicl_tensorflow, function)(*given, **options)


def test_loss_and_gradients_take_it(views):
    x, y = views
    found = fmicl_tensorflow.loss_and_gradients(x, y, **JS, **AUTO)
    want, slope = gradient(lambda x: fmicl_tensorflow.fmicl_loss(x, y, **JS, **AUTO), x)
    assert float(found.loss) == float(want)
    np.testing.assert_allclose(found.x, slope, rtol=1e-12)
