"""Labels and more than two views: which samples belong together, from y_true and y_pred."""

import os
import re

import keras
import numpy as np
import pytest

from fmicl_core import FMICL, fmicl_reference
from fmicl_core.related import info_nce_reference
from fmicl_keras import FMICLLoss, FMICLPenalty, FMICLScore, InfoNCELoss, TwoViews

BACKEND = os.environ["KERAS_BACKEND"]
LABELS = np.array([0, 1, 2, 0, 1, 5, 0, 7, 2, 2, 9])
#: Views of a sample, scheme of negatives, and which rows with equal ids are positives.
CASES = [(2, "within", "pair"), (2, "cross", "ids"), (2, "all", "ids"), (1, "anchor", "ids"),
         (4, "all", "ids")]  # fmt: skip
cases = pytest.mark.parametrize(("count", "negatives", "positives"), CASES)


def numpy(value):
    return keras.ops.convert_to_numpy(value)


def draw(count, n=11, d=5):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 1, d)) + 0.5 * rng.normal(size=(n, count, d))


def arrays(y_pred, ids):
    """(x, y, ids) as the references take them."""
    n, count, d = y_pred.shape
    if count == 2:
        return y_pred[:, 0], y_pred[:, 1], ids
    return y_pred.reshape(-1, d), None, np.repeat(np.arange(n) if ids is None else ids, count)


def truth_of(y_pred, ids, *options):
    x, y, ids = arrays(y_pred, ids)
    return fmicl_reference(x, y, FMICL(*options), ids=ids)


@pytest.mark.parametrize(
    ("count", "negatives", "positives", "ids", "implementation"),
    [(2, "within", "pair", LABELS, "tiled"), (2, "all", "ids", LABELS, "dense"),
     (1, "anchor", "ids", LABELS, "dense"), (4, "all", "ids", LABELS, "tiled"),
     (4, "anchor", "ids", None, "tiled")],
    ids=["duplicates", "labels", "labels alone", "labels and views", "views"],
)  # fmt: skip
def test_loss_and_gradient_equal_the_reference(
    value_and_gradient, set_tile, count, negatives, positives, ids, implementation
):
    set_tile(4)
    y_pred, alpha = draw(count), "auto" if negatives == "all" else 3.0
    truth = truth_of(y_pred, ids, "js", "gaussian", alpha, negatives, True, positives)
    loss = FMICLLoss(
        divergence="js", alpha=alpha, negatives=negatives, positives=positives, dtype="float64",
        implementation=implementation, ids_from_targets=ids is not None,
    )  # fmt: skip
    value, gradient = value_and_gradient(lambda p: loss(ids, p), y_pred)
    assert value == pytest.approx(truth.loss, rel=1e-10)
    want = truth.grad_x.reshape(y_pred.shape) if truth.grad_y is None else np.stack(
        [truth.grad_x, truth.grad_y], axis=1
    )  # fmt: skip
    assert np.abs(gradient - want).max() <= 1e-10 * np.abs(want).max()
    _, weighted = value_and_gradient(lambda p: loss(ids, p, np.ones(11)), y_pred)
    assert np.abs(weighted - want).max() <= 1e-10 * np.abs(want).max()
    terms = loss.terms(y_pred, ids)
    assert [numpy(v) for v in terms] == pytest.approx(
        [truth.loss, truth.score, truth.penalty, truth.alpha], rel=1e-10
    )


