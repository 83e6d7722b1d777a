"""A run folder may be a stranger's: nothing in it runs, leaves the folder or takes all memory."""

import json
import os
import pickle
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs typer")
pytest.importorskip("lightning", reason="the folders are those of Lightning's trainer")

import torch

from fmicl_core.checks import InvalidArgument
from fmicl_lightning.checkpoints import AtomicCheckpoints, read_checkpoint
from fmicl_recipes import RunFolder, run
from fmicl_recipes.compare import compare_runs
from fmicl_recipes.files import LARGEST_TEXT, check_own_files, read_json
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.weights import open_model

TINY = ["--data", "digits", "--limit", "64", "--batch-size", "32", "--epochs", "1", "--encoder",
        "smallconv", "--width", "4", "--projection-hidden", "8", "--projection-dim", "8",
        "--device", "cpu"]  # fmt: skip
#: The commands that read a run folder, by name.
COMMANDS = {
    "evaluate": lambda run: ["evaluate", run],
    "resume": lambda run: ["train", "simclr", "--out", run, "--resume"],
    "embed": lambda run: ["embed", run, "--out", run.parent / "out.npz"],
    "compare": lambda run: ["compare", run, "--out", run.parent / "comparison"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a finished run by Lightning."""
    import sys

    from fmicl_cli import main as cli

    out = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fmicl", "train", "simclr", *TINY, "--out", str(out)])
        with suppress(SystemExit):
            cli.main()
    assert (out / "model.json").exists()
    return out


@pytest.fixture
def stranger(trained, tmp_path):
    """A copy of the finished run, to be tampered with."""
    return Path(shutil.copytree(trained, tmp_path / "home" / "stranger", symlinks=True))


@pytest.fixture
def refused(fmicl, tmp_path):
    """Check that commands on a folder end in our error, and change nothing outside of it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("{}")

    def check(folder, words, commands=tuple(COMMANDS)):
        before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
        for command in commands:
            code, _, err = fmicl(*COMMANDS[command](folder))
            last = err.strip().splitlines()[-1]
            assert code == 2, (command, code, err)
            assert "error: Invalid value for argument" in last, (command, err)
            assert "Traceback" not in err
            assert words in last, (command, last)
            assert all(c.isprintable() for c in last.split("error: ")[1]), last
        after = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
        assert after == before

    check.outside = outside
    return check


def change(folder, **values):
    folder = RunFolder(folder)
    folder.write_json("settings.json", folder.read_json("settings.json") | values)


# Files of the folder's own


FILES = ("settings.json", "metrics.json", "history.csv", "embeddings.npz", "checkpoint.ckpt",
         "model.json", "encoder.safetensors", "plots/loss.png", "plots", "tensorboard")  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_link_that_leaves_the_folder_is_refused(stranger, refused, name):
    """What it leads to would be read, as a file, or written over, as the plots."""
    target = refused.outside / "moved"
    shutil.move(stranger / name, target)
    (stranger / name).symlink_to(target)
    assert (stranger / name).exists()
    refused(stranger, "whose links stay within it")


def test_plots_would_be_written_through_a_link(stranger, tmp_path, monkeypatch, fmicl):
    """Without the check."""
    shutil.rmtree(stranger / "plots")
    (tmp_path / "victim").mkdir()
    (stranger / "plots").symlink_to(tmp_path / "victim")
    monkeypatch.setattr("fmicl_recipes.run_folder.check_own_files", lambda folder: None)
    assert fmicl("evaluate", stranger)[0] == 0
    assert (tmp_path / "victim" / "loss.png").exists()


@pytest.mark.parametrize(
    "target", ["checkpoint.ckpt", "plots/again", "../stranger", "/dev/zero", "../../outside/none"]
)
def test_loops_and_devices_are_refused(stranger, refused, target):
    (stranger / "checkpoint.ckpt").unlink()
    (stranger / "checkpoint.ckpt").symlink_to(target)
    (stranger / "plots" / "again").symlink_to("../plots")
    refused(stranger, "whose links stay within it")


@pytest.mark.parametrize("name", ["settings.json", "checkpoint.ckpt", "plots/pipe"])
def test_a_pipe_is_refused(stranger, refused, name):
    """Who opens one waits for a writer for ever."""
    (stranger / name).unlink(missing_ok=True)
    os.mkfifo(stranger / name)
    refused(stranger, "neither")


def test_links_within_the_folder_and_to_it_are_good(stranger, tmp_path):
    """Orbax's checkpoints have one."""
    (stranger / "checkpoints").mkdir()
    shutil.move(stranger / "checkpoint.ckpt", stranger / "checkpoints" / "step-2")
    (stranger / "checkpoint.ckpt").symlink_to("checkpoints/step-2")
    (tmp_path / "link").symlink_to(stranger, target_is_directory=True)
    for path in (stranger, tmp_path / "link"):
        check_own_files(path)
        assert RunFolder(path).settings().width == 4


# JSON and CSV


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "a readable settings.json"),
        ("[]", "an object in settings.json"),
        ("[" * 100_000, "a readable settings.json"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "settings.json"),
        ('{"lr": NaN}', "NaN is no number"),
        ('{"lr": -Infinity}', "-Infinity is no number"),
        ('{"lr": 1e999}', "too large"),
        ('{"seed": ' + "9" * 5000 + "}", "settings.json"),
        ('{"lr": ' + "9" * 400 + "}", "too large"),
        ('{"data": "\\u001b]0;title\\u0007"}', "control characters"),
        ('{"\\u009b31m": 1}', "control characters"),
        ('{"data": "\\ud800"}', "control characters"),
        ('{"bomb": 1}', "one of 'method'"),
        ('{"method": ["simclr"]}', "method"),
        ('{"epochs": true}', "`epochs`. Expected a whole number"),
        ('{"lr": [1]}', "a finite number"),
        ('{"data": 5}', "`data`. Expected a string"),
        ('{"views": 1000000000}', "a whole number <= 1024"),
        ('{"workers": 1000000000, "cache": "disk"}', "a whole number <= 1024"),
        ('{"image_size": 1000000}', "a whole number <= 16384"),
        ('{"format_version": 3}', "a later version of fmicl"),
        ('{"format_version": "2"}', "a whole number from 1 on"),
    ],
    ids=range(22),
)
def test_settings_that_are_none(stranger, refused, text, words):
    (stranger / "settings.json").write_text(text)
    refused(stranger, "", ["resume"])
    commands = ["evaluate", "compare"] if "format" in text else ["evaluate"]
    words = words.replace("a later", "A later")
    refused(stranger, words, commands)


