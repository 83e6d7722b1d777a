"""What a TensorFlow user relies on where alpha, logit_scale, logit_bias or a temperature learn."""

from functools import partial

import numpy as np
import pytest

from fmicl_core import JensenShannon
from fmicl_core.family import Sigmoid

tf = pytest.importorskip("tensorflow", reason="these are tests of the TensorFlow backend")
fmicl_tensorflow = pytest.importorskip(
    "fmicl_tensorflow", reason="these are tests of the TensorFlow backend"
)
both = pytest.mark.parametrize("implementation", ["dense", "tiled"])
#: Functions, and the scalars of each that may learn, with their values.
LEARNED = {
    "fmicl_loss": {"alpha": 3.0, "logit_scale": 2.0, "logit_bias": -1.0},
    "siglip_loss": {"logit_scale": 2.0, "logit_bias": -1.0},
    "dcl_loss": {"temperature": 0.3},
}
every_function = pytest.mark.parametrize("name", LEARNED)
close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)


@pytest.fixture(autouse=True)
def small_tiles(set_tile):
    set_tile(4)


@pytest.fixture
def views(draw):
    return tuple(tf.constant(v) for v in draw(0)[:2])


def gradients(loss, x, y, scalars):
    """The loss, and its gradients in x and in the scalars, tensors or variables."""
    with tf.GradientTape() as tape:
        tape.watch([x, *(v for v in scalars.values() if not isinstance(v, tf.Variable))])
        value = loss(x, y, **scalars)
    return value, *tape.gradient(value, [x, *scalars.values()])


@both
@every_function
@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "XLA"])
def test_one_graph_serves_all_values_and_sizes(views, name, implementation, compiled):
    """Of tensors that are given to it, and of variables that it reads."""
    loss = partial(getattr(fmicl_tensorflow, name), implementation=implementation)
    numbers = LEARNED[name]
    variables = {k: tf.Variable(v, dtype=tf.float64) for k, v in numbers.items()}
    rows = tf.TensorSpec([None, None], tf.float64)
    kinds = {k: tf.TensorSpec([], tf.float64) for k in numbers}

    @tf.function(input_signature=[rows, rows, kinds], jit_compile=compiled)
    def step(x, y, tensors):
        return gradients(loss, x, y, tensors), gradients(loss, x, y, variables)

    for n, factor in ((11, 1.0), (11, 1.5), (9, 0.7)):
        x, y = (v[:n] for v in views)
        now = {k: tf.constant(factor * v, tf.float64) for k, v in numbers.items()}
        for k, v in now.items():
            variables[k].assign(v)
        for found in step(x, y, now):
            for got, want in zip(found, gradients(loss, x, y, now), strict=True):
                close(got, want)
    assert step.experimental_get_tracing_count() == 1


class Counting(JensenShannon):
    """Jensen-Shannon that counts how often it is traced or run."""

    calls = 0

    def excess_and_slope(self, L, ops):
        type(self).calls += 1
        return super().excess_and_slope(L, ops)


def test_no_value_of_a_scalar_compiles_a_sweep_anew(views):
    loss = partial(fmicl_tensorflow.fmicl_loss, divergence=Counting(), implementation="tiled")
    loss(*views, logit_scale=2.0)
    before = Counting.calls
    assert before > 0
    for value in (0.5, np.array(1.5), tf.constant(3.0), tf.Variable(0.2), tf.constant(4)):
        loss(*views, logit_scale=value, logit_bias=value, alpha=value)
    assert Counting.calls == before


@both
def test_small_penalties_keep_their_digits(views, implementation):
    """Beside 1 + e^z they would be lost in float32."""
    options = {"divergence": Sigmoid(), "logit_scale": 0.5, "logit_bias": -16.0}
    narrow = [tf.cast(v, tf.float32) for v in views]
    got = fmicl_tensorflow.fmicl_terms(*narrow, implementation=implementation, **options)
    want = fmicl_tensorflow.fmicl_terms(*views, **options)
    assert float(got.penalty) == pytest.approx(float(want.penalty), rel=1e-5)