@cases
def test_the_losses_of_samples_have_that_of_the_batch_as_mean(count, negatives, positives):
    y_pred = draw(count)
    options = {"negatives": negatives, "positives": positives, "dtype": "float64"}
    x, y, ids = arrays(y_pred, LABELS)
    for loss, want in (
        (FMICLLoss, fmicl_reference(x, y, FMICL("kl", "gaussian", 40.0, negatives, True, positives),
                                    ids=ids).loss),
        (InfoNCELoss, info_nce_reference(x, y, 0.5, negatives, positives=positives, ids=ids)),
    ):  # fmt: skip
        whole = loss(ids_from_targets=True, **options)
        single = loss(ids_from_targets=True, reduction="none", **options)
        values = numpy(single(LABELS, y_pred))
        assert values.shape == (11,)
        assert values.mean() == pytest.approx(want, rel=1e-12)
        assert numpy(whole(LABELS, y_pred)) == pytest.approx(want, rel=1e-12)
        weights = np.linspace(0.0, 2.0, 11)
        np.testing.assert_allclose(numpy(single(LABELS, y_pred, weights)), weights * values)


def test_a_sample_s_loss_is_of_its_positives_and_its_share_of_the_negative_pairs():
    """By a loop: -mean over positives of s + alpha N (sum over its negatives of f*(s)) / M."""
    y_pred, settings = draw(2), FMICL("js", alpha=3.0, negatives="all")
    unit = y_pred / np.linalg.norm(y_pred, axis=2, keepdims=True)
    rows, sample = unit.reshape(-1, 5), np.repeat(np.arange(11), 2)
    a, _, c = settings.coefficients()
    z, equal = a * rows @ rows.T + c, LABELS[sample][:, None] == LABELS[sample]
    want = []
    for i in range(11):
        anchors = [2 * i, 2 * i + 1]
        positives = [[j for j in np.flatnonzero(equal[k]) if j != k] for k in anchors]
        score = np.mean(
            [settings.positive(z[k, p]).mean() for k, p in zip(anchors, positives, strict=True)]
        )
        penalty = sum(settings.negative(z[k, ~equal[k]]).sum() for k in anchors)
        want.append(-score + 3.0 * 11 * penalty / (~equal).sum())
    loss = FMICLLoss(divergence="js", alpha=3.0, negatives="all", reduction="none",
                     ids_from_targets=True, dtype="float64")  # fmt: skip
    np.testing.assert_allclose(numpy(loss(LABELS, y_pred)), want, rtol=1e-10)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "none"])
@pytest.mark.parametrize("loss", [FMICLLoss, InfoNCELoss])
def test_with_all_ids_different_it_is_the_loss_without_ids(loss, reduction):
    y_pred = draw(2).astype("float32")
    want = numpy(loss(reduction=reduction)(None, y_pred))
    got = loss(reduction=reduction, ids_from_targets=True)(np.arange(11) * 7 - 20, y_pred)
    (np.testing.assert_array_equal if loss is FMICLLoss else np.testing.assert_allclose)(
        numpy(got), want
    )


@pytest.mark.parametrize("weights", [None, np.ones(11)], ids=["batch", "samples"])
def test_targets_of_every_integer_kind_are_ids(weights):
    y_pred = draw(2)
    for loss in (FMICLLoss(ids_from_targets=True), InfoNCELoss(ids_from_targets=True)):
        want = numpy(loss(LABELS, y_pred, weights))
        far = LABELS.astype("int64") * 2**32 - 5  # alike in their last 32 bits
        for y_true in (
            LABELS[:, None], LABELS.tolist(), LABELS.astype("uint8"), -LABELS.astype("int32"), far,
            keras.ops.convert_to_tensor(LABELS.astype("int32")),
        ):  # fmt: skip
            assert numpy(loss(y_true, y_pred, weights)) == want


SHAPE = "one whole number per sample, (batch,) or (batch, 1)"
ONE_HOT = SHAPE + ". One-hot rows become whole numbers by keras.ops.argmax(y_true, axis=-1). "
DTYPE = "whole numbers, in a dtype such as int64 or int32. "
WRONG = [
    (np.eye(10, dtype="float32")[LABELS], ONE_HOT + "Received: y_true.shape=(11, 10)"),
    (LABELS + 0.5, DTYPE + "Received: y_true.dtype='float"),
    (LABELS.astype("float32"), DTYPE + "Received: y_true.dtype='float32'"),
    (LABELS > 1, DTYPE + "Received: y_true.dtype='bool'"),
]