def test_files_of_text_that_are_too_large_or_no_text(tmp_path):
    file = tmp_path / "settings.json"
    with open(file, "wb") as sparse:
        sparse.truncate(LARGEST_TEXT + 1)
    with pytest.raises(InvalidArgument, match="more than"):
        read_json(file)
    file.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InvalidArgument, match=r"readable settings\.json"):
        read_json(file)


@pytest.mark.parametrize(
    "text", ["epoch,loss\n1,nan\n", "epoch,loss\n1,abc\n", "loss\n1,2\n", 'a,loss\n"1', "a\n1\n"]
)
def test_a_history_that_is_none(stranger, refused, text):
    (stranger / "history.csv").write_text(text)
    refused(stranger, "history.csv", ["resume"])


# Sizes


@pytest.mark.parametrize(
    "values",
    [
        {"width": 10**9},
        {"projection_dim": 10**9},
        {"method": "moco", "negatives": "cross", "queue_size": 10**9},
        {"encoder": "vit-s6", "patch_size": 10**6},
    ],
    ids=str,
)
@pytest.mark.parametrize("checkpoint", [True, False])
def test_networks_far_larger_than_their_checkpoint_are_never_made(
    stranger, monkeypatch, values, checkpoint
):
    """Nor, where there is none, larger than memory."""
    change(stranger, **values)
    folder = RunFolder(stranger)

    def trainer(*_):
        pytest.fail("a network is made")

    trainer.check = trainer.join = lambda settings: None
    with pytest.raises(InvalidArgument, match=r"networks|numbers that its settings"):
        if checkpoint:
            run.evaluate_run(trainer, folder)
        else:
            folder.checkpoint.unlink()
            run.train_run(trainer, folder.settings(), stranger, resume=True, progress=False)


def test_a_batch_that_no_data_fill(stranger, refused):
    change(stranger, batch_size=10**9)
    refused(stranger, "at most the 64 training images", ["evaluate", "resume"])


# Checkpoints of Lightning


def tampered(folder, change, save=torch.save):
    """Write the checkpoint again after a function has changed its content."""
    path = folder / "checkpoint.ckpt"
    content = torch.load(path, weights_only=True)
    change(content)
    save(content, path)


def test_a_pickled_checkpoint_runs_nothing(stranger, refused, bomb):
    trace = refused.outside / "trace"
    tampered(stranger, lambda c: c.update(bomb=bomb(trace)))
    torch.load(stranger / "checkpoint.ckpt", weights_only=False)
    assert trace.is_dir(), "the bomb does not go off"
    trace.rmdir()
    refused(stranger, "tensors and plain values only", ["evaluate", "resume"])
    assert not trace.exists()


def test_a_plain_pickle_runs_nothing(stranger, refused, bomb):
    trace = refused.outside / "trace"
    (stranger / "checkpoint.ckpt").write_bytes(pickle.dumps({"state_dict": bomb(trace)}))
    refused(stranger, "tensors and plain values only", ["evaluate", "resume"])
    assert not trace.exists()


