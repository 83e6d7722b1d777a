"""The command line says what it does, and what was wrong."""

import json
import logging
import os
import subprocess
import sys
import types
import warnings

import pytest

pytest.importorskip("typer", reason="the command line needs typer")
pytest.importorskip("lightning", reason="the command line trains with Lightning")

from fmicl_cli import console, frameworks
from fmicl_recipes import RunFolder, TrainSettings
from fmicl_recipes.text import TextSettings

TINY = ["--data", "digits", "--limit", "256", "--batch-size", "64", "--epochs", "2",
        "--warmup-epochs", "0", "--width", "8", "--device", "cpu"]  # fmt: skip


def in_a_process(*arguments):
    command = [sys.executable, "-m", "fmicl_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.long
def test_train_resume_evaluate_and_compare(tmp_path, fmicl):
    """A folder's name is shown though it looks like markup."""
    a, b, c = tmp_path / "a[red]b", tmp_path / "b", tmp_path / "c"
    for run, loss in ((a, ["--divergence", "js"]), (b, ["--loss", "info-nce"])):
        code, out, err = fmicl("train", "simclr", *TINY, *loss, "--out", run)
        assert code == 0, err
        assert "linear, 10" in out
        assert f"written to {run}: metrics.json" in out
    assert json.loads((a / "metrics.json").read_text())["evaluated_on"] == "a held-out fifth"
    assert "js-micl" in fmicl("evaluate", a)[1]
    code, _, err = fmicl("train", "simclr", "--out", a, "--resume")
    assert code == 0, err
    code, _, err = fmicl("compare", a, b, "--out", c)
    assert code == 0, err
    names = {p.name for p in c.iterdir()}
    assert names == {"metrics.json", "comparison.md", "loss.png", "distances.png",
                     "embedding.png", "accuracy.png"}  # fmt: skip
    assert set(json.loads((c / "metrics.json").read_text())) == {
        "simclr js-micl",
        "simclr info-nce",
    }


MISTAKES = [
    (["train", "simclr", "--divergence", "lk"], "`divergence`. Expected one of 'kl', 'js'"),
    (
        ["train", "byol"],
        "`method`. Expected one of 'simclr', 'moco', 'moco-v3', 'simcse'. Received: method='byol'",
    ),
    (["train", "byol", "--out", "x", "--resume"], "`method`. Expected one of 'simclr', 'moco'"),
    (["sweep", "alpha", "simcls"], "`method`. Expected one of 'simclr', 'moco', 'moco-v3', 'simcs"),
    (["train", "simclr", "--framework", "mxnet"], "`framework`. Expected one of 'torch', 'jax'"),
    (
        ["train", "moco", "--loss", "spectral"],
        "`loss`. Expected 'fmicl' or 'info-nce' or 'dcl' for MoCo",
    ),
    (
        ["train", "moco", "--negatives", "all"],
        "`negatives`. Expected method = 'simclr' or 'moco",
    ),
    (["train", "simclr", "--keras-backend", "jax"], "`keras_backend`. Expected framework"),
    (
        ["train", "simclr", "--loss", "info-nce", "--alpha", "5"],
        "`alpha`. Expected loss = 'fmicl' beside it. Elsewhere the option has no effect. Received:",
    ),
    (["train", "simclr", "--order", "3"], "`order`. Expected loss = 'fmicl' and divergence = 'ts"),
    (["train", "simclr", "--queue-size", "9"], "`queue_size`. Expected method = 'moco' beside it"),
    (["train", "simclr", "--flip", "0.1"], "`flip`. Expected augmentation = 'auto' or 'photo'"),
    (
        ["train", "simclr", "--framework", "jax", "--encoder", "timm:resnet18"],
        "That one needs framework = 'torch'",
    ),
    (["train", "simclr", "--encoder", "timm:x"], "`encoder`. Expected an encoder whose library"),
    (
        ["train", "simclr", "--data", "x", "--blur", "2"],
        "`blur`. Expected a number in [0, 1]",
    ),
    (["train", "simclr", "--data", "nowhere"], "`data`. Expected a path that exists"),
    (["train", "simclr", "--preset", "x"], "`preset`. Expected one of 'paper-cifar10'"),
    (
        ["train", "simclr", "--alpha", "-1"],
        "`alpha`. Expected a finite number > 0. Received: alpha=-1",
    ),
    (["train", "simclr", "--encoder", "vgg"], "`encoder`. Expected one of resnet18"),
    (["evaluate", "nowhere"], "`run`. Expected a run folder with settings.json"),
    (["evaluate", "[/x]"], "Received: run='[/x]'"),
    (["evaluate", "a[red]b"], "Received: run='a[red]b'"),
    (["evaluate", ":smile:"], "Received: run=':smile:'"),
    (["train", "--out", "x", "simcse", "--data", "no.txt"], "`data`. Expected a file that exists"),
    (["train", "--resume", "--out", "x", "simcse"], "`run`. Expected a run folder with settings"),
    (["train", "--out=x", "--alpha", "-1", "simcse"], "`alpha`. Expected a finite number > 0"),
    (["train", "--out", "simcse", "simclr", "--width", "0"], "`width`. Expected a whole number"),
    (["sweep", "alpha", "--out", "x", "simcse", "--data", "n.txt"], "`data`. Expected a file that"),
    (["divergences", "--plot", "x.foo"], "`plot`. Expected a file name that ends in .png"),
    (["train", "simclr", "--seed", str(2**32)], "`seed`. Expected a whole number in [0, 2^32)"),
    (
        [
            "train",
            "simclr",
            "--data",
            "x",
            "--crop-scale",
            "1",
            "--jitter",
            "0",
            "--grayscale",
            "0",
            "--flip",
            "0",
        ],
        "Otherwise the two views of an image are the same",
    ),
    (["sweep", "alpha", "simclr", "--factor", "1"], "`factor`. Expected a finite number > 1"),
    (["sweep", "alpha", "simclr", "--loss", "spectral"], "`loss`. Expected 'fmicl', which has an"),
    (["sweep", "alpha", "moco", "--strength", "3"], "`strength`. Expected to be left out"),
    (["train", "simcse", "--alpha", "much"], "`alpha`. Expected a finite number > 0 or 'auto'"),
    (["check", "--train", "--out", "/dev/null/x"], "`out`. Expected a folder that can be made"),
    (["sweep", "alpha", "simclr", "--out", "/dev/null/x"], "`out`. Expected a folder that can be"),
    (["demo", "--out", "/dev/null/x"], "`out`. Expected a folder that can be made"),
    (["compare", "nowhere", "--out", "/dev/null/x"], "`out`. Expected a folder that can be made"),
    (["compare", "nowhere"], "`run`. Expected a run folder with settings.json"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_mistakes_end_in_one_line(tmp_path, monkeypatch, fmicl, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = fmicl(*arguments)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


HEAVY = ("torch", "jax", "keras", "tensorflow", "datasets", "sklearn", "matplotlib")


#: Mistakes that are found before training, by what is looked at: options, and what is on the disk.
EARLY = [
    ["--data", "foldr"],
    ["--data", "data/foldr/x"],
    ["--encoder", "vgg"],
    ["--device", "gpu"],
    ["--alpha", "0"],
    ["--out", "file/run"],
    ["--out", "taken"],
    ["--out", "taken", "--resume", "--lr", "7"],
    ["--preset", "x"],
    ["--data", "pictures", "--label-column", "y"],
]
PROGRAM = """
import contextlib, io, json, os, sys
from fmicl_cli import frameworks, main

frameworks.any_gpu = lambda: False
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["fmicl", "train", "simclr", *arguments]
    code, out, err = None, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main.main()
        except SystemExit as leaving:
            code = leaving.code
    print(json.dumps([code, out.getvalue(), err.getvalue(), os.listdir(), list(sys.modules)]))
"""


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """Exit code, output, errors, the folder and the modules after each mistake, of one process."""
    folder = tmp_path_factory.mktemp("early")
    (folder / "file").write_text("")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "1.png").write_text("")
    RunFolder.create(folder / "taken", TrainSettings())
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(EARLY)], capture_output=True, text=True,
        check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(EARLY)), ids=[" ".join(given) for given in EARLY])
