"""`--init`: a run that begins with the weights of another, of any framework."""

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs typer")
pytest.importorskip("lightning", reason="the runs are those of Lightning's trainer")

from fmicl_core.checks import InvalidArgument
from fmicl_lightning import MethodTrainer
from fmicl_recipes import RunFolder, TrainSettings
from fmicl_recipes.data import load_images
from fmicl_recipes.weights import write_model
from fmicl_recipes.weights.start import starting_weights

TINY = {"data": "digits", "encoder": "smallconv", "width": 4, "limit": 64, "batch_size": 32,
        "epochs": 1, "projection_hidden": 8, "projection_dim": 8, "device": "cpu",
        "cache": "memory"}  # fmt: skip
OF_METHOD = {"simclr": {}, "moco": {"queue_size": 40}, "moco-v3": {}}
PARTS = {"simclr": ["head"], "moco": ["head", "key_head", "key_encoder", "queue"],
         "moco-v3": ["head", "key_head", "predictor", "key_encoder"]}  # fmt: skip


def settings(method, **options):
    return TrainSettings(**{**TINY, "method": method, **OF_METHOD[method], **options})


@pytest.fixture(scope="module")
def data():
    return load_images("digits", limit=64, progress=False)


@pytest.fixture
def before(tmp_path, data):
    """A run of other weights than those that equal settings give, and its folder."""

    def make(method, name="before", **options):
        trainer = MethodTrainer(settings(method, seed=5, **options), data)
        weights = trainer.weights()
        if "pointer" in weights:
            weights["pointer"] = np.asarray(7, weights["pointer"].dtype)
        trainer.set_weights(weights)
        folder = RunFolder.create(tmp_path / name, trainer.settings)
        write_model(folder, trainer.settings, data.train_images.shape[1:], weights, {})
        return trainer, folder.path

    return make


def assert_same(weights, others, parts):
    names = [name for name in weights if name.split(".")[0] in parts]
    assert names
    for name in names:
        np.testing.assert_array_equal(weights[name], others[name], err_msg=name)


@pytest.mark.parametrize("method", list(PARTS))
def test_all_of_the_same_method_is_taken(before, data, method):
    """So that the next step begins where the other run ended: equal views, equal projections."""
    other, path = before(method)
    trainer = MethodTrainer(settings(method, seed=6), data)
    start = starting_weights(trainer, path)
    trainer.set_weights(start.weights)
    assert start.taken == ["encoder", *sorted(PARTS[method], key=start.taken.index)]
    assert set(start.taken) == {"encoder", *PARTS[method]}
    assert start.left == []
    assert trainer.weights().keys() == other.weights().keys()
    assert_same(trainer.weights(), other.weights(), {"encoder", *PARTS[method], "pointer"})
    again = MethodTrainer(dataclasses.replace(other.settings), data)
    again.set_weights(trainer.weights())
    for ours, theirs in zip(again.project(data.test_images), other.project(data.test_images),
                            strict=True):  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("method", ["moco", "moco-v3"])
def test_of_another_method_the_encoder_alone_is_taken_and_copied(before, data, method):
    _, path = before("simclr")
    trainer = MethodTrainer(settings(method), data)
    fresh = trainer.weights()
    start = starting_weights(trainer, path)
    trainer.set_weights(start.weights)
    own = trainer.weights()
    assert start.taken == ["encoder", "key_encoder"]
    assert set(start.left) == {*PARTS[method]} - {"key_encoder"}
    assert_same(own, fresh, start.left)
    for name in (name for name in own if name.startswith("encoder.")):
        np.testing.assert_array_equal(own[f"key_{name}"], own[name])


@pytest.mark.parametrize(
    ("before_has", "now_has", "left"),
    [
        ({}, {"queue_size": 50}, ["queue"]),
        ({}, {"projection_dim": 16}, ["head", "key_head", "queue"]),
        ({}, {"projection_hidden": 16}, ["head", "key_head", "queue"]),
        ({}, {"supervised": True}, ["queue"]),
        ({"supervised": True}, {"supervised": True}, []),
    ],
    ids=str,
)
def test_networks_of_other_shapes_begin_anew_and_the_queue_with_its_head(
    before, data, before_has, now_has, left
):
    _, path = before("moco", **before_has)
    trainer = MethodTrainer(settings("moco", **now_has), data)
    fresh, start = trainer.weights(), starting_weights(trainer, path)
    assert start.left == left
    for part in left:
        assert_same(start.weights, fresh, [part])
    assert ("drawn anew" in start.told) == bool(left)
    pointer = int(start.weights["pointer"])
    assert pointer == (0 if "queue" in left else 7)


