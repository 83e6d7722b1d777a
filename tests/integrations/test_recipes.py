"""Settings, presets, run folders, evaluation and plots."""

import dataclasses
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sklearn", reason="the recipes need scikit-learn")
datasets = pytest.importorskip("datasets", reason="the recipes need Hugging Face datasets")

from fmicl_core import KL, Cosine, Gaussian, Tsallis  # noqa: E402
from fmicl_core.checks import InvalidArgument  # noqa: E402
from fmicl_core.objective import DEFAULTS  # noqa: E402
from fmicl_recipes import PRESETS, RunFolder, TrainSettings, resolve  # noqa: E402
from fmicl_recipes.choices import METHODS  # noqa: E402
from fmicl_recipes.files import make_folder, write_atomically  # noqa: E402
from fmicl_recipes.losses import siglip_logits  # noqa: E402
from fmicl_recipes.options import difference  # noqa: E402
from fmicl_recipes.text import TextSettings  # noqa: E402

# Settings and presets


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_settings(name):
    settings = resolve(name, {})
    used = {k: v for k, v in PRESETS[name].items() if settings.applies(k)}
    assert {k: getattr(settings, k) for k in used} == used
    assert {"data", "encoder", "epochs"} <= set(used)
    assert TrainSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_explicit_wins_over_preset_and_preset_over_default():
    settings = resolve("digits", {"epochs": 7})
    assert (settings.epochs, settings.width, settings.divergence) == (7, 32, "kl")
    assert resolve(None, {"data": "digits"}) == resolve("digits", {})
    assert resolve(None, {"data": "some/where"}).encoder == "resnet18"


BAD_SETTINGS = [
    ({"epochs": 0}, "`epochs`. Expected a whole number >= 1. Received: epochs=0"),
    ({"batch_size": 1}, "`batch_size`. Expected a whole number >= 2"),
    ({"lr": 0.0}, "`lr`. Expected a finite number > 0"),
    ({"momentum": -0.1}, "`momentum`. Expected a finite number >= 0"),
    ({"divergence": "foo"}, "`divergence`. Expected one of 'kl'"),
    ({"loss": "nce"}, "`loss`. Expected one of 'fmicl', 'info-nce'"),
    ({"sigma2": 0.0}, "`sigma2`. Expected a finite number > 0"),
    ({"divergence": "tsallis", "order": 1.0}, "`order`. Expected a number other than 1"),
    ({"similarity": "cosine", "divergence": "js"}, "`similarity`. Expected a cosine temperature"),
    ({"warmup_epochs": 200}, "`warmup_epochs`. Expected fewer than epochs = 200"),
    ({"epoch": 3}, "`option`. Expected one of 'method'"),
    ({"views": 1}, "`views`. Expected a whole number >= 2. Received: views=1"),
    (
        {"views": 4, "loss": "spectral"},
        "`views`. Expected .* loss = 'fmicl' or 'info-nce' or 'dcl' bes",
    ),
    ({"views": 4, "negatives": "within"}, "`negatives`. Expected 'anchor' or 'all' with views = 4"),
    ({"views": 4, "negatives": "cross", "loss": "info-nce"}, "`negatives`. Expected 'anchor' or"),
    ({"supervised": 1}, "`supervised`. Expected True or False. Received: supervised=1"),
    ({"supervised": True, "loss": "spectral"}, "`supervised`. Expected .* loss = 'fmicl' or 'info"),
    (
        {"views": 3, "loss": "siglip"},
        "`views`. Expected .* loss = 'fmicl' or 'info-nce' or 'dcl' b",
    ),
    ({"negatives": "anchor", "loss": "siglip"}, "`negatives`. Expected .* or 'dcl' beside it"),
    ({"alpha": "much"}, "`alpha`. Expected a finite number > 0 or 'auto'. Received: alpha='much'"),
    (
        {"alpha": 40.0, "strength": 2.0},
        "`strength`. Expected loss = 'fmicl' and alpha = 'auto' beside it. Elsewh",
    ),
    ({"alpha": "auto", "strength": 0.0}, "`strength`. Expected a finite number > 0"),
    ({"alpha": 40.0, "loss": "dcl"}, "`alpha`. Expected loss = 'fmicl' beside it"),
    ({"logit_bias": -3.0}, "`logit_bias`. Expected .* and loss = 'siglip' beside it"),
    ({"method": "moco", "loss": "siglip"}, "`loss`. Expected .* for MoCo.*Others know no queue"),
]


