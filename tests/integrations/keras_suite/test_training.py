"""`compile` and `fit` as Keras users write them."""

import inspect
import os
import re

import keras
import numpy as np
import pytest

from fmicl_core import FMICL, fmicl_reference
from fmicl_keras import (
    Alignment,
    ContrastiveAccuracy,
    FMICLLoss,
    FMICLPenalty,
    FMICLScore,
    InfoNCELoss,
    TwoViews,
    Uniformity,
    projection_head,
)

SAMPLES = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
BACKEND = os.environ["KERAS_BACKEND"]
EAGER = {"run_eagerly": True}


def two_views(dtype=None, noise=0.2):
    if dtype:
        keras.config.set_dtype_policy(dtype)
    try:
        encoder = keras.Sequential([keras.layers.Dense(16, activation="relu")])
        return TwoViews(encoder, keras.layers.GaussianNoise(noise), keras.layers.Dense(4))
    finally:
        keras.config.set_dtype_policy("float32")


def fit(model, *data, epochs=4, **options):
    return model.fit(*data, epochs=epochs, verbose=0, **options).history


@pytest.mark.parametrize("loss", [FMICLLoss(divergence="js"), InfoNCELoss()], ids=repr)
def test_training_lowers_the_loss_and_predicts_features(views, loss):
    model = two_views()
    model.compile(keras.optimizers.Adam(0.01), loss=loss)
    history = fit(model, SAMPLES, batch_size=32, validation_data=(SAMPLES,))
    assert history["loss"][-1] < history["loss"][0]
    assert history["val_loss"][-1] < history["val_loss"][0]
    assert model(SAMPLES).shape == (64, 2, 4)
    features = model.predict(SAMPLES, verbose=0)
    expected = keras.ops.convert_to_numpy(model.encoder(SAMPLES))
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.predict_on_batch(SAMPLES), expected, rtol=1e-5, atol=1e-6)


def compiled_how():
    torch_compiles = [pytest.mark.slow] if BACKEND == "torch" else []
    return [
        pytest.param({"jit_compile": True}, id="jit", marks=torch_compiles),
        pytest.param({"jit_compile": False}, id="no jit"),
        pytest.param(EAGER, id="eager"),
    ]


@pytest.mark.parametrize("how", compiled_how())
@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_one_step_is_the_reference_s_however_it_is_compiled(views, how, implementation):
    """An encoder that is the features themselves, so that weights follow the gradient."""
    y_pred = views(n=12, d=4).astype("float32")
    model = keras.Sequential([keras.layers.Input((2, 4)), keras.layers.Dense(4, use_bias=False)])
    model.set_weights([np.eye(4, dtype="float32")])
    loss = FMICLLoss(divergence="js", negatives="all", implementation=implementation)
    model.compile(keras.optimizers.SGD(1.0), loss=loss, **how)
    history = fit(model, y_pred, epochs=1)
    truth = fmicl_reference(y_pred[:, 0], y_pred[:, 1], FMICL("js", negatives="all"))
    gradient = np.einsum("nvi,nvj->ij", y_pred, np.stack([truth.grad_x, truth.grad_y], axis=1))
    assert history["loss"][0] == pytest.approx(truth.loss, rel=1e-5)
    got = np.eye(4) - model.get_weights()[0]
    assert np.abs(got - gradient).max() <= 2e-5 * np.abs(gradient).max()


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains(views, dtype):
    model = two_views(dtype)
    model.compile(keras.optimizers.Adam(0.01), loss=FMICLLoss(divergence="js"))
    history = fit(model, SAMPLES, batch_size=32)
    assert keras.backend.standardize_dtype(model(SAMPLES).dtype) == dtype.removeprefix("mixed_")
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][-1] < history["loss"][0]