def test_mistakes_are_found_before_a_framework_is_imported(early, number):
    """In a fresh process, with a machine that has no GPU."""
    code, out, err, files, modules = early[number]
    assert code == 2, err
    assert err.startswith("error: Invalid value for argument")
    assert len(err.splitlines()) == 1
    assert out == ""
    assert {*files} == {"file", "pictures", "taken"}
    assert not {*HEAVY} & {*modules}


def test_a_mistake_ends_a_process_with_exit_code_2():
    done = in_a_process("evaluate", "[/x]")
    assert done.returncode == 2
    assert done.stderr.startswith("error: Invalid value for argument `run`.")
    assert len(done.stderr.splitlines()) == 1


def test_an_error_that_is_not_ours_keeps_its_traceback(monkeypatch, fmicl):
    """As a ValueError of NumPy, which is no mistake of the user's."""

    def broken(*arguments, **options):
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr("fmicl_recipes.run.train_run", broken)
    with pytest.raises(ValueError, match="operands could not be broadcast together"):
        fmicl("train", "simclr", *TINY)


RESUMED = [
    (["simclr"], ["moco"], "changes=\"method: 'simclr' in the run, 'moco' now\""),
    (["simclr"], ["simcse"], "changes=\"method: 'simclr' in the run, 'simcse' now\""),
    (["simcse"], ["simclr"], "changes=\"method: 'simcse' in the run, 'simclr' now\""),
    (["simclr"], ["simclrr"], "`method`. Expected one of 'simclr', 'moco'"),
    (["simclr"], ["moco", "--lr", "0.5"], "changes=\"method: 'simclr' in the run, 'moco' now\""),
    (["simclr"], ["simclr", "--lr", "0.5"], "changes='lr: 0.1 in the run, 0.5 now'"),
    (["simclr"], ["simclr", "--preset", "digits", "--lr", "0.1"], "epochs: 200 in the run, 60 now"),
    (["simclr"], ["simclr", "--divergence", "lk"], "`divergence`. Expected one of 'kl'"),
    (["simcse"], ["simcse", "--lr", "0.5"], "changes='lr: 3e-05 in the run, 0.5 now'"),
]