@pytest.mark.parametrize(("values", "message"), BAD_SETTINGS, ids=[str(v) for v, _ in BAD_SETTINGS])
def test_bad_settings_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings.from_dict(values)


def test_unknown_presets_are_listed():
    with pytest.raises(ValueError, match=r"`preset`. Expected one of 'paper-cifar10'"):
        resolve("imagenet", {})


def test_settings_build_the_objective_they_name():
    settings = resolve(None, {"divergence": "tsallis", "order": 3.0, "sigma2": 0.1, "alpha": 7.0})
    objective = settings.objective()
    assert (objective.divergence, objective.similarity) == (Tsallis(3.0), Gaussian(0.1))
    auto = TextSettings.from_dict({"alpha": "auto", "strength": 2.0}).objective()
    assert (objective.alpha, objective.strength) == (7.0, None)
    assert (auto.alpha, auto.strength) == ("auto", 2.0)
    assert TrainSettings(alpha="auto").objective().strength == DEFAULTS.strength
    cosine = resolve(None, {"similarity": "cosine", "temperature": 0.2}).objective()
    assert cosine.similarity == Cosine(0.2)


@given(n=st.integers(2, 10**5))
def test_siglips_bias_gives_all_negatives_the_weight_of_a_positive(n):
    """At right angles, where the logit is the bias alone; a bias that is given stays."""
    b = siglip_logits(TrainSettings(loss="siglip", batch_size=n))["logit_bias"]
    negative, positive = 1.0 / (1.0 + np.exp(-b)), 1.0 / (1.0 + np.exp(b))
    assert (n - 1) * negative == pytest.approx(positive)
    given = TrainSettings(loss="siglip", batch_size=n, temperature=0.25, logit_bias=2.0)
    assert siglip_logits(given) == {"logit_scale": 4.0, "logit_bias": 2.0}


@pytest.mark.parametrize("method", ["moco", "moco-v3"])
def test_the_default_strength_of_momentum_methods_keeps_queries_with_their_keys(method):
    """KL's -mean s + S log mean u: no lower where all queries move away from all keys at once.

    Beside features that are spread (d^2 = 2) and aligned; the default is the largest such S.
    """
    objective = TrainSettings(method=method).objective()

    def loss(positive, negative, strength):
        return -KL().score(-positive) + strength * np.log(KL().penalty(-negative))

    away = np.linspace(0.0, 4.0, 401)
    spread = np.zeros(()), np.full((), 2.0)
    for strength, keeps in ((objective.strength, True), (1.01 * objective.strength, False)):
        lowest = loss(away, away, strength).min()
        assert (loss(*spread, strength) <= lowest + 1e-12) == keeps


# Run folder


def test_a_run_folder_is_never_overwritten(tmp_path):
    settings = TrainSettings()
    folder = RunFolder.create(tmp_path / "run", settings)
    assert RunFolder.resume(folder.path, settings).settings() == settings
    with pytest.raises(
        ValueError, match=r"`out`. Expected a folder that does not exist yet, or --resume"
    ):
        RunFolder.create(tmp_path / "run", settings)


def test_resume_says_which_settings_differ(tmp_path):
    RunFolder.create(tmp_path / "run", TrainSettings(epochs=5, lr=0.1))
    found = TrainSettings(alpha="auto", strength=2.0)
    assert set(difference(TrainSettings(), found)) == {"strength"}
    assert set(difference(TrainSettings(alpha=40.0), found)) == {"alpha", "strength"}
    other = TrainSettings(epochs=6, lr=0.2, device="cpu")
    assert set(difference(TrainSettings(), other)) == {"epochs", "lr"}
    with pytest.raises(
        ValueError, match=r"lr: 0.1 in the run, 0.2 now, epochs: 5 in the run, 6 now"
    ):
        RunFolder.resume(tmp_path / "run", other)