def test_data_with_and_without_targets(views):
    labels = np.arange(64) % 3
    model = two_views()
    model.compile("sgd", loss=FMICLLoss(), **EAGER)
    for data in ((SAMPLES,), (SAMPLES, labels)):
        assert np.isfinite(fit(model, *data, epochs=1)["loss"]).all()
    batches = ((half,) for half in np.split(SAMPLES, 2))
    assert np.isfinite(fit(model, batches, epochs=1)["loss"]).all()


def test_class_and_sample_weights_reach_the_loss(views):
    """Weights of classes are those of their samples, and count without targets, too."""
    labels = np.arange(64) % 3
    weights = np.array([0.5, 1.0, 2.0])[labels]
    model = two_views(noise=0.0)
    model.compile(keras.optimizers.SGD(0.0), loss=FMICLLoss(), **EAGER)
    expected = keras.ops.convert_to_numpy(FMICLLoss()(None, model(SAMPLES), weights))
    by_class = {0: 0.5, 1: 1.0, 2: 2.0}
    rest = {"batch_size": 64, "epochs": 1}
    for history in (
        fit(model, SAMPLES, labels, class_weight=by_class, **rest),
        fit(model, SAMPLES, labels, sample_weight=weights, **rest),
        fit(model, SAMPLES, sample_weight=weights, **rest),
    ):
        assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert model.evaluate(
        SAMPLES, sample_weight=weights, batch_size=64, verbose=0
    ) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("how", compiled_how())
@pytest.mark.parametrize(
    ("loss", "weights"),
    [(FMICLLoss(), None), (InfoNCELoss(), np.linspace(0.0, 2.0, 33))],
    ids=["f-MICL", "InfoNCE, weights"],
)
def test_a_last_batch_of_one_teaches_nothing_and_warns_once(views, told, how, loss, weights):
    """33 samples in batches of 32 train as the first 32; only the mean loss counts a zero more."""
    y_pred = views(n=33, d=6).astype("float32")
    term = FMICLLoss(divergence="js")

    def trained(n):
        keras.utils.set_random_seed(0)
        metrics = [Alignment(), Uniformity(), FMICLScore(term), FMICLPenalty(term)]
        metrics += [ContrastiveAccuracy()]
        model = keras.Sequential([keras.layers.Input((2, 6)), keras.layers.Dense(3)])
        measured = metrics if weights is None else []
        model.compile(keras.optimizers.SGD(0.1), loss=loss, metrics=measured, **how)
        given = {} if weights is None else {"y": weights[:n], "sample_weight": weights[:n]}
        history = fit(model, y_pred[:n], epochs=2, batch_size=32, shuffle=False, **given)
        return model.get_weights(), history

    want, report = trained(32)
    (got, reported), warned = told(lambda: trained(33))
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-6)
    report["loss"] = [32 / 33 * value for value in report["loss"]]
    for name, values in report.items():
        assert reported[name] == pytest.approx(values, rel=1e-5)
    xla = BACKEND == "tensorflow" and how.get("jit_compile")
    assert warned == (0 if xla else 1)


def test_two_views_train_and_evaluate_to_the_last_sample(views):
    model = two_views()
    model.compile("sgd", loss=FMICLLoss(), metrics=[Uniformity()])
    history = fit(model, SAMPLES[:33], batch_size=32, validation_data=(SAMPLES[:33],), epochs=1)
    assert len(history) == 4
    assert np.isfinite(list(history.values())).all()


def told_apart(x, y):
    """Share of the rows of x whose own row of y is nearest by cosine, by a loop."""
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y)]
    cosines = unit[0] @ unit[1].T
    return np.mean([
        all(cosines[i, i] > cosines[i, j] for j in range(len(x)) if j != i) for i in range(len(x))
    ])  # fmt: skip


