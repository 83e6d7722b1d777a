"""What a TensorFlow user relies on where ids say which rows belong together."""

from functools import partial

import numpy as np
import pytest

from fmicl_core import KL

tf = pytest.importorskip("tensorflow", reason="these are tests of the TensorFlow backend")
fmicl_tensorflow = pytest.importorskip(
    "fmicl_tensorflow", reason="these are tests of the TensorFlow backend"
)
both = pytest.mark.parametrize("implementation", ["dense", "tiled"])
both_losses = pytest.mark.parametrize("name", ["fmicl_loss", "info_nce_loss"])
IDS = np.array([4, -7, 4, 1, 9, 4, 1, 300, 1, 4, 9])
UNKNOWN = [tf.TensorSpec([None, None], tf.float64), tf.TensorSpec([None], tf.int64)]


@pytest.fixture(autouse=True)
def small_tiles(set_tile):
    set_tile(4)


@pytest.fixture
def rows(draw):
    return tf.constant(draw(0)[0])


def gradient(loss, x, ids):
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(x, ids=ids)
    return tape.gradient(value, x)


@both_losses
@both
@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "XLA"])
def test_one_graph_serves_every_size_and_all_ids(rows, name, implementation, compiled):
    """Sizes are unknown until the graph runs."""
    traced = []
    loss = partial(getattr(fmicl_tensorflow, name), implementation=implementation)

    @tf.function(input_signature=UNKNOWN, jit_compile=compiled)
    def step(x, ids):
        traced.append(x.shape)
        return gradient(loss, x, ids)

    for n, ids in ((11, IDS), (11, IDS[::-1].copy()), (7, IDS[:7])):
        got, want = step(rows[:n], tf.constant(ids)), gradient(loss, rows[:n], ids)
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
    assert len(traced) == 1


class Counting(KL):
    """KL that counts how often it is traced or run."""

    calls = 0

    def excess_and_slope(self, L, ops):
        type(self).calls += 1
        return super().excess_and_slope(L, ops)


def test_other_ids_of_a_shape_trace_nothing_anew(rows):
    loss = fmicl_tensorflow.FMICLLoss(divergence=Counting(), implementation="tiled")
    loss(rows, ids=IDS)
    before = Counting.calls
    assert before > 0
    for ids in (IDS[::-1].copy(), tf.constant(IDS), tf.Variable(IDS // 4), IDS.astype(np.int16)):
        loss(rows, ids=ids)
    assert Counting.calls == before


@both
@pytest.mark.parametrize(
    ("ids", "bank_ids", "message"),
    [
        (5, 3, r"`ids`\. Expected one whole number for each row of `x`, \(N,\)\. Received"),
        (
            11,
            5,
            r"`bank_ids`\. Expected one whole number for each row of `bank`, \(K,\)\. Received",
        ),
    ],
)
def test_unknown_sizes_of_ids_are_checked_when_the_graph_runs(
    rows, ids, bank_ids, message, implementation
):
    features, numbers = UNKNOWN

    @tf.function(input_signature=[features, features, numbers, numbers])
    def step(x, bank, ids, bank_ids):
        options = {"ids": ids, "bank_ids": bank_ids, "implementation": implementation}
        return fmicl_tensorflow.fmicl_loss(x, x, bank=bank, **options)

    ids, bank_ids = (tf.range(n, dtype=tf.int64) for n in (ids, bank_ids))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        step(rows, rows[:3], ids, bank_ids)


@both_losses
def test_xla_takes_no_ids_of_another_length(rows, name):
    """It knows no assertions, but gives no wrong number."""
    loss = getattr(fmicl_tensorflow, name)
    step = tf.function(lambda x, ids: loss(x, ids=ids), input_signature=UNKNOWN, jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError):
        step(rows, tf.constant(IDS[:9]))


def second_derivative(loss, x):
    with tf.GradientTape() as outer:
        outer.watch(x)
        first = gradient(loss, x, IDS)
    return outer.gradient(first, x)


@both_losses
def test_dense_has_second_derivatives_and_tiled_says_that_it_has_none(rows, name):
    loss = partial(getattr(fmicl_tensorflow, name), implementation="dense")
    ahead, behind = (gradient(loss, rows + s, IDS) for s in (1e-5, -1e-5))
    got = second_derivative(loss, rows)
    np.testing.assert_allclose(got, (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match=r"use implementation='dense'"):
        second_derivative(partial(loss, implementation="tiled"), rows)


@both
def test_eager_info_nce_says_why_there_is_no_loss(rows, implementation):
    for ids, message in (
        (np.arange(11), "two rows with equal ids"),
        (IDS * 0, "two different ids"),
    ):
        with pytest.raises(ValueError, match=message):
            fmicl_tensorflow.info_nce_loss(rows, ids=ids, implementation=implementation)