@pytest.mark.parametrize(("y_true", "message"), [
    *WRONG, (np.array(["a"] * 11), DTYPE + "Received: y_true.dtype='str"),
    (None, SHAPE + ". With `ids_from_targets` they say"), ({"a": LABELS}, SHAPE + ". With `ids"),
    (LABELS[:7], SHAPE + ", batch = 11. Received: y_true.shape=(7,)"),
], ids=repr)  # fmt: skip
def test_targets_that_are_no_ids_are_refused(y_true, message):
    y_pred, said = draw(2), re.escape("Invalid value for argument `y_true`. Expected " + message)
    loss = FMICLLoss(ids_from_targets=True)
    for call in (
        lambda: loss(y_true, y_pred), lambda: loss(y_true, y_pred, np.ones(11)),
        lambda: FMICLScore(loss).update_state(y_true, y_pred), lambda: loss.terms(y_pred, y_true),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            call()


@pytest.mark.parametrize(("y_true", "message"), WRONG, ids=["one-hot", "half", "float", "bool"])
def test_fit_refuses_targets_that_are_no_ids(y_true, message):
    model = keras.Sequential([keras.layers.Input((2, 5)), keras.layers.Dense(3)])
    model.compile("sgd", loss=FMICLLoss(ids_from_targets=True))
    said = message.split("(11")[0]  # the batch is unknown to TensorFlow there
    with pytest.raises(ValueError, match=re.escape("`y_true`. Expected " + said)):
        model.fit(draw(2), y_true, verbose=0)


@pytest.mark.parametrize("loss", [FMICLLoss, InfoNCELoss])
@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [("negatives", "cross", "'anchor' or 'all'"), ("negatives", "within", "'anchor' or 'all'"),
     ("positives", "pair", "'ids'")],
)  # fmt: skip
def test_options_that_need_two_views_are_refused_for_more(loss, option, value, expected):
    said = f"`{option}`. Expected {expected} unless there are two views of a sample."
    with pytest.raises(ValueError, match=re.escape(said)):
        loss(**{option: value})(None, draw(4))


def test_the_option_is_true_or_false():
    with pytest.raises(ValueError, match=r"`ids_from_targets`. Expected True or False"):
        FMICLLoss(ids_from_targets="labels")


NO_JIT, EAGER = {"jit_compile": False}, {"run_eagerly": True}
slow_in_torch = [pytest.mark.slow] if BACKEND == "torch" else []


def jit(*values):
    """A case that `torch.compile` makes slow."""
    return pytest.param(*values, {"jit_compile": True}, marks=slow_in_torch)


def one_layer(loss, count, metrics=(), **how):
    """A model whose one weight matrix follows the gradient of its features."""
    model = keras.Sequential([
        keras.layers.Input((count, 5) if count > 1 else (5,)),
        keras.layers.Dense(5, use_bias=False),
    ])  # fmt: skip
    model.set_weights([np.eye(5, dtype="float32")])
    model.compile(keras.optimizers.SGD(1.0), loss=loss, metrics=list(metrics), **how)
    return model


@pytest.mark.parametrize(("count", "how"), [(1, {}), (2, NO_JIT), jit(3), (3, EAGER)], ids=str)
def test_one_step_of_fit_follows_the_labels(told, count, how):
    y_pred = draw(count).astype("float32")
    loss = FMICLLoss(divergence="js", ids_from_targets=True)
    terms = [FMICLScore(loss), FMICLPenalty(loss)]
    model = one_layer(loss, count, terms, **how)
    data = y_pred if count > 1 else y_pred[:, 0]
    history, warned = told(lambda: model.fit(data, LABELS, verbose=0).history)
    assert not warned
    truth = truth_of(y_pred, LABELS, "js")
    got = [history[name][0] for name in ("loss", "fmicl_score", "fmicl_penalty")]
    assert got == pytest.approx([truth.loss, truth.score, truth.penalty], rel=1e-5)
    gradients = truth.grad_x if truth.grad_y is None else np.stack(
        [truth.grad_x, truth.grad_y], axis=1
    )  # fmt: skip
    gradient = y_pred.reshape(-1, 5).T @ gradients.reshape(-1, 5)
    change = np.eye(5) - model.get_weights()[0]
    assert np.abs(change - gradient).max() <= 2e-5 * np.abs(gradient).max()


