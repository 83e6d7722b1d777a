"""Losses, metrics and models survive their configuration and the `.keras` format."""

import copy
import json
import pickle
from dataclasses import dataclass

import keras
import numpy as np
import pytest

import fmicl_core
from fmicl_core import DIVERGENCES, SIMILARITIES, Divergence, Gaussian
from fmicl_keras import (
    Alignment,
    ContrastiveAccuracy,
    FMICLAlignment,
    FMICLLoss,
    FMICLPenalty,
    FMICLScore,
    FMICLUniformity,
    InfoNCELoss,
    RandomAffine,
    TwoViews,
)


@dataclass(frozen=True)
class Power(Divergence):
    """(u^order - 1)/(order - 1), as a user would write it, unknown to the library."""

    order: float = 3.0

    def score(self, L, ops):
        return self.order / (self.order - 1.0) * ops.exp((self.order - 1.0) * L)

    def score_slope(self, L, ops):
        return self.order * ops.exp((self.order - 1.0) * L)

    def penalty(self, L, ops):
        return ops.exp(self.order * L) + 1.0 / (self.order - 1.0)


@pytest.mark.filterwarnings("ignore:.*known to collapse")
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_every_named_option_round_trips(divergence, similarity):
    try:
        loss = FMICLLoss(divergence=divergence, similarity=similarity, reduction="sum")
    except ValueError:
        pytest.skip("this cosine leaves the domain of the conjugate")
    config = json.loads(json.dumps(loss.get_config()))
    twin = FMICLLoss.from_config(config)
    assert twin.objective == loss.objective
    assert twin.get_config() == config


LOSSES = [
    FMICLLoss(divergence=fmicl_core.Tsallis(1.7), similarity=Gaussian(0.2, 2.0), alpha=2.5,
              logit_scale=3.0, logit_bias=-2.0, negatives="all", positives="pair",
              normalize=False, implementation="tiled", check_finite=False, ids_from_targets=True,
              reduction="mean_with_sample_weight", name="mine", dtype="float64"),
    FMICLLoss(alpha="auto", strength=2.0),
    InfoNCELoss(temperature=0.2, negatives="cross", normalize=False, positives="pair",
                ids_from_targets=True, reduction=None),
]  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_copies_print_and_configure_alike(loss):
    scope = {name: getattr(fmicl_core, name) for name in fmicl_core.__all__}
    scope |= {"FMICLLoss": FMICLLoss, "InfoNCELoss": InfoNCELoss}
    stored = json.loads(json.dumps(keras.losses.serialize(loss)))
    assert stored["registered_name"] == f"fmicl>{type(loss).__name__}"
    pickled = pickle.loads(pickle.dumps(loss))
    for twin in (keras.losses.get(stored), keras.losses.deserialize(stored), copy.deepcopy(loss),
                 pickled):  # fmt: skip
        assert twin.get_config() == loss.get_config()
        assert repr(twin) == repr(loss)
    assert repr(eval(repr(loss), scope)) == repr(loss)


@pytest.mark.parametrize("loss", [FMICLLoss(), InfoNCELoss()], ids=repr)
def test_a_file_from_before_there_were_ids_loads(loss):
    stored = keras.losses.serialize(loss)
    for option in ("ids_from_targets", "positives", "logit_scale", "logit_bias"):
        stored["config"].pop(option, None)
    assert keras.losses.deserialize(stored).get_config() == loss.get_config()
    part = keras.layers.Identity
    config = TwoViews(keras.Sequential([part()]), part(), part()).get_config()
    assert config.pop("views") == TwoViews.from_config(config).views == 2


def test_a_divergence_of_one_s_own_is_found_in_custom_objects_or_named_in_the_error():
    stored = keras.losses.serialize(FMICLLoss(divergence=Power(4.0)))
    assert stored["config"]["divergence"] == {"class_name": "Power", "config": {"order": 4.0}}
    again = keras.losses.deserialize(stored, custom_objects={"Power": Power})
    assert again.objective.divergence == Power(4.0)
    with keras.saving.custom_object_scope({"Power": Power}):
        assert keras.losses.get(stored).objective.divergence == Power(4.0)
    with pytest.raises(ValueError, match=r"`divergence`. Expected a class that is in `custom_obj"):
        keras.losses.deserialize(stored)


def test_keras_takes_the_class_for_its_defaults_but_no_string():
    assert isinstance(keras.losses.get(FMICLLoss), FMICLLoss)
    by_name = {"class_name": "fmicl>FMICLLoss", "config": {"divergence": "js"}}
    assert keras.losses.get(by_name).objective.divergence == fmicl_core.JensenShannon()
    with pytest.raises(ValueError, match=r"Could not interpret loss identifier"):
        keras.losses.get("fmicl>FMICLLoss")


@pytest.mark.parametrize("whole", [False, True], ids=["model", "two views"])
def test_a_compiled_model_saves_and_loads(views, tmp_path, whole):
    loss = FMICLLoss(divergence=Power(2.5), alpha=7.0, ids_from_targets=True)
    y_pred, labels = views(d=6).astype("float32"), np.arange(11) % 4
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)]
    if whole:
        parts = keras.Sequential(layers[:1]), keras.layers.GaussianNoise(0.0), layers[1]
        model = TwoViews(*parts, views=3)
        y_pred = y_pred[:, 0]
    else:
        model = keras.Sequential(layers)
    model.compile(
        keras.optimizers.SGD(0.1),
        loss=loss,
        metrics=[Alignment(), FMICLScore(loss), ContrastiveAccuracy()],
    )
    model.fit(y_pred, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(
        tmp_path / "model.keras", custom_objects={"Power": Power}, safe_mode=True
    )
    assert again.loss.get_config() == loss.get_config()
    np.testing.assert_array_equal(
        again.predict(y_pred, verbose=0), model.predict(y_pred, verbose=0)
    )
    for twin in (model, again):
        twin.fit(y_pred, labels, epochs=2, verbose=0)
    for ours, theirs in zip(model.weights, again.weights, strict=True):
        np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (ours, theirs)), atol=1e-5)
    expected, got = (
        m.evaluate(y_pred, labels, verbose=0, return_dict=True) for m in (model, again)
    )
    assert got == pytest.approx(expected)


@pytest.mark.parametrize(
    ("old", "new"), [(FMICLAlignment, FMICLScore), (FMICLUniformity, FMICLPenalty)]
)
def test_metrics_by_their_old_names_load(views, old, new):
    y_pred, loss = views(d=6), FMICLLoss()
    with pytest.warns(DeprecationWarning, match=f"`{new.__name__}` now"):
        metric = keras.metrics.deserialize(keras.metrics.serialize(old(loss)))
    for m in (metric, want := new(loss)):
        m.update_state(None, y_pred)
    assert float(metric.result()) == float(want.result())


def test_the_augmentation_of_the_documentation_saves_and_loads(tmp_path):
    images = np.random.default_rng(0).uniform(size=(8, 5, 5, 1)).astype("float32")
    affine = RandomAffine(12, 0.12, (0.85, 1.15), 12)
    model = TwoViews(keras.Sequential([keras.layers.Flatten()]), keras.Sequential([affine]))
    views = keras.ops.convert_to_numpy(model(images))
    assert np.abs(views[:, 0] - views[:, 1]).max() > 0.01
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").augmentation.layers[-1]
    configs = [layer.get_config() | {"scale": tuple(layer.scale)} for layer in (again, affine)]
    assert configs[0] == configs[1]
