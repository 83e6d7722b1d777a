"""Values, gradients, weights and reductions equal the float64 reference."""

import os
import re

import keras
import numpy as np
import pytest

from fmicl_core import FMICL, fmicl_reference
from fmicl_core.pairs import NEGATIVES
from fmicl_core.related import info_nce_reference
from fmicl_keras import Alignment, FMICLLoss, InfoNCELoss
from fmicl_keras.backend import library

every_scheme = pytest.mark.parametrize("negatives", NEGATIVES)
BACKEND = os.environ["KERAS_BACKEND"]
WEIGHTS = np.random.default_rng(1).uniform(0.0, 3.0, size=11)


def numpy(value):
    return keras.ops.convert_to_numpy(value)


def anchors(y_pred, i, negatives):
    """(anchor, positive, negatives) of sample i, for each of its views that is an anchor."""
    (x, y), (others_x, others_y) = (
        np.moveaxis(v, 1, 0) for v in (y_pred[[i]], np.delete(y_pred, i, 0))
    )
    both = np.concatenate([others_x, others_y])
    return {
        "anchor": [(x, y, others_x)],
        "within": [(x, y, others_x), (y, x, others_y)],
        "cross": [(x, y, others_y)],
        "all": [(x, y, both), (y, x, both)],
    }[negatives]


def by_anchor(y_pred, negatives, loss_of):
    """The losses of all samples by the library's reference, one anchor and its bank at a time."""
    return np.array([
        np.mean([loss_of(*a) for a in anchors(y_pred, i, negatives)]) for i in range(len(y_pred))
    ])  # fmt: skip


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
@every_scheme
def test_loss_and_gradient_equal_the_reference(
    views, value_and_gradient, set_tile, negatives, implementation
):
    set_tile(4)
    normalize = negatives != "cross"
    y_pred = views()
    truth = fmicl_reference(
        y_pred[:, 0], y_pred[:, 1], FMICL("js", "gaussian", 3.0, negatives, normalize)
    )
    loss = FMICLLoss(
        divergence="js", alpha=3.0, negatives=negatives, normalize=normalize,
        implementation=implementation, dtype="float64",
    )  # fmt: skip
    value, gradient = value_and_gradient(lambda p: loss(None, p), y_pred)
    assert value == pytest.approx(truth.loss, rel=1e-10)
    want = np.stack([truth.grad_x, truth.grad_y], axis=1)
    assert np.abs(gradient - want).max() <= 1e-10 * np.abs(want).max()


@every_scheme
def test_the_losses_of_samples_are_those_of_their_anchors(views, value_and_gradient, negatives):
    """Also the gradient of a weighted mean, which no other path of the library takes."""
    y_pred, objective = views(), FMICL("pearson", alpha=3.0, negatives=negatives)
    options = {"divergence": "pearson", "alpha": 3.0, "negatives": negatives, "dtype": "float64"}
    want = by_anchor(
        y_pred, negatives, lambda x, y, bank: fmicl_reference(x, y, objective, bank).loss
    )
    got = numpy(FMICLLoss(reduction="none", **options)(None, y_pred))
    np.testing.assert_allclose(got, want, rtol=1e-10)
    tensor = keras.ops.convert_to_tensor(y_pred, dtype="float64")
    np.testing.assert_array_equal(numpy(FMICLLoss(**options).call(None, tensor)), got)
    assert got.mean() == pytest.approx(numpy(FMICLLoss(**options)(None, y_pred)), rel=1e-12)

    _, gradient = value_and_gradient(lambda p: FMICLLoss(**options)(None, p, WEIGHTS), y_pred)
    direction = np.random.default_rng(2).normal(size=y_pred.shape)
    ahead, behind = (
        WEIGHTS @ by_anchor(
            y_pred + step * direction, negatives,
            lambda x, y, bank: fmicl_reference(x, y, objective, bank).loss,
        ) / 11
        for step in (1e-6, -1e-6)
    )  # fmt: skip
    assert (gradient * direction).sum() == pytest.approx((ahead - behind) / 2e-6, rel=1e-6)


@every_scheme
@pytest.mark.parametrize("divergence", ["kl", "pearson"])
def test_alpha_is_found_alike_for_a_batch_and_for_its_samples(
    views, value_and_gradient, divergence, negatives
):
    """That of the reference; weighted losses have the gradient of those with its number."""
    y_pred, options = views(), {"divergence": divergence, "negatives": negatives}
    truth = fmicl_reference(*np.moveaxis(y_pred, 1, 0), FMICL(**options, alpha="auto"))
    loss = FMICLLoss(**options, alpha="auto", dtype="float64")
    fixed = FMICLLoss(**options, alpha=truth.alpha, dtype="float64")
    terms = loss.terms(keras.ops.convert_to_tensor(y_pred))
    assert numpy(terms.alpha) == pytest.approx(truth.alpha, rel=1e-12)
    value, gradient = value_and_gradient(lambda p: loss(None, p), y_pred)
    assert value == pytest.approx(truth.loss, rel=1e-10)
    want = np.stack([truth.grad_x, truth.grad_y], axis=1)
    assert np.abs(gradient - want).max() <= 1e-10 * np.abs(want).max()
    found, wanted = (
        value_and_gradient(lambda p, of=of: of(None, p, WEIGHTS), y_pred) for of in (loss, fixed)
    )
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-10)
    assert np.abs(found[1] - wanted[1]).max() <= 1e-10 * np.abs(wanted[1]).max()