def of_weights(**values):
    return lambda content: content["state_dict"].update(values)


@pytest.mark.parametrize(
    "spoil",
    [
        of_weights(more=1),
        lambda c: c["state_dict"].update({5: torch.zeros(1)}),
        lambda c: c.update(state_dict=[1]),
        lambda c: c.update(history=[{"loss": float("nan")}]),
        lambda c: c.update(history=[["loss", 1]]),
        lambda c: c.update(history="loss"),
        lambda c: c["callbacks"].update(RunClock={"seconds": "1"}),
        lambda c: c.update(callbacks=[]),
        lambda c: c.update(number=np.float64(1.0)),
        lambda c: c["state_dict"].update({"head.0.weight": torch.zeros(1).expand(10**6, 10**6)}),
        lambda c: c["state_dict"].pop("head.0.weight"),
        lambda c: c["state_dict"].update({"head.0.weight": torch.zeros(2, 2).to_sparse()}),
    ],
    ids=range(12),
)
def test_a_checkpoint_of_something_else(stranger, refused, spoil):
    tampered(stranger, spoil)
    refused(stranger, "a folder whose checkpoint is whole", ["evaluate", "resume"])


def other_state(content):
    kept = content["optimizer_states"][0]["state"]
    for state in kept.values():
        state["momentum_buffer"] = torch.zeros(3)
    kept.setdefault(0, {"momentum_buffer": torch.zeros(3)})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.update(loops={"fit_loop": 5}),
        lambda c: c.update(optimizer_states=5),
        lambda c: c.update(lr_schedulers=5),
        lambda c: c["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"][
            "optimizer"
        ]["step"]["total"].update(completed=7),
        lambda c: c.update({"pytorch-lightning_version": [5]}),
        other_state,
    ],
    ids=range(6),
)
def test_what_a_run_cannot_go_on_from(stranger, refused, spoil):
    tampered(stranger, spoil)
    change(stranger, epochs=2)
    refused(stranger, "a folder whose checkpoint is whole", ["resume"])


def test_lightning_removes_no_file_that_a_checkpoint_names(stranger, fmicl, tmp_path, monkeypatch):
    """Its callback removes the checkpoint before the one it writes, wherever that is said to be."""
    victim = tmp_path / "victim"
    named = stranger / ".." / ".." / "victim"

    def spoil(content):
        (state,) = (v for k, v in content["callbacks"].items() if k.startswith("ModelCheckpoint"))
        state["best_model_path"] = str(named)

    tampered(stranger, spoil)
    change(stranger, epochs=2)
    again = Path(shutil.copytree(stranger, stranger.with_name("naive")))
    victim.mkdir()
    assert fmicl("train", "simclr", "--out", stranger, "--resume")[0] == 0
    assert victim.exists()

    def naive(self, path, map_location=None, weights_only=None):
        content = torch.load(path, weights_only=True)
        (state,) = (v for k, v in content["callbacks"].items() if k.startswith("ModelCheckpoint"))
        state["best_model_path"] = str(again / ".." / ".." / "victim")
        return content

    monkeypatch.setattr(AtomicCheckpoints, "load_checkpoint", naive)
    fmicl("train", "simclr", "--out", again, "--resume")
    assert not victim.exists(), "without the guard it stays, too"


def deflated(path):
    """The same archive, compressed."""
    with zipfile.ZipFile(path) as plain:
        members = {name: plain.read(name) for name in plain.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)


def test_a_compressed_checkpoint_is_refused(stranger):
    """PyTorch would unpack it: a thousandth of the memory that it then takes is on the disk."""
    tampered(stranger, lambda c: c.update(bomb=torch.zeros(2**20)))
    deflated(stranger / "checkpoint.ckpt")
    assert (stranger / "checkpoint.ckpt").stat().st_size < 2**19
    assert len(torch.load(stranger / "checkpoint.ckpt", weights_only=True)["bomb"]) == 2**20
    with pytest.raises(InvalidArgument, match="whose checkpoint is whole"):
        read_checkpoint(stranger / "checkpoint.ckpt")


# Arrays


def test_arrays_of_objects_run_nothing(stranger, refused, bomb):
    trace = refused.outside / "trace"
    arrays = np.array([bomb(trace)], dtype=object)
    with open(stranger / "embeddings.npz", "wb") as file:
        np.savez(file, test=arrays, view_x=arrays, view_y=arrays)
    with np.load(stranger / "embeddings.npz", allow_pickle=True) as file:
        _ = file["test"]
    assert trace.is_dir(), "the bomb does not go off"
    trace.rmdir()
    refused(stranger, "a whole embeddings.npz", ["compare"])
    assert not trace.exists()


