"""SigLIP and CLIP as layers that learn: values, steps of `fit`, files, and what they refuse."""

import os
import re

import keras
import numpy as np
import pytest

from fmicl_core.family import clip_reference, siglip_reference
from fmicl_keras import CLIPLoss, FMICLLoss, SigLIPLoss

BACKEND = os.environ["KERAS_BACKEND"]
REFERENCES = {SigLIPLoss: siglip_reference, CLIPLoss: clip_reference}
IDS = np.array([0, 1, 2, 0, 1, 5, 0, 7, 2, 2, 9], "int32")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(11, 5))
Y = X + 0.5 * RNG.normal(size=X.shape)
FLOAT32 = X.astype("float32"), Y.astype("float32")

many_compilations = pytest.mark.many_compilations
both = pytest.mark.parametrize("layer", REFERENCES)


def numpy(value):
    return keras.ops.convert_to_numpy(value)


def slope(function, at, step=1e-5):
    return (function(at + step) - function(at - step)) / (2 * step)


def model_of(criterion, ids=False, towers=False, **how):
    """A compiled model that ends in the layer; without towers it has the layer's weights alone."""
    inputs = [keras.Input((5,)), keras.Input((5,))]
    inputs += [keras.Input((), dtype="int32")] if ids else []
    features = [keras.layers.Dense(4)(v) for v in inputs[:2]] if towers else inputs[:2]
    model = keras.Model(inputs, criterion(*features, ids=inputs[2] if ids else None))
    model.compile(keras.optimizers.SGD(0.1), **how)
    return model


@many_compilations
@pytest.mark.parametrize(
    ("layer", "options"),
    [(SigLIPLoss, {"positives": "pair", "normalize": False, "implementation": "tiled"}),
     (CLIPLoss, {})],
)  # fmt: skip
def test_loss_and_gradient_equal_the_reference(value_and_gradient, set_tile, layer, options):
    set_tile(4)
    criterion = layer(logit_scale=3.0, dtype="float64", **options)
    given = {"ids": IDS, "logit_scale": 3.0} | options
    given.pop("implementation", None)

    def loss_of(x):
        features = criterion(x, keras.ops.convert_to_tensor(Y, "float64"), ids=IDS)
        assert len(features) == 2
        (loss,) = criterion.losses
        return loss

    value, gradient = value_and_gradient(loss_of, X)
    # A weight's first value has 32 bits in TensorFlow.
    assert value == pytest.approx(REFERENCES[layer](X, Y, **given), rel=1e-7)
    direction = np.random.default_rng(2).normal(size=X.shape)
    want = slope(lambda t: REFERENCES[layer](X + t * direction, Y, **given), 0.0)
    assert (gradient * direction).sum() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize(
    ("layer", "ids", "how"),
    [(SigLIPLoss, IDS, {}),
     pytest.param(CLIPLoss, None, {"jit_compile": False}, marks=many_compilations),
     pytest.param(SigLIPLoss, None, {"jit_compile": True}, marks=pytest.mark.slow)],
    ids=["SigLIP, ids", "CLIP", "SigLIP, jit"],
)  # fmt: skip
def test_a_step_of_fit_follows_the_slopes_in_scale_and_bias(layer, ids, how):
    start = {"logit_scale": 3.0} | ({"logit_bias": -2.0} if layer is SigLIPLoss else {})
    criterion = layer(**start)
    data = [*FLOAT32, *([] if ids is None else [ids])]
    model = model_of(criterion, ids is not None, **how)
    for features, given in zip(model.predict(data, verbose=0), FLOAT32, strict=True):
        np.testing.assert_array_equal(features, given)
    logs = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(criterion.learned())
    )
    history = model.fit(data, verbose=0, callbacks=[logs]).history

    def loss_of(**scalars):
        return REFERENCES[layer](X, Y, ids=ids, **start | scalars)

    assert history["loss"][0] == pytest.approx(loss_of(), rel=1e-5)
    step = 0.1 * slope(lambda t: loss_of(logit_scale=np.exp(t)), np.log(3.0))
    assert np.log(history["logit_scale"][0] / 3.0) == pytest.approx(-step, rel=1e-3)
    if layer is SigLIPLoss:
        step = 0.1 * slope(lambda b: loss_of(logit_bias=b), -2.0)
        assert history["logit_bias"][0] == pytest.approx(-2.0 - step, rel=1e-4)


@many_compilations
def test_the_scale_of_clip_stays_at_a_hundred_or_below():
    criterion = CLIPLoss(logit_scale=100.0)
    criterion.log_scale.assign(6.0)
    model_of(criterion).fit(list(FLOAT32), verbose=0)
    assert criterion.learned() == pytest.approx({"logit_scale": 100.0})


@pytest.mark.parametrize(
    ("layer", "how"),
    [pytest.param(SigLIPLoss, {}, marks=many_compilations),
     pytest.param(CLIPLoss, {"jit_compile": True}, marks=pytest.mark.slow)],
    ids=["SigLIP", "CLIP, jit"],
)  # fmt: skip
def test_a_last_batch_of_one_teaches_nothing_and_warns_once(told, layer, how):
    """11 rows in batches of 10 train as the first 10; only the mean loss counts a zero more."""

    def trained(n):
        keras.utils.set_random_seed(0)
        model = model_of(layer(), towers=True, **how)
        data = [v[:n] for v in FLOAT32]
        history = model.fit(data, batch_size=10, epochs=2, shuffle=False, verbose=0).history
        return model.get_weights(), history["loss"]

    want, losses = trained(10)
    (got, reported), warned = told(lambda: trained(11))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert reported == pytest.approx([10 / 11 * v for v in losses], rel=1e-5)
    assert warned == (0 if BACKEND == "tensorflow" and how else 1)


