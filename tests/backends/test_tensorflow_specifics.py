"""What a TensorFlow user relies on: graphs, XLA, tapes, unknown sizes, variables, policies."""

import ast
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fmicl_core import KL

tf = pytest.importorskip("tensorflow", reason="these are tests of the TensorFlow backend")
fmicl_tensorflow = pytest.importorskip(
    "fmicl_tensorflow", reason="these are tests of the TensorFlow backend"
)
both = pytest.mark.parametrize("implementation", ["dense", "tiled"])
both_losses = pytest.mark.parametrize("name", ["fmicl_loss", "info_nce_loss"])
#: InfoNCE in its dense form is plain code, with nothing of the framework to go wrong.
forms = pytest.mark.parametrize(
    ("name", "implementation"),
    [("fmicl_loss", "dense"), ("fmicl_loss", "tiled"), ("info_nce_loss", "tiled")],
)
GRAPHS = {
    "eager": lambda f, signature: f,
    "graph": lambda f, signature: tf.function(f),
    "XLA": lambda f, signature: tf.function(f, jit_compile=True),
    "unknown": lambda f, signature: tf.function(f, input_signature=signature),
    "unknown in XLA": lambda f, signature: tf.function(
        f, input_signature=signature, jit_compile=True
    ),
}
SIGNATURE = [tf.TensorSpec([None, None], tf.float64)] * 2


@pytest.fixture(autouse=True)
def small_tiles(set_tile):
    set_tile(4)


@pytest.fixture
def views(draw):
    return tuple(tf.constant(v) for v in draw(0)[:2])


def gradients(loss, *sources):
    with tf.GradientTape() as tape:
        tape.watch(sources)
        value = loss(*sources)
    return tape.gradient(value, sources)


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


@forms
@pytest.mark.parametrize("graph", GRAPHS)
def test_every_kind_of_graph_gives_the_same_gradient(views, graph, name, implementation):
    """Sizes known, or unknown until the graph runs."""
    of = getattr(fmicl_tensorflow, name)
    loss = partial(of, implementation=implementation, negatives="all")
    want = gradients(partial(of, negatives="all"), *views)
    step = GRAPHS[graph](lambda x, y: gradients(loss, x, y), SIGNATURE)
    for got, expected in zip(step(*views), want, strict=True):
        close(got, expected)


@both_losses
def test_one_graph_serves_every_batch_size(views, name):
    traced, loss = [], getattr(fmicl_tensorflow, name)

    @tf.function(input_signature=SIGNATURE)
    def step(x, y):
        traced.append(x.shape)
        return loss(x, y, implementation="tiled")

    for n in (11, 9, 4, 2):
        x, y = (v[:n] for v in views)
        assert float(step(x, y)) == pytest.approx(float(loss(x, y)))
    assert len(traced) == 1


UNKNOWN = [
    ((11, 5), (4, 5), None, r"`y`\. Expected the shape of `x`\. Received: y\.shape=\] \[4 5\]"),
    ((1, 5), (1, 5), None, r"`x`\. Expected at least two rows, N >= 2, or a `bank`"),
    ((11, 0), (11, 0), None, r"`x`\. Expected at least one feature, D >= 1"),
    ((11, 5), (11, 5), (0, 5), r"`bank`\. Expected at least one row, K >= 1"),
    ((0, 5), (0, 5), (3, 5), r"`x`\. Expected at least one row, N >= 1"),
    ((11, 5), (11, 5), (3, 4), r"`bank`\. Expected the width of `x`"),
    ((1, 11, 5), (1, 11, 5), None, r"\[1,11,5\] is not compatible with expected shape \[\?,\?\]"),
]


@both
@pytest.mark.parametrize(("x", "y", "bank", "message"), UNKNOWN, ids=str)
def test_unknown_sizes_are_checked_when_the_graph_runs(x, y, bank, message, implementation):
    kind = tf.TensorSpec(None if len(x) == 3 else [None, None])
    arrays = [tf.ones(shape) for shape in (x, y, bank) if shape]

    @tf.function(input_signature=[kind] * len(arrays))
    def step(x, y, bank=None):
        return fmicl_tensorflow.fmicl_loss(x, y, bank=bank, implementation=implementation)

    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        step(*arrays)


