"""Encoders given away: a folder with a model card, and the hub, by a stand-in for its client."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the recipes need scikit-learn")
huggingface_hub = pytest.importorskip("huggingface_hub", reason="the hub needs its client")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from fmicl_core.checks import InvalidArgument  # noqa: E402
from fmicl_recipes import RunFolder, TrainSettings, resolve  # noqa: E402
from fmicl_recipes.weights import (  # noqa: E402
    Architecture,
    export_model,
    method_arrays,
    open_model,
    push_to_hub,
    write_model,
)
from fmicl_recipes.weights.card import public, train_command  # noqa: E402
from fmicl_recipes.weights.hub import fetch, repository  # noqa: E402
from fmicl_recipes.weights.model import ENCODER, METHOD, MODEL  # noqa: E402

FILES = {"README.md", ENCODER, METHOD, MODEL}


def evaluated(path, **options):
    """Folder of a run as `fmicl train` leaves it, with random weights."""
    settings = resolve("digits", {"method": "simclr", "width": 4, "projection_dim": 8, **options})
    folder = RunFolder.create(path, settings)
    shape, rng = (8, 8, 1), np.random.default_rng(0)
    entries = method_arrays(settings, Architecture.of(settings, shape[2]))
    weights = {e.name: rng.uniform(0.1, 1.0, e.shape).astype(np.float32) for e in entries}
    write_model(folder, settings, shape, weights, {"epochs": 3})
    folder.write_json("metrics.json", {
        "title": settings.title, "loss": "fmicl", "knn_accuracy": 0.956, "linear_accuracy": 0.97,
        "seconds": 3.0, "baselines": {"raw pixels": {"knn_accuracy": 0.978}},
        "evaluated_on": "a held-out fifth", "train_images": 1437, "test_images": 360,
    })  # fmt: skip
    return folder, weights


@pytest.fixture
def run(tmp_path):
    return evaluated(tmp_path / "run")


class Client:
    """The hub in a folder: what `HfApi` and `snapshot_download` do with a repository."""

    def __init__(self, monkeypatch, folder):
        self.folder, self.asked = folder, []
        stub = type("HfApi", (), {"__new__": lambda cls, **_: self})
        monkeypatch.setattr(huggingface_hub, "HfApi", stub)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)

    def create_repo(self, name, private, exist_ok):
        assert exist_ok
        self.asked.append((name, private))
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        return f"hub/{name}"

    def upload_folder(self, repo_id, folder_path, commit_message):
        for file in Path(folder_path).iterdir():
            (self.folder / repo_id / file.name).write_bytes(file.read_bytes())

    def download(self, name, revision, allow_patterns, library_name):
        """As the client's cache: links to files elsewhere."""
        self.asked.append((name, revision))
        if not (self.folder / name).is_dir():
            raise OSError("no such repository")
        blobs, snapshot = self.folder / "blobs", self.folder / "snapshots" / (revision or "main")
        for folder in (blobs, snapshot):
            folder.mkdir(parents=True, exist_ok=True)
        for file in (self.folder / name).iterdir():
            if file.name in allow_patterns:
                (blobs / file.name).write_bytes(file.read_bytes())
                (snapshot / file.name).unlink(missing_ok=True)
                (snapshot / file.name).symlink_to(blobs / file.name)
        return str(snapshot)


@pytest.fixture
def client(monkeypatch, tmp_path):
    return Client(monkeypatch, tmp_path / "hub")