@every_scheme
def test_info_nce_follows_the_same_conventions(views, negatives):
    y_pred, options = views(), {"temperature": 0.3, "negatives": negatives, "dtype": "float64"}
    whole = info_nce_reference(y_pred[:, 0], y_pred[:, 1], 0.3, negatives)
    want = by_anchor(y_pred, negatives, lambda x, y, bank: info_nce_reference(x, y, 0.3, bank=bank))
    assert want.mean() == pytest.approx(whole, rel=1e-12)
    assert numpy(InfoNCELoss(**options)(None, y_pred)) == pytest.approx(whole, rel=1e-12)
    got = numpy(InfoNCELoss(reduction="none", **options)(None, y_pred))
    np.testing.assert_allclose(got, want, rtol=1e-12)


REDUCTIONS = {
    "sum": lambda v, w: w @ v,
    "sum_over_batch_size": lambda v, w: w @ v / len(v),
    "mean": lambda v, w: w @ v / len(v),
    "mean_with_sample_weight": lambda v, w: w @ v / w.sum(),
    "none": lambda v, w: w * v,
    None: lambda v, w: w * v,
}


@pytest.mark.parametrize("loss", [FMICLLoss, InfoNCELoss])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reductions_and_weights(views, loss, reduction):
    y_pred = views()
    values = numpy(loss(reduction="none", dtype="float64")(None, y_pred))
    reduced, expected = loss(reduction=reduction, dtype="float64"), REDUCTIONS[reduction]
    for given, weights in (
        (None, np.ones(11)), (WEIGHTS, WEIGHTS), (WEIGHTS[:, None], WEIGHTS),
        (0.5, np.full(11, 0.5)),
    ):  # fmt: skip
        got = numpy(reduced(None, y_pred, given))
        np.testing.assert_allclose(got, expected(values, weights), rtol=1e-12)
    nothing = numpy(reduced(None, y_pred, np.zeros(11)))
    np.testing.assert_array_equal(nothing, np.zeros_like(nothing))


def test_without_weights_no_pair_is_kept(views, monkeypatch):
    """Only then is the memory that of the tiled form; the losses of samples hold every pair."""
    from fmicl_keras import loss as module

    monkeypatch.setattr(module, "fmicl_by_anchor", None)
    tiled = FMICLLoss(implementation="tiled", reduction="sum")
    assert np.isfinite(numpy(tiled(None, views())))
    with pytest.raises(TypeError):
        tiled(None, views(), WEIGHTS)


def test_targets_are_not_read(views):
    loss, y_pred = FMICLLoss(), views()
    expected = numpy(loss(None, y_pred))
    for y_true in (np.arange(11), np.array(["a"] * 11), {"any": [object()]}):
        assert numpy(loss(y_true, y_pred)) == expected


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(views, dtype):
    half = keras.ops.cast(views(), dtype)
    expected = numpy(FMICLLoss()(None, keras.ops.cast(half, "float32")))
    for asked in (None, dtype, f"mixed_{dtype}"):
        loss = FMICLLoss(dtype=asked)
        assert loss.dtype == "float32"
        assert numpy(loss(None, half)) == expected


def test_the_dtype_is_that_of_keras():
    keras.config.set_floatx("float64")
    try:
        assert FMICLLoss().dtype == "float64"
    finally:
        keras.config.set_floatx("float32")


VIEWS = "the views of every sample, (batch, V, dim) with V >= 2. Views z1 and z2 become one by"
VIEWS += " keras.ops.stack([z1, z2], axis=1)."
SHAPES = [((4, 2), VIEWS), ((4, 1, 5), VIEWS), ((4, 2, 0), "at least one feature, dim >= 1.")]


@pytest.mark.parametrize("loss", [FMICLLoss, InfoNCELoss])
@pytest.mark.parametrize(("shape", "message"), SHAPES, ids=str)
def test_shapes(loss, shape, message):
    said = f"argument `y_pred`. Expected {message} Received: y_pred.shape={shape}"
    for weights in (None, np.ones(shape[0])):
        with pytest.raises(ValueError, match=re.escape(said)):
            loss()(None, np.ones(shape, "float32"), weights)