def untrained_run(path, method):
    kind = TextSettings if method == "simcse" else TrainSettings
    return RunFolder.create(path, kind(method=method))


@pytest.mark.parametrize(("run", "given", "message"), RESUMED, ids=str)
def test_a_run_does_not_go_on_as_another(tmp_path, fmicl, run, given, message):
    folder = untrained_run(tmp_path / "run", *run)
    code, _, err = fmicl("train", *given, "--out", folder.path, "--resume")
    assert code == 2
    assert message in err
    assert [p.name for p in folder.path.iterdir()] == ["settings.json"]


def test_a_run_goes_on_with_its_own_settings_wherever_asked_to(tmp_path, monkeypatch, fmicl):
    folder = untrained_run(tmp_path / "run", "simclr")
    taken = []

    def train_run(trainer, settings, out, **options):
        taken.append((settings.to_dict(), out, options["resume"]))
        return {"baselines": {}, "title": "kl-micl"}

    monkeypatch.setattr("fmicl_recipes.run.train_run", train_run)
    for given in ([], ["--device", "cpu"], ["--lr", "0.1", "--divergence", "kl"]):
        code, _, err = fmicl("train", "simclr", *given, "--out", folder.path, "--resume")
        assert code == 0, err
    device = [values.pop("device") for values, *_ in taken]
    assert device == ["auto", "cpu", "auto"]
    expected = {k: v for k, v in folder.settings().to_dict().items() if k != "device"}
    assert taken == [(expected, folder.path, True)] * 3


def finished(path, **more):
    folder = untrained_run(path, "simclr")
    metrics = {"title": "kl-micl", "data": "digits", "baselines": {}, "loss_history": [1.0]}
    folder.write_json("metrics.json", metrics | more)
    return folder


def test_what_cannot_be_compared_is_named(tmp_path, fmicl):
    run, out = finished(tmp_path / "run"), tmp_path / "out"
    half = finished(tmp_path / "half")
    (half.path / "embeddings.npz").write_bytes(b"half")
    text = finished(tmp_path / "text", sts={})
    several = RunFolder.create(tmp_path / "several", TrainSettings())
    several.write_json("metrics.json", {"kl-micl": {"knn_accuracy": 0.5}})
    for first, message in (
        (several, "`run`. Expected a folder of one finished run"),
        (text, "`runs`. Expected runs on images alone or on texts alone"),
        (half, "`run`. Expected a run folder with a whole embeddings.npz"),
    ):
        code, _, err = fmicl("compare", first.path, run.path, "--out", out)
        assert (code, message in err) == (2, True), err