def test_labels_of_other_data_are_not_those_of_the_queue(before, data):
    _, path = before("moco", supervised=True)
    file = path / "model.json"
    facts = json.loads(file.read_text())
    facts["trained"]["settings"]["data"] = "cifar10"
    file.write_text(json.dumps(facts))
    trainer = MethodTrainer(settings("moco", supervised=True), data)
    assert starting_weights(trainer, path).left == ["queue"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 8}, "a run with width = 4, as this one. Received: width=8"),
        ({"encoder": "vit-s6"}, "a run with encoder = 'smallconv'.* Received: encoder='vit-s6'"),
        ({"stem_stride": 2}, "a run with stem_stride = 1"),
    ],
    ids=str,
)
def test_another_encoder_is_refused_by_the_first_option_that_differs(before, data, options, words):
    _, path = before("simclr", **options)
    with pytest.raises(InvalidArgument, match=words):
        starting_weights(MethodTrainer(settings("simclr"), data), path)


def test_weights_that_are_not_finite_are_refused(before, data, tmp_path):
    other, _ = before("simclr")
    weights = other.weights()
    weights["head.fc1.weight"][0, 0] = np.nan
    folder = RunFolder.create(tmp_path / "broken", other.settings)
    write_model(folder, other.settings, (8, 8, 1), weights, {})
    with pytest.raises(InvalidArgument, match=r"`init`.* finite weights, and head\.fc1\.weight"):
        starting_weights(MethodTrainer(settings("simclr"), data), folder.path)


def test_a_folder_without_weights_says_what_writes_them(tmp_path, fmicl):
    options = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items()]
    folder = RunFolder.create(tmp_path / "old", settings("simclr"))
    for init, words in ((tmp_path / "none", "model.json"), (folder.path, "has not trained")):
        code, _, err = fmicl("train", "simclr", *options, "--init", init, "--out", tmp_path / "x")
        assert code == 2
        assert words in err.splitlines()[-1]
        assert not (tmp_path / "x").exists()


def test_the_command_begins_with_it_and_resumes_without_it(tmp_path, before, fmicl, monkeypatch):
    """Baselines are those of the encoder as it is drawn, before the weights are given."""
    other, path = before("simclr")
    options = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items()]
    seen, fit = [], MethodTrainer.fit

    def keep(self, folder, **how):
        seen.append(self.weights())
        fit(self, folder, **how)

    monkeypatch.setattr(MethodTrainer, "fit", keep)
    out = tmp_path / "out"
    monkeypatch.chdir(path.parent)
    code, _, err = fmicl("train", "simclr", *options, "--init", "before", "--baselines",
                         "--out", out)  # fmt: skip
    assert code == 0, err
    assert "weights of the other run: encoder, head" in err
    assert_same(seen[0], other.weights(), ["encoder", "head"])
    assert RunFolder(out).settings().init == str(path)
    plain = tmp_path / "plain"
    assert fmicl("train", "simclr", *options, "--baselines", "--out", plain)[0] == 0
    assert RunFolder(out).baselines() == RunFolder(plain).baselines()
    monkeypatch.chdir(tmp_path)
    (path / "model.json").unlink()
    code, _, err = fmicl("train", "simclr", "--out", out, "--resume")
    assert code == 0, err


def test_a_run_that_had_no_checkpoint_yet_begins_with_it_when_it_is_resumed(
    tmp_path, before, fmicl, monkeypatch
):
    other, path = before("simclr")
    folder = RunFolder.create(tmp_path / "out", settings("simclr", init=str(path)))
    seen, fit = [], MethodTrainer.fit

    def keep(self, folder, **how):
        seen.append(self.weights())
        fit(self, folder, **how)

    monkeypatch.setattr(MethodTrainer, "fit", keep)
    code, _, err = fmicl("train", "simclr", "--out", folder.path, "--resume")
    assert code == 0, err
    assert_same(seen[0], other.weights(), ["encoder", "head"])


@pytest.mark.parametrize("method", ["simclr", "moco"])
def test_a_run_of_lightning_goes_on_in_flax(before, data, require, method):
    """With the same weights, and features that are equal but for rounding."""
    require("flax")
    from fmicl_flax import MethodTrainer as FlaxTrainer

    other, path = before(method)
    trainer = FlaxTrainer(settings(method, framework="jax"), data)
    start = starting_weights(trainer, path)
    trainer.set_weights(start.weights)
    assert start.left == []
    weights = trainer.weights()
    assert_same(weights, other.weights(), {"encoder", *PARTS[method]})
    if method == "moco":
        assert int(weights["pointer"]) == 7
    ours, theirs = trainer.encode(data.test_images), other.encode(data.test_images)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