class Counting(KL):
    """KL that counts how often it is traced or run."""

    calls = 0

    def excess_and_slope(self, L, ops):
        type(self).calls += 1
        return super().excess_and_slope(L, ops)


@both
def test_alpha_may_be_a_variable_that_a_graph_reads(views, implementation):
    alpha = tf.Variable(2.0)
    loss = fmicl_tensorflow.FMICLLoss(alpha=alpha, implementation=implementation)
    step = tf.function(loss)
    for value in (2.0, 5.0, 11.0):
        alpha.assign(value)
        want = fmicl_tensorflow.fmicl_loss(*views, alpha=value)
        assert float(step(*views)) == pytest.approx(float(want), rel=1e-12)
        assert loss.objective.alpha == value
    assert step.experimental_get_tracing_count() == 1
    assert not loss.trainable_variables or loss.trainable_variables == (alpha,)


def test_what_a_loss_was_made_with_does_not_change():
    """A graph that was traced would not learn of it."""
    for name, value in (("alpha", 10.0), ("logit_scale", 2.0), ("logit_bias", None),
                        ("divergence", "js"), ("negatives", "all"), ("normalize", False),
                        ("objective", None)):  # fmt: skip
        with pytest.raises(ValueError, match=rf"`{name}`. Expected to be given when the loss is"):
            setattr(fmicl_tensorflow.FMICLLoss(), name, value)


def test_losses_that_know_no_replicas_say_so_once(views, monkeypatch):
    from fmicl_core import ranks
    from fmicl_tensorflow import distributed

    monkeypatch.setattr(ranks, "_told_of_ranks", set())
    fmicl_tensorflow.spectral_contrastive_loss(*views)  # one replica
    monkeypatch.setattr(distributed, "replica_context", object)
    for name in ranks.KNOW_NO_RANKS:
        loss = getattr(fmicl_tensorflow, name)
        with pytest.warns(UserWarning, match=rf"`{name}` is of the rows that it is given") as told:
            assert loss(*views) == loss(*views)
        assert len(told) == 1
        assert told[0].filename == __file__


def test_equal_specs_share_a_compiled_sweep(views):
    def once(alpha):
        fmicl_tensorflow.FMICLLoss(
            divergence=Counting(), implementation="tiled", alpha=alpha
        )(*views)  # fmt: skip

    once(1.0)
    before = Counting.calls
    assert before > 0
    once(1.0)
    once(2.0)  # alpha is not part of the sweep: a schedule of it does not compile anew
    assert Counting.calls == before


@both_losses
def test_the_graph_does_not_grow_with_the_batch(name):
    def nodes(n):
        loss = partial(getattr(fmicl_tensorflow, name), implementation="tiled", negatives="all")
        spec = tf.TensorSpec([n, 4])
        step = tf.function(lambda x, y: gradients(loss, x, y)).get_concrete_function(spec, spec)
        graph = step.graph.as_graph_def()
        return len(graph.node) + sum(len(f.node_def) for f in graph.library.function)

    assert nodes(4000) == nodes(8000)  # fewer zeros than 1000 are constants


def second_derivative(loss, x, y):
    with tf.GradientTape() as outer:
        outer.watch(x)
        (gradient, _) = gradients(loss, x, y)
    return outer.gradient(gradient, x)


@both_losses
@pytest.mark.parametrize("graph", ["eager", "graph", "XLA"])
def test_tiled_refuses_a_nested_tape_and_says_what_to_do(views, graph, name):
    loss = partial(getattr(fmicl_tensorflow, name), implementation="tiled")
    step = GRAPHS[graph](partial(second_derivative, loss), SIGNATURE)
    with pytest.raises(RuntimeError, match=r"use implementation='dense'"):
        step(*views)