def equal(model, weights):
    own = {k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")}
    found = model.weights()
    assert found.keys() == own.keys()
    return all(np.array_equal(found[name], own[name]) for name in own)


def test_a_folder_to_give_away(run, tmp_path):
    folder, weights = run
    out = export_model(folder.path, tmp_path / "more" / "out", license="cc-by-4.0")
    assert {file.name for file in out.iterdir()} == FILES
    model = open_model(out)
    assert equal(model, weights)
    assert model.facts["license"] == "cc-by-4.0"
    with pytest.raises(InvalidArgument, match=r"`out`. Expected a folder that does not exist yet"):
        export_model(folder.path, out)


def test_the_card_says_what_how_and_how_well(run, tmp_path):
    folder, _ = run
    out = export_model(folder.path, tmp_path / "out", license="mit")
    text = (out / "README.md").read_text(encoding="utf-8")
    card = huggingface_hub.ModelCard(text)
    assert card.data.license == "mit"
    assert {r.metric_name: r.metric_value for r in card.data.eval_results} == {
        "kNN accuracy": 95.6, "linear probe, all labels": 97.0,
    }  # fmt: skip
    for said in (
        "smallconv, trained by simclr kl-micl on digits", 'load_encoder("out")',
        train_command(folder.settings()), "| raw pixels | 97.8 |", "| simclr kl-micl | 95.6 |",
        "features of an image of 8 x 8 pixels and 1 channel. It saw 1437 images for 3 epochs,"
        " without labels", "`fmicl evaluate RUN`", "arXiv:2402.10150",
    ):  # fmt: skip
        assert said in text, said
    without = (export_model(folder.path, tmp_path / "2") / "README.md").read_text(encoding="utf-8")
    assert "ask their author" in without
    assert huggingface_hub.ModelCard(without).data.license is None


def test_nothing_that_is_given_away_names_this_machine(tmp_path, client):
    data = tmp_path / "secret" / "photos"
    data.mkdir(parents=True)
    folder, _ = evaluated(tmp_path / "run", data=str(data), init=str(tmp_path / "first"))
    push_to_hub(folder.path, "me/photos")
    written = [*export_model(folder.path, tmp_path / "out").iterdir(),
               *(tmp_path / "hub" / "me" / "photos").iterdir()]  # fmt: skip
    assert len(written) == 2 * len(FILES)
    for file in written:
        assert str(tmp_path).encode() not in file.read_bytes(), file
    assert json.loads((tmp_path / "out" / MODEL).read_text())["trained"]["settings"]["data"] == (
        "photos"
    )


def test_what_is_pushed_can_be_loaded_by_its_name(run, client, fmicl):
    folder, weights = run
    assert push_to_hub(folder.path, "me/js", private=True) == "hub/me/js"
    assert client.asked == [("me/js", True)]
    for place, revision in (("hf://me/js", None), ("hf://me/js@v1.0", "v1.0")):
        model = open_model(place)
        assert client.asked[-1] == ("me/js", revision)
        assert equal(model, weights)
    code, said, err = fmicl("export", folder.path, "hf://me/js", "--license", "mit")
    assert (code, said) == (0, "pushed: hub/me/js\n"), err
    assert open_model("hf://me/js").facts["license"] == "mit"


def test_pytorch_loads_from_the_hub(run, client, require):
    torch = require("torch")
    require("lightning")
    from fmicl_lightning import load_encoder

    push_to_hub(run[0].path, "me/js")
    here, there = load_encoder(run[0].path), load_encoder("hf://me/js")
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(here(images), there(images), rtol=0, atol=0)


def test_a_command_asks_the_hub_once(run, client, tmp_path, fmicl, require):
    """What is published meanwhile cannot mix the shape of one model with the weights of another."""
    require("torch")
    require("lightning")
    push_to_hub(run[0].path, "me/js")
    del client.asked[:]
    out = tmp_path / "out.npz"
    code, _, err = fmicl("embed", "hf://me/js", "--data", "digits", "--out", out)
    assert code == 0, err
    assert client.asked == [("me/js", None)]
    fmicl("embed", run[0].path, "--out", tmp_path / "own.npz")
    with np.load(out) as there, np.load(tmp_path / "own.npz") as here:
        np.testing.assert_array_equal(there["features"], here["features"])


@pytest.mark.parametrize("place", ["hf://", "hf://me", "hf://me/a/b", "hf://../x y", "hf://me/a@"])
def test_places_that_are_none_are_refused(place):
    with pytest.raises(InvalidArgument, match=r"`run`. Expected hf://OWNER/NAME or"):
        fetch(place, ())
    assert repository("hf://me/a.b-c") == ("me/a.b-c", None)


def test_what_the_hub_refuses_is_said_in_its_words(run, client, monkeypatch):
    with pytest.raises(InvalidArgument, match=r"a model that the hub has.*OSError: no such repos"):
        open_model("hf://me/none")
    monkeypatch.setattr(client, "create_repo", lambda *_, **__: 1 / 0)
    with pytest.raises(InvalidArgument, match=r"`name`. Expected a repository.*ZeroDivisionError"):
        push_to_hub(run[0].path, "me/js")
    with pytest.raises(InvalidArgument, match="without a revision"):
        push_to_hub(run[0].path, "me/js@v1")


def test_mistakes_of_the_command(run, tmp_path, fmicl):
    code, _, err = fmicl("export", run[0].path, tmp_path / "out", "--private")
    assert code == 2
    assert "`private`. Expected hf://OWNER/NAME beside it" in err
    code, _, err = fmicl("export", tmp_path, tmp_path / "out")
    assert code == 2
    assert f"`run`. Expected a folder with {MODEL}" in err
    assert not (tmp_path / "out").exists()


OPTIONS = st.fixed_dictionaries({}, optional={
    "alpha": st.floats(0.5, 100.0), "divergence": st.sampled_from(["js", "kl", "tsallis"]),
    "epochs": st.integers(4, 50), "seed": st.integers(0, 9), "lr": st.floats(0.1, 1.0),
    "supervised": st.booleans(), "data": st.sampled_from(["digits", "cifar10", "OWNER/NAME"]),
    "workers": st.integers(0, 3), "framework": st.sampled_from(["torch", "jax"]),
})  # fmt: skip


@given(OPTIONS)
def test_the_command_of_a_card_means_the_settings_of_the_run(options):
    """Read back by typer, but for what does not decide over the result."""
    import typer
    from typer.testing import CliRunner

    from fmicl_cli import train

    settings, got = resolve(None, {"method": "simclr", **options}), []
    kind = replace(
        train.KIND_OF["simclr"], check=lambda _: None,
        train=lambda found, out, **_: got.append(found) or {},
    )  # fmt: skip
    app = typer.Typer()
    words = shlex.split(train_command(settings))[3:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(train.KIND_OF, "simclr", kind)
        app.command()(train.command("simclr"))
        result = CliRunner().invoke(app, [*words, "--out", "never-written"])
    assert result.exit_code == 0, (result.output, result.exception)
    wanted = settings.to_dict() | {"workers": None}
    assert got[0].to_dict() == wanted


def test_names_of_data_keep_no_folder(tmp_path):
    for data, shown in ((str(tmp_path), tmp_path.name), ("/a/b/c.parquet", "c.parquet"),
                         ("OWNER/NAME", "OWNER/NAME")):  # fmt: skip
        assert public(TrainSettings(data=data)).data == shown
    init = public(TrainSettings(data="digits", init=str(tmp_path), augmentation="digits")).init
    assert init == tmp_path.name