@pytest.mark.parametrize(
    ("count", "last", "weights", "how"),
    [jit(2, [4, 4], None), (2, [4, 4], None, EAGER), (1, [3, 4, 5], np.ones(11), NO_JIT)],
)
def test_a_last_batch_without_pairs_teaches_nothing_and_warns_once(told, count, last, weights, how):
    """Labels that are all alike, or where only they make positives all different."""
    n = 11 - len(last)
    y_pred, labels = draw(count).astype("float32"), np.concatenate([LABELS[:n], last])
    y_pred = y_pred if count > 1 else y_pred[:, 0]
    loss = FMICLLoss(divergence="js", ids_from_targets=True)

    def trained(n):
        model = one_layer(loss, count, [FMICLScore(loss)] if weights is None else [], **how)
        history = model.fit(
            y_pred[:n], labels[:n], batch_size=11 - len(last), shuffle=False, verbose=0,
            sample_weight=None if weights is None else weights[:n],
        ).history  # fmt: skip
        return model.get_weights()[0], history

    want, report = trained(n)
    (got, reported), warned = told(lambda: trained(11))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert reported["loss"][0] == pytest.approx(n / 11 * report["loss"][0], rel=1e-5)
    if weights is None:
        assert reported["fmicl_score"] == pytest.approx(report["fmicl_score"], rel=1e-5)
    compiled = BACKEND in ("tensorflow", "torch") and how.get("jit_compile")
    assert warned == (0 if compiled else 1)


def test_labels_reach_a_loss_that_reads_them_and_no_other():
    samples = np.random.default_rng(0).normal(size=(11, 6)).astype("float32")
    model = TwoViews(keras.Sequential([keras.layers.Dense(4)]), keras.layers.GaussianNoise(0.0))
    for loss in (FMICLLoss(), FMICLLoss(ids_from_targets=True)):
        model.compile(keras.optimizers.SGD(0.0), loss=loss)
        got = model.fit(samples, LABELS, verbose=0).history["loss"][0]
        ids = LABELS if loss.ids_from_targets else None
        want = truth_of(numpy(model(samples)), ids, "kl").loss
        assert got == pytest.approx(want, rel=1e-5)
    with pytest.raises(ValueError, match=r"`y_true`. Expected whole numbers"):
        model.fit(samples, sample_weight=np.ones(11, int), verbose=0)


def test_views_of_a_sample_stand_together():
    """Four views of every sample, each of a draw of its own, through one encoder in one batch."""
    encoder = keras.Sequential([keras.layers.Identity()])
    samples = np.random.default_rng(0).normal(size=(7, 3)).astype("float32")
    model = TwoViews(encoder, keras.layers.GaussianNoise(0.01), views=4)
    views = numpy(model(samples))
    assert views.shape == (7, 4, 3)
    assert 0.0 < np.abs(views - samples[:, None]).max() < 0.1
    assert len(np.unique(views[0], axis=0)) == 4
    model.compile(keras.optimizers.SGD(0.0), loss=InfoNCELoss())
    assert np.isfinite(model.fit(samples, verbose=0).history["loss"]).all()
    with pytest.raises(ValueError, match=r"`views`. Expected a whole number >= 2"):
        TwoViews(encoder, keras.layers.GaussianNoise(0.01), views=1)