@pytest.mark.parametrize("weights", [None, np.ones(1)], ids=["", "weights"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", [FMICLLoss, InfoNCELoss])
def test_a_single_sample_has_no_loss_and_no_gradient(
    views, value_and_gradient, told, loss, reduction, weights
):
    one, criterion = views(n=1), loss(reduction=reduction, dtype="float64")
    value = numpy(criterion(None, one, weights))
    np.testing.assert_array_equal(value, np.zeros(1 if reduction in (None, "none") else ()))

    def differentiated():
        return value_and_gradient(lambda p: keras.ops.sum(criterion(None, p, weights)), one)

    ((value, gradient), _), warned = told(lambda: (differentiated(), differentiated()))
    assert value == 0.0
    np.testing.assert_array_equal(gradient, np.zeros_like(one))
    assert warned == 1
    one[0, 1, 2] = np.nan
    assert np.isnan(numpy(criterion(None, one, weights))).all()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="elsewhere a batch has a size when traced")
@pytest.mark.parametrize("implementation", ["dense", "tiled"])
@pytest.mark.parametrize("loss", [FMICLLoss, InfoNCELoss])
def test_one_graph_serves_a_batch_and_a_single_sample(
    views, value_and_gradient, told, loss, implementation
):
    import tensorflow as tf

    criterion = loss(implementation=implementation, dtype="float64")

    def found(array):
        return value_and_gradient(lambda p: criterion(None, p), array)

    @tf.function(input_signature=[tf.TensorSpec([None, 2, 5], tf.float64)])
    def in_graph(array):
        with tf.GradientTape() as tape:
            tape.watch(array)
            value = criterion(None, array)
        return value, tape.gradient(value, array)

    for n, warnings in ((11, 0), (1, 1)):
        got, warned = told(lambda n=n: in_graph(tf.constant(views(n=n))))
        assert warned == warnings
        for a, b in zip(got, found(views(n=n)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


def test_only_the_loss_of_a_single_sample_is_no_error(views):
    """Its terms, asked for by name, do not exist; nor does the library's loss."""
    one = keras.ops.convert_to_tensor(views(n=1), dtype="float64")
    x, y = one[:, 0], one[:, 1]
    for call in (lambda: FMICLLoss().terms(one), lambda: library().fmicl_loss(x, y)):
        with pytest.raises(ValueError, match=r"`x`. Expected at least two rows"):
            call()


@pytest.mark.parametrize("loss", [FMICLLoss, InfoNCELoss])
def test_masked_features_are_refused(views, loss):
    """Masks of samples or views, as a Masking layer makes them of y_pred."""
    y_pred = views().astype("float32")
    y_pred[3, 1] = 0.0
    message = "`y_pred`. Expected features without a Keras mask of samples or views. What is masked"
    masked = keras.layers.Masking()(y_pred)
    for call in (
        lambda: loss()(None, masked), lambda: Alignment().update_state(None, masked),
        lambda: loss()(None, masked, WEIGHTS), lambda: FMICLLoss().terms(masked),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
    layers = [keras.layers.Input((2, 5)), keras.layers.Masking(), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    model.compile("sgd", loss=loss())
    with pytest.raises(ValueError, match=re.escape(message)):
        model.fit(y_pred, verbose=0)


def test_a_mask_within_the_views_is_none_of_theirs():
    """As Keras leaves one behind where a layer has averaged the tokens of a text."""
    tokens = np.random.default_rng(0).integers(0, 5, (12, 2, 7))
    average = keras.layers.TimeDistributed(keras.layers.GlobalAveragePooling1D())
    model = keras.Sequential([keras.layers.Embedding(5, 4, mask_zero=True), average])
    features = model(tokens)
    expected = numpy(FMICLLoss()(None, numpy(features)))
    assert numpy(FMICLLoss()(None, features)) == pytest.approx(expected, rel=1e-6)
    model.compile(keras.optimizers.SGD(0.0), loss=FMICLLoss())
    history = model.fit(tokens, batch_size=12, verbose=0).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_weights_are_one_per_sample(views):
    message = "`sample_weight`. Expected one weight per sample, (batch,). Received: "
    with pytest.raises(ValueError, match=re.escape(message + "sample_weight.shape=(11, 2)")):
        FMICLLoss()(None, views(), np.ones((11, 2)))


def test_features_that_are_not_finite_are_named(views):
    y_pred = views()
    y_pred[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"`y`. Expected finite features. .* in row 3"):
        FMICLLoss()(None, y_pred)
    assert np.isnan(numpy(FMICLLoss(check_finite=False)(None, y_pred)))


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (FMICLLoss, {"alpha": -1}, "`alpha`. Expected a finite number > 0"),
        (FMICLLoss, {"divergence": "lk"}, "`divergence`. Expected one of 'kl', 'js'"),
        (FMICLLoss, {"implementation": "fast"}, "`implementation`. Expected one of"),
        (FMICLLoss, {"check_finite": 1}, "`check_finite`. Expected True or False"),
        (FMICLLoss, {"dtype": "int32"}, "`dtype`. Expected one of 'float16', 'bfloat16'"),
        (InfoNCELoss, {"temperature": 0}, "`temperature`. Expected a finite number > 0"),
        (InfoNCELoss, {"negatives": "none"}, "`negatives`. Expected one of 'anchor'"),
        (InfoNCELoss, {"normalize": 1}, "`normalize`. Expected True or False"),
        (InfoNCELoss, {"reduction": "max"}, "`reduction`. Expected one of"),
    ],
)  # fmt: skip
def test_options(loss, options, message):
    with pytest.raises(ValueError, match=re.escape(f"Invalid value for argument {message}")):
        loss(**options)