def test_metrics_are_those_of_the_evaluation_and_of_the_loss(views, require):
    sphere = require("fmicl_recipes.sphere")
    loss = FMICLLoss(divergence="vlc", negatives="within")
    metrics = [Alignment(), Uniformity(), FMICLScore(loss), FMICLPenalty(loss)]
    metrics += [ContrastiveAccuracy()]
    y_pred = views(n=32, d=6).astype("float32")
    model = keras.Sequential([keras.layers.Input((2, 6)), keras.layers.Dense(3)])
    model.compile("sgd", loss=loss, metrics=metrics)
    got = model.evaluate(y_pred, batch_size=32, verbose=0, return_dict=True)
    x, y = np.moveaxis(model.predict(y_pred, verbose=0), 1, 0)
    truth = fmicl_reference(x, y, loss.objective)
    assert got == pytest.approx({
        "loss": truth.loss, "alignment": sphere.alignment(x, y),
        "uniformity": sphere.uniformity(x), "fmicl_score": truth.score,
        "fmicl_penalty": truth.penalty, "contrastive_accuracy": told_apart(x, y),
    }, rel=1e-4)  # fmt: skip


def test_metrics_average_over_samples(views):
    y_pred = views(n=32, d=6)
    halves = Alignment(dtype="float64"), Alignment(dtype="float64")
    halves[0].update_state(None, y_pred)
    for part in (y_pred[:24], y_pred[24:]):
        halves[1].update_state(None, part)
    assert float(halves[0].result()) == pytest.approx(float(halves[1].result()), rel=1e-6)


def accuracy_of(x, y):
    metric = ContrastiveAccuracy()
    metric.update_state(None, np.stack([x, y], axis=1).astype("float32"))
    return float(metric.result())


def test_contrastive_accuracy_asks_for_the_nearest_second_view():
    """Not for the nearest first view, and not for the nearest by a product that is not a cosine."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 3))
    y = (x + rng.normal(size=x.shape)) * rng.uniform(0.1, 10.0, (64, 1))
    want, other_way = told_apart(x, y), told_apart(y, x)
    assert accuracy_of(x, y) == pytest.approx(want)
    assert accuracy_of(y, x) == pytest.approx(other_way)
    assert want != other_way
    assert accuracy_of(x, x) == 1.0
    assert accuracy_of(x, np.roll(x, 1, axis=0)) == 0.0


def test_in_contrastive_accuracy_a_tie_is_wrong():
    e = np.eye(4)
    assert accuracy_of(np.ones((8, 4)), np.ones((8, 4))) == 0.0
    assert accuracy_of(np.zeros((8, 4)), np.zeros((8, 4))) == 0.0
    assert accuracy_of(e[[0, 0, 1, 2]], e[[0, 0, 1, 2]]) == 0.5
    same = np.tile(np.random.default_rng(0).normal(size=(1, 37)), (64, 1))
    assert accuracy_of(same, same) <= 0.1  # chance where rounding breaks the ties


@pytest.mark.parametrize("loss", [FMICLLoss, InfoNCELoss])
def test_the_first_lines_say_which_negatives_are_taken(loss):
    _, second, *_ = inspect.getdoc(loss).split("\n\n")
    assert f'`negatives="{loss().options()["negatives"]}"`' in second
    assert second.count("by default") == 2  # its own, and that the other loss differs


def test_the_projection_head_ends_without_norm():
    head = projection_head(7, 3)
    assert head(np.ones((4, 5), "float32")).shape == (4, 3)
    assert len(head.trainable_weights) == 1 + 2 + 1 + 2 + 2


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda: (keras.layers.Dense(3), keras.layers.Identity()), "`encoder`. Expected a keras.M"),
        (lambda: (keras.Sequential(), len), "`augmentation`. Expected a Keras layer or model"),
        (lambda: (keras.Sequential(), keras.layers.Identity(), 64), "`head`. Expected a Keras l"),
    ],
    ids=["encoder", "augmentation", "head"],
)
def test_parts_must_be_layers(parts, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TwoViews(*parts())
    with pytest.raises(ValueError, match=r"`loss`. Expected an FMICLLoss"):
        FMICLScore("fmicl")