def test_a_damaged_or_missing_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"Expected a run folder with settings.json"):
        RunFolder.resume(tmp_path)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"Expected a readable settings.json"):
        RunFolder.resume(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_run_goes_on_with_its_own_settings(tmp_path):
    """Only what is given is compared, and where the run goes on may change."""
    stored = TrainSettings(epochs=5, lr=0.3, loss="spectral")
    folder = RunFolder.create(tmp_path / "run", stored)
    assert folder.continued({}) == folder.continued({"method": "simclr", "lr": 0.3}) == stored
    assert folder.continued({"device": "cpu"}) == dataclasses.replace(stored, device="cpu")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "moco"}, r"Received: changes=.method: 'simclr' in the run, 'moco' now.$"),
        ({"method": "moko"}, r"`method`. Expected one of 'simclr', 'moco', 'moco-v3'. Received"),
        ({"lr": 0.1}, r"Received: changes='lr: 0.3 in the run, 0.1 now'$"),
        ({"loss": "nce"}, r"`loss`. Expected one of 'fmicl'"),
        ({"epoch": 5}, r"`option`. Expected one of 'method'"),
        ({"device": "tpu"}, r"`device`. Expected one of 'auto', 'cpu', 'gpu'"),
    ],
    ids=str,
)  # fmt: skip
def test_a_run_does_not_go_on_as_another(tmp_path, given, message):
    folder = RunFolder.create(tmp_path / "run", TrainSettings(epochs=5, lr=0.3, loss="spectral"))
    with pytest.raises(InvalidArgument, match=message):
        folder.continued(given)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": 5}, "`data`. Expected a string. Received: data=5"),
        ({"encoder": None}, "`encoder`. Expected a string. Received: encoder=None"),
        ({"epochs": "5"}, "`epochs`. Expected a whole number >= 1. Received: epochs='5'"),
        ({"epoch": 5}, "`option`. Expected one of 'method'"),
    ],
    ids=str,
)
def test_settings_edited_into_nonsense_are_named(tmp_path, values, message):
    folder = RunFolder.create(tmp_path / "run", TrainSettings())
    folder.write_json("settings.json", {**folder.read_json("settings.json"), **values})
    with pytest.raises(InvalidArgument, match=message):
        folder.settings()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InvalidArgument, match=r"`out`. Expected a folder that can be made"):
            make_folder(path)
    assert make_folder(tmp_path / "a" / "b") == make_folder(tmp_path / "a" / "b")


def test_results_get_the_permissions_of_the_process_without_a_change_of_its_umask(
    tmp_path, monkeypatch
):
    """A change would hold for other threads, too, which write files meanwhile."""
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", None)
        write_atomically(tmp_path / "file", lambda file: file.write(b"x"))
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_history_comes_back(tmp_path):
    folder = RunFolder.create(tmp_path / "run", TrainSettings())
    rows = [{"epoch": 1.0, "loss": 0.1}, {"epoch": 2.0, "loss": 1e-17, "knn_accuracy": 0.5}]
    folder.write_history(rows)
    assert folder.read_history() == rows
    text = (folder.path / "history.csv").read_text()
    assert text == "epoch,loss,knn_accuracy\n1.0,0.1,\n2.0,1e-17,0.5\n"


@pytest.mark.parametrize("kind", [TrainSettings, TextSettings])
def test_every_option_has_a_help_text_and_a_check(kind):
    for name, field in kind.options().items():
        assert field.metadata["help"].endswith(".")
        with pytest.raises(InvalidArgument, match=f"`{name}`"):
            field.metadata["check"](name, object())


@pytest.mark.parametrize("method", METHODS)
def test_options_of_other_methods_are_refused(method):
    defaults = TrainSettings(method=method).to_dict()
    values = {"queue_size": 9, "bn_splits": 2, "head_norm": "none", "ema": 0.5,
              "patch_projection": "learned", "negatives": "within", "views": 3,
              "supervised": True, "logit_bias": -1.0}  # fmt: skip
    methods = {n: f.metadata["methods"] for n, f in TrainSettings.options().items()}
    assert {name for name in methods if methods[name]} == set(values)
    for name, value in values.items():
        if method not in methods[name]:
            with pytest.raises(InvalidArgument, match=rf"`{name}`. Expected method = '.*no effect"):
                TrainSettings.from_dict(defaults | {name: value})


def test_settings_of_a_former_version_are_read():
    """They have no alpha, and no negatives, where the loss has none; nor views and supervision."""
    old = TrainSettings(loss="spectral").to_dict() | {"alpha": None, "negatives": None}
    del old["views"], old["supervised"]
    assert TrainSettings.from_dict(old, optional=old) == TrainSettings(loss="spectral")