# Weights for all frameworks


@pytest.mark.parametrize(
    "values",
    [
        {"format_version": 9},
        {"format_version": None},
        {"architecture": "../../etc"},
        {"architecture": ["resnet18"]},
        {"options": {"channels": 1, "width": 10**9}},
        {"options": {"channels": 1, "width": 4, "path": "/etc/passwd"}},
        {"options": [4]},
        {"options": {"channels": 3, "width": 4}},
        {"image_shape": [10**9, 10**9, 1]},
        {"image_shape": [8, 8, True]},
        {"image_shape": 8},
        {"normalisation": {"mean": 1e9, "deviation": 1.0}},
        {"normalisation": []},
        {"\u001b": 1},
    ],
    ids=range(14),
)
def test_a_model_that_cannot_be(stranger, values):
    path = stranger / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(InvalidArgument):
        open_model(stranger)


def test_a_model_of_other_weights(stranger):
    """Shapes are compared before a number is read, or a network made."""
    path = stranger / "model.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"options": facts["options"] | {"width": 2**20}}))
    with pytest.raises(InvalidArgument, match="of the shape"):
        open_model(stranger).weights()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 8,
        (2**63 - 1).to_bytes(8, "little"),
        pickle.dumps({"a": 1}),
        b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
        b'{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
    ],
    ids=range(7),
)
def test_weights_that_are_none(stranger, content):
    header = len(content).to_bytes(8, "little") if content.startswith(b"{") else b""
    (stranger / "encoder.safetensors").write_bytes(header + content + bytes(4))
    with pytest.raises(InvalidArgument, match=r"encoder\.safetensors"):
        open_model(stranger).weights()


def test_a_folder_of_format_1_is_evaluated_and_resumed(stranger, fmicl):
    """As fmicl made it before folders had a version, and weights for all frameworks."""
    folder = RunFolder(stranger)
    stored = folder.read_json("settings.json")
    assert stored.pop("format_version") == 2
    folder.write_json("settings.json", stored)
    own = {"model.json", "encoder.safetensors", "method.safetensors"}
    for command in ("evaluate", "resume"):
        for name in own:
            (stranger / name).unlink()
        code, _, err = fmicl(*COMMANDS[command](stranger))
        assert code == 0, err
        assert own <= {path.name for path in stranger.iterdir()}
    assert "format_version" not in folder.read_json("settings.json")


def test_a_folder_of_a_later_version_is_refused_by_every_command(stranger, refused):
    change(stranger, format_version=3)
    refused(stranger, "format 2 or before. A later version of fmicl made this one, and reads it. "
            "Received: format_version=3")  # fmt: skip


def test_the_version_stays_when_settings_are_written_again(stranger):
    folder = RunFolder(stranger)
    folder.keep_images((9, 9, 1))
    assert folder.read_json("settings.json")["format_version"] == 2


# What compare prints


@pytest.mark.parametrize(
    "values",
    [
        {"title": "\x1b[2Jcleared"},
        {"title": "[link](https://example.com)"},
        {"title": ["simclr"]},
        {"title": "a" * 10_000},
        {"title": "a | b"},
        {"baselines": []},
        {"baselines": {"<b>": {}}},
        {"baselines": {"raw pixels": {"knn_accuracy": "high"}}},
        {"loss_history": 5},
        {"loss_history": ["a"]},
        {"loss": {"a": 1}},
        {"knn_accuracy": [1]},
        {"alignment": True},
        {"test_images": -5},
        {"image_shape": 5},
        {"sts": [1]},
        {"data": {}},
    ],
    ids=str,
)
def test_metrics_that_are_none(stranger, refused, values):
    path = stranger / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    refused(stranger, "", ["compare"])


def test_arrays_that_are_no_features_are_not_drawn(stranger, tmp_path, capsys):
    """The rest of a comparison is made."""
    np.savez(stranger / "embeddings.npz", test=np.zeros((2, 0)), view_x=np.array("a"))
    found = compare_runs([stranger], tmp_path / "comparison")
    assert {file.name for file in found.files} >= {"comparison.md", "metrics.json", "loss.png"}
    assert "distances.png is left out" in capsys.readouterr().err


def test_settings_of_a_stranger_load_and_run_no_data_of_code(stranger, refused, tmp_path):
    """A data set with a script of loading is no data set here."""
    trace, data = refused.outside / "trace", tmp_path / "data"
    data.mkdir()
    (data / "data.py").write_text(f"import os; os.mkdir({str(trace)!r})")
    change(stranger, data=str(data))
    refused(stranger, "`data`", ["evaluate", "resume"])
    assert not trace.exists()


def test_known_settings_are_within_limits():
    """Limits are far from what anyone takes."""
    assert TrainSettings(image_size=2**14, cache="disk").image_size == 2**14