@pytest.mark.parametrize("options", [["--device", "gpu"], ["--device", "auto", "--devices", "3"]])
def test_a_device_that_is_missing_leaves_no_run_behind(tmp_path, monkeypatch, fmicl, options):
    import torch

    gpus = 0 if "gpu" in options else 1
    message = "`devices`. Expected at most 1" if gpus else "`device`. Expected cpu or auto"
    monkeypatch.setattr(frameworks, "any_gpu", lambda: True)  # PyTorch still sees none
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    out = tmp_path / "run"
    code, _, err = fmicl("train", "simclr", *TINY, "--batch-size", 63, *options, "--out", out)
    assert code == 2
    assert message in err
    assert not out.exists()


@pytest.mark.parametrize("error", [ValueError, RuntimeError, None])
def test_a_model_that_a_library_does_not_have_is_named(tmp_path, monkeypatch, fmicl, error):
    """As torchvision says it, and as timm; or before data are looked at, where it is listed."""

    def create_model(name, **options):
        raise error(f"Unknown model {name}")

    timm = types.SimpleNamespace(create_model=create_model, is_model=lambda name: bool(error))
    monkeypatch.setitem(sys.modules, "timm", timm)
    if error is None:
        monkeypatch.setattr("fmicl_recipes.run.load_data", lambda *_: pytest.fail("too late"))
    monkeypatch.setattr(frameworks, "is_installed", lambda name: True)
    out = tmp_path / "run"
    encoder = ("--encoder", "timm:resnet51", "--width", 64)
    code, _, err = fmicl("train", "simclr", *TINY, *encoder, "--out", out)
    assert code == 2
    assert "`encoder`. Expected a model that timm has. It said: Unknown model resnet51" in err
    assert not out.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(130)])
def test_every_command_says_that_it_was_stopped(monkeypatch, fmicl, error):
    def stopped(*arguments, **options):
        raise error

    monkeypatch.setattr("fmicl_recipes.compare.compare_runs", stopped)
    code, _, err = fmicl("compare", "a", "b")
    assert (code, err) == (130, "stopped\n")


def test_a_warning_of_ours_is_one_line_and_given_once(fmicl):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        arguments = ["--divergence", "reverse_kl", "--data", "nowhere"]
        code, _, err = fmicl("train", "simclr", *arguments)
    assert code == 2
    lines = err.strip().splitlines()
    assert lines[0].startswith("warning: ReverseKL() does not keep features apart")
    assert len(lines) == 2, err


def test_tables_and_errors_show_brackets_as_they_are(capsys):
    console.print_table(["[a]", "b"], [["[/x]", "[red]1"]], "t[red]u")
    console.complain("error", "[/x] and [bold]")
    shown = capsys.readouterr()
    for text in ("[a]", "[/x]", "[red]1", "t[red]u"):
        assert text in shown.out
    assert shown.err == "error: [/x] and [bold]\n"


def test_being_quiet_ends(monkeypatch):
    """Levels and environment are as before, also after an error."""
    logger = logging.getLogger("fmicl-test-library")
    monkeypatch.delenv("FMICL_TEST_VERBOSITY", raising=False)
    logger.setLevel(logging.INFO)

    def noisy():
        with console.quiet({"fmicl-test-library": "FMICL_TEST_VERBOSITY"}):
            assert logger.level == logging.ERROR
            assert os.environ["FMICL_TEST_VERBOSITY"] == "error"
            logger.setLevel(logging.DEBUG)  # as a library does when it is imported
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        noisy()
    assert logger.level == logging.INFO
    assert "FMICL_TEST_VERBOSITY" not in os.environ
    monkeypatch.setenv("FMICL_TEST_VERBOSITY", "info")  # a wish of the user's
    with console.quiet({"fmicl-test-library": "FMICL_TEST_VERBOSITY"}):
        assert logger.level == logging.INFO
        assert os.environ["FMICL_TEST_VERBOSITY"] == "info"


def test_the_demo_replaces_only_a_demo(tmp_path, fmicl):
    (tmp_path / "mine.txt").write_text("keep")
    code, _, err = fmicl("demo", "--out", tmp_path)
    assert code == 2
    assert "`out`. Expected a folder that does not exist, is empty, or holds a demo" in err
    assert (tmp_path / "mine.txt").read_text() == "keep"