@both
def test_layers_configure_alike(layer):
    options = {"logit_scale": 5.0, "positives": "pair", "normalize": False, "name": "towers",
               "implementation": "tiled", "dtype": "float64"}  # fmt: skip
    if layer is SigLIPLoss:
        options |= {"logit_bias": -3.0, "check_finite": False}
    config = layer(**options).get_config()
    assert {k: config[k] for k in options if k != "dtype"} == {
        k: v for k, v in options.items() if k != "dtype"
    }
    twin = layer.from_config(config)
    assert twin.get_config() == config
    assert twin.dtype == "float64"


@many_compilations
def test_a_model_saves_and_loads(tmp_path):
    model = model_of(SigLIPLoss(), ids=True, towers=True)
    data = [*FLOAT32, IDS[:, None]]  # of either shape
    model.fit(data, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.layers[-1].learned() == model.layers[-1].learned() != SigLIPLoss().learned()
    assert again.evaluate(data, verbose=0) == pytest.approx(model.evaluate(data, verbose=0))


@many_compilations
def test_under_mixed_precision_the_loss_is_float32():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        criterion = SigLIPLoss()
        model = model_of(criterion, towers=True)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {keras.backend.standardize_dtype(v.dtype) for v in model.outputs} == {"float16"}
    history = model.fit(list(FLOAT32), epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert {v.dtype for v in criterion.weights} == {"float32"}
    half = [keras.ops.cast(v, "float16") for v in FLOAT32]
    features = criterion(*half)
    assert [keras.backend.standardize_dtype(v.dtype) for v in features] == ["float16"] * 2
    wide = [numpy(keras.ops.cast(v, "float32")) for v in half]
    want = siglip_reference(*wide, **criterion.learned())
    assert numpy(criterion.losses[0]) == pytest.approx(want, rel=1e-5)


def test_a_scale_and_a_bias_that_stay_are_options_of_the_loss():
    """SigLIP is Jensen-Shannon f-MICL with the alpha N - 1, plus N log 2; also by its samples."""
    options = {"divergence": "js", "logit_scale": 3.0, "logit_bias": -2.0, "alpha": 10.0,
               "negatives": "cross", "dtype": "float64"}  # fmt: skip
    y_pred = np.stack([X, Y], axis=1)
    want = siglip_reference(X, Y, 3.0, -2.0) - 11 * np.log(2.0)
    assert numpy(FMICLLoss(**options)(None, y_pred)) == pytest.approx(want, rel=1e-10)
    of_samples = numpy(FMICLLoss(reduction="none", **options)(None, y_pred))
    assert of_samples.mean() == pytest.approx(want, rel=1e-10)


Y_EXPECTED = "`y`. Expected the features of the other tower, (batch, dim). Call the layer as"
IDS_EXPECTED = "`ids`. Expected whole numbers, in a dtype such as int64 or int32"


@both
def test_what_does_not_fit_is_refused_in_our_words(layer):
    """In a functional model when it is made."""
    x, y = FLOAT32
    masked = keras.layers.Masking()(np.where(np.arange(11)[:, None] == 3, 0.0, y))
    inputs = keras.Input((5,)), keras.Input((4,))
    for call, message in (
        (lambda: layer()([x, y]), Y_EXPECTED),
        (lambda: layer()(x, y[:, :4]), "`y`. Expected the shape of `x`, (11, 5)"),
        (lambda: layer()(x, y[:7]), "`y`. Expected the shape of `x`, (11, 5)"),
        (lambda: layer()(*inputs), "`y`. Expected the shape of `x`, (None, 5)"),
        (lambda: layer()(x[:, None], y), "`x`. Expected a 2-D array (N, D)"),
        (lambda: layer()(x, y, ids=x[:, 0]), IDS_EXPECTED),
        (lambda: layer()(x, y, ids=IDS[:7]), "`ids`. Expected one whole number per sample"),
        (lambda: layer()(inputs[0], inputs[0], ids=keras.Input(())), IDS_EXPECTED),
        (lambda: layer()(x, masked), "`y`. Expected features without a Keras mask of samples"),
        (lambda: layer(logit_scale=-1.0), "`logit_scale`. Expected a finite number > 0"),
        (lambda: layer(positives="none"), "`positives`. Expected one of 'ids', 'pair'"),
        (lambda: layer(normalize=1), "`normalize`. Expected True or False"),
        (lambda: layer(implementation="fast"), "`implementation`. Expected one of 'auto'"),
        (lambda: layer(dtype="int32"), "`dtype`. Expected one of 'float16'"),
        (lambda: CLIPLoss(logit_scale=200.0), "`logit_scale`. Expected a number <= 100, at which"),
        (lambda: SigLIPLoss(logit_bias="no"), "`logit_bias`. Expected a finite number"),
        (lambda: SigLIPLoss(check_finite=1), "`check_finite`. Expected True or False"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(message)):
            call()


@many_compilations
def test_a_mask_within_the_rows_is_none_of_theirs():
    """As Keras leaves one behind a text tower that has averaged its tokens."""
    tokens = np.random.default_rng(0).integers(0, 5, (11, 7))
    text = keras.Sequential([
        keras.layers.Embedding(5, 5, mask_zero=True), keras.layers.GlobalAveragePooling1D(),
    ])  # fmt: skip
    criterion = SigLIPLoss()
    _, features = criterion(FLOAT32[0], text(tokens))
    want = siglip_reference(FLOAT32[0], numpy(features))
    assert numpy(criterion.losses[0]) == pytest.approx(want, rel=1e-5)