@every_function
def test_dense_has_second_derivatives_in_the_scalars(views, name):
    loss = partial(getattr(fmicl_tensorflow, name), implementation="dense")
    first = {k: tf.constant(v, tf.float64) for k, v in LEARNED[name].items()}
    with tf.GradientTape() as outer:
        outer.watch(first)
        _, of_x, *slopes = gradients(loss, *views, first)
        total = tf.reduce_sum(of_x**2) + tf.add_n([s**2 for s in slopes])

    def total_at(scalars):
        _, of_x, *slopes = gradients(loss, *views, scalars)
        return float(tf.reduce_sum(of_x**2) + tf.add_n([s**2 for s in slopes]))

    for k, got in outer.gradient(total, first).items():
        ahead, behind = (total_at(first | {k: first[k] + s}) for s in (1e-5, -1e-5))
        assert float(got) == pytest.approx((ahead - behind) / 2e-5, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("scalar", ["logit_scale", "logit_bias"])
def test_tiled_refuses_a_nested_tape_over_a_scalar(views, scalar):
    loss = partial(fmicl_tensorflow.fmicl_loss, implementation="tiled")
    with tf.GradientTape() as outer:
        given = {scalar: tf.constant(2.0, tf.float64)}
        outer.watch(given)
        slope = gradients(loss, *views, given)[-1]
    with pytest.raises(RuntimeError, match=r"use implementation='dense'"):
        outer.gradient(slope, given)


@both
@every_function
def test_a_map_goes_over_scalars(views, name, implementation):
    loss = partial(getattr(fmicl_tensorflow, name), *views, implementation=implementation)
    many = {k: tf.constant([v, 1.5 * v], tf.float64) for k, v in LEARNED[name].items()}
    each = [loss(**{k: v[i] for k, v in many.items()}) for i in range(2)]
    close(tf.vectorized_map(lambda scalars: loss(**scalars), many), each)


class Learner(tf.Module):
    """An encoder beside a loss that learns its scale and its bias."""

    def __init__(self, implementation):
        super().__init__()
        self.weights = tf.Variable(np.eye(5))
        self.scale, self.bias = (tf.Variable(v, dtype=tf.float64) for v in (2.0, -1.0))
        self.loss = fmicl_tensorflow.FMICLLoss(
            logit_scale=self.scale, logit_bias=self.bias, implementation=implementation
        )

    @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.float64)] * 2)
    def learn(self, x, y):
        with tf.GradientTape() as tape:
            value = self.loss(x @ self.weights, y @ self.weights)
        variables = [self.weights, self.scale, self.bias]
        for variable, slope in zip(variables, tape.gradient(value, variables), strict=True):
            variable.assign_sub(0.01 * slope)
        return value


def test_what_learns_is_saved_and_keeps_learning(views, tmp_path):
    learner = Learner("dense")
    assert {v.ref() for v in learner.loss.trainable_variables} == {
        learner.scale.ref(), learner.bias.ref(),
    }  # fmt: skip
    learner.learn(*views)
    tf.saved_model.save(learner, tmp_path)
    loaded = tf.saved_model.load(tmp_path)
    for _ in range(2):
        assert float(loaded.learn(*views)) == pytest.approx(float(learner.learn(*views)), rel=1e-12)
    assert float(loaded.scale) == pytest.approx(float(learner.scale), rel=1e-12)
    assert learner.loss.objective.logit_scale == float(learner.scale) != 2.0


def test_a_mirrored_variable_is_a_scalar(views):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        scale = tf.Variable(2.0)
    loss = fmicl_tensorflow.FMICLLoss(logit_scale=scale, alpha=scale)
    want = fmicl_tensorflow.fmicl_loss(*views, logit_scale=2.0, alpha=2.0)
    assert float(loss(*views)) == float(want)
    assert loss.objective.alpha == loss.objective.logit_scale == 2.0


def test_an_anchor_of_a_decoupled_loss_without_a_negative_is_said(views):
    """Its softmax would hold nothing."""
    x, y = views
    ids, bank_ids = np.arange(11), np.full(4, 7)
    loss = partial(fmicl_tensorflow.dcl_loss, bank=y[:4], ids=ids, bank_ids=bank_ids)
    for implementation in ("dense", "tiled"):
        with pytest.raises(ValueError, match=r"`bank_ids`\. Expected a row of the bank whose"):
            loss(x, y, implementation=implementation)
