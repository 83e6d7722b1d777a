"""The command line says what it does, and what was wrong."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("typer", reason="the command line needs typer")
pytest.importorskip("lightning", reason="the command line trains with Lightning")

TINY = ["--data", "digits", "--limit", "256", "--batch-size", "64", "--epochs", "2",
        "--warmup-epochs", "0", "--width", "8", "--device", "cpu"]  # fmt: skip


def fmicl(*arguments, cwd=None):
    command = [sys.executable, "-m", "fmicl_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.long
def test_train_resume_evaluate_and_compare(tmp_path):
    for name, loss in (("a", ["--divergence", "js"]), ("b", ["--loss", "info-nce"])):
        done = fmicl("train", "simclr", *TINY, *loss, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert "linear, 10" in done.stdout
    assert "js-micl" in fmicl("evaluate", tmp_path / "a").stdout
    again = fmicl("train", "simclr", "--out", tmp_path / "a", "--resume")
    assert again.returncode == 0, again.stderr
    compared = fmicl("compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c")
    assert compared.returncode == 0, compared.stderr
    names = {p.name for p in (tmp_path / "c").iterdir()}
    assert names == {"metrics.json", "comparison.md", "loss.png", "distances.png",
                     "embedding.png", "accuracy.png"}  # fmt: skip
    assert set(json.loads((tmp_path / "c" / "metrics.json").read_text())) == {"js-micl", "info-nce"}


MISTAKES = [
    (["train", "simclr", "--divergence", "lk"], "`divergence`. Expected one of 'kl', 'js'"),
    (
        ["train", "byol"],
        "`method`. Expected one of 'simclr', 'moco', 'moco-v3'. Received: method='byol'",
    ),
    (["train", "simclr", "--framework", "mxnet"], "`framework`. Expected one of 'torch', 'jax'"),
    (["train", "moco", "--loss", "spectral"], "`loss`. Expected 'fmicl' or 'info-nce' for MoCo"),
    (["train", "simclr", "--keras-backend", "jax"], "`keras_backend`. Expected framework"),
    (["train", "simclr", "--data", "nowhere"], "`data`. Expected a path that exists"),
    (["train", "simclr", "--preset", "x"], "`preset`. Expected one of 'paper-cifar10'"),
    (
        ["train", "simclr", "--alpha", "-1"],
        "`alpha`. Expected a finite number > 0. Received: alpha=-1",
    ),
    (["train", "simclr", "--encoder", "vgg"], "`encoder`. Expected one of resnet18"),
    (["evaluate", "nowhere"], "`run`. Expected a run folder with settings.json"),
    (["compare", "nowhere"], "`run`. Expected a run folder with metrics.json"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_mistakes_end_in_one_line(tmp_path, arguments, message):
    done = fmicl(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_option_and_does_not_import_a_framework():
    code = (
        "import sys; sys.argv = ['fmicl', 'train', '--help']\n"
        "from fmicl_cli.main import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "print('HEAVY', sorted({'torch', 'sklearn', 'datasets', 'matplotlib'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in shown.stdout
    for word in ("--divergence", "--alpha", "--resume", "squared_hellinger", "Examples"):
        assert word in shown.stdout


def test_divergences_are_listed(tmp_path):
    done = fmicl("divergences", "--plot", tmp_path / "d.png")
    assert done.returncode == 0, done.stderr
    assert "neyman" in done.stdout
    assert (tmp_path / "d.png").stat().st_size > 0


def test_presets_are_listed():
    assert "paper-cifar10" in fmicl("train", "simclr", "--list-presets").stdout


def test_the_demo_replaces_only_a_demo(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    done = fmicl("demo", "--out", tmp_path)
    assert done.returncode == 2
    assert "`out`. Expected a folder that does not exist, is empty, or holds a demo" in done.stderr
    assert (tmp_path / "mine.txt").read_text() == "keep"