@pytest.mark.parametrize("graph", ["eager", "XLA"])
def test_dense_has_second_derivatives(views, graph):
    loss = partial(fmicl_tensorflow.fmicl_loss, divergence="vlc", implementation="dense")
    x, y = views
    got = GRAPHS[graph](partial(second_derivative, loss), SIGNATURE)(x, y)
    ahead, behind = (gradients(loss, x + s, y)[0] for s in (1e-5, -1e-5))
    np.testing.assert_allclose(got, (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-7)


@both_losses
def test_a_large_batch_is_tiled_and_so_is_one_of_unknown_size(views, name):
    refused = pytest.raises(RuntimeError, match=r"use implementation='dense'")
    step = partial(second_derivative, getattr(fmicl_tensorflow, name))
    step(*views)
    with refused:
        tf.function(step).get_concrete_function(*[tf.TensorSpec([513, 4])] * 2)
    with refused:
        tf.function(step).get_concrete_function(*[tf.TensorSpec([None, 4])] * 2)


@both
@pytest.mark.parametrize("graph", ["eager", "graph", "XLA"])
def test_variables_are_differentiated(views, graph, implementation):
    loss = partial(fmicl_tensorflow.fmicl_loss, implementation=implementation, negatives="all")
    x, y = tf.Variable(views[0]), views[1]

    def step(y):
        with tf.GradientTape() as tape:
            value = loss(x, y)
        return tape.gradient(value, x)

    close(GRAPHS[graph](step, SIGNATURE[:1])(y), gradients(loss, *views)[0])


@both
def test_terms_and_persistent_tapes(views, implementation):
    x, y = views
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        terms = fmicl_tensorflow.fmicl_terms(x, y, implementation=implementation)
        scaled = 7.0 * terms.loss
    parts = terms.score, terms.penalty, terms.loss, scaled
    aligned, spread, loss, seven = (tape.gradient(part, x) for part in parts)
    close(loss, 40.0 * spread - aligned)
    close(seven, 7.0 * loss)


@forms
def test_jacobians_recomputation_and_maps(views, name, implementation):
    loss = partial(getattr(fmicl_tensorflow, name), implementation=implementation)
    x, y = views
    with tf.GradientTape() as tape:
        tape.watch(x)
        both_ways = tf.stack([loss(x, y), loss(y, x)])
    close(tape.jacobian(both_ways, x)[0], gradients(loss, x, y)[0])
    close(gradients(tf.recompute_grad(loss), x, y)[0], gradients(loss, x, y)[0])
    stacked = tf.stack([x, y]), tf.stack([y, x])
    close(tf.vectorized_map(lambda xy: loss(*xy), stacked), both_ways)
    close(tf.map_fn(lambda xy: loss(*xy), stacked, fn_output_signature=tf.float64), both_ways)


@forms
def test_only_one_side_may_ask_for_gradients(views, name, implementation):
    loss = partial(getattr(fmicl_tensorflow, name), implementation=implementation, negatives="all")
    x, y = views
    got = gradients(lambda x, y: loss(x, tf.stop_gradient(y)), x, y)
    close(got[0], gradients(loss, x, y)[0])
    assert got[1] is None


@both
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_policies(require, draw, policy, implementation):
    """Layers compute in half precision, the loss and the weights stay in float32."""
    keras = require("keras")
    x, y = (tf.constant(v, tf.float32) for v in draw(2)[:2])
    layer = keras.layers.Dense(4, dtype=policy)
    layer.build(x.shape)
    loss = fmicl_tensorflow.FMICLLoss(divergence="js", implementation=implementation)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            u, v = layer(x), layer(y)
            value = loss(u, v)
        return u, v, value, tape.gradient(value, layer.kernel.value)

    u, v, value, gradient = step()
    assert u.dtype.name == policy.removeprefix("mixed_")
    assert (value.dtype, gradient.dtype) == (tf.float32, tf.float32)
    wide = fmicl_tensorflow.fmicl_loss(
        tf.cast(u, tf.float64), tf.cast(v, tf.float64), divergence="js"
    )
    assert float(value) == pytest.approx(float(wide), rel=1e-5)
    assert np.isfinite(gradient).all()


def test_the_module_has_no_state():
    loss = fmicl_tensorflow.FMICLLoss()
    assert isinstance(loss, tf.Module)
    assert (loss.variables, loss.trainable_variables) == ((), ())


def test_inside_a_graph_nan_shows_in_the_loss(views):
    x, y = views
    assert np.isnan(tf.function(fmicl_tensorflow.fmicl_loss)(x * np.nan, y))


def test_autograph_can_read_all_of_the_sources():
    """It warns of each function with `:=`, which it does not know, in a user's log."""
    sources = Path(fmicl_tensorflow.__file__).parent.glob("*.py")
    trees = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in sources}
    assert "info_nce.py" in trees
    for name, tree in trees.items():
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.NamedExpr)], name
