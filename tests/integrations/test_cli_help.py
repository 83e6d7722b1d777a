"""What the command line says of itself: commands, methods, and the options of each method."""

import re
import subprocess
import sys

import pytest

import fmicl_core

pytest.importorskip("typer", reason="the command line needs typer")

from fmicl_recipes import TrainSettings
from fmicl_recipes.choices import METHODS
from fmicl_recipes.text import METHODS as TEXT_METHODS
from fmicl_recipes.text import TextSettings

HEAVY = ("torch", "jax", "keras", "tensorflow", "datasets", "sklearn", "matplotlib")


def test_help_does_not_import_a_framework():
    code = (
        "import sys; sys.argv = ['fmicl', 'train', 'simclr', '--help']\n"
        "from fmicl_cli.main import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        f"print('HEAVY', sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in shown.stdout
    for word in ("--divergence", "--alpha", "--resume", "squared_hellinger", "Examples"):
        assert word in shown.stdout


COMMANDS = pytest.mark.parametrize("command", [("train",), ("sweep", "alpha")], ids=" ".join)


@COMMANDS
def test_help_names_the_methods(fmicl, command):
    code, out, _ = fmicl(*command, "--help")
    assert code == 0
    for name, line in {**METHODS, **TEXT_METHODS}.items():
        assert f"{name} " in out
        assert line.split(":")[0] in out
    assert f"fmicl {' '.join(command)} METHOD --help" in out


@COMMANDS
@pytest.mark.parametrize("method", [*METHODS, *TEXT_METHODS])
def test_help_of_a_method_has_its_options_and_no_others(monkeypatch, fmicl, command, method):
    """With the defaults that they have there, and also with options before the method."""
    monkeypatch.setenv("COLUMNS", "300")
    code, out, _ = fmicl(*command, "--out", "x", method.replace("-", "_"), "--help")
    assert code == 0
    kind = TextSettings if method in TEXT_METHODS else TrainSettings
    every = set(TextSettings.options()) | set(TrainSettings.options()) - {"method"}
    options = kind.options()
    own = {
        n for n in every if n in options and method in (options[n].metadata["methods"] or [method])
    }
    shown = {name for name in every if re.search(rf"--{name.replace('_', '-')}\s", out)}
    assert shown == own - {"method"}
    assert f"[default: {kind(method=method).alpha}, or the preset's]" in out


@COMMANDS
@pytest.mark.parametrize(
    ("method", "option", "methods"),
    [
        ("simclr", ("--queue-size", "4096"), "'moco'"),  # though it is the default
        ("moco-v3", ("--head-norm", "none"), "'moco'"),
        ("simclr", ("--ema", "0.9"), "'moco' or 'moco-v3'"),
        ("moco", ("--negatives", "cross"), "'simclr' or 'moco-v3' or 'simcse'"),
        ("moco", ("--patch-projection", "learned"), "'moco-v3'"),
        ("moco", ("--pooling", "cls"), "'simcse'"),
        ("moco", ("--views", "2"), "'simclr'"),
        ("moco-v3", ("--supervised",), "'simclr' or 'moco'"),
        ("simcse", ("--width", "8"), "'simclr' or 'moco' or 'moco-v3'"),
    ],
)
def test_an_option_of_other_methods_is_refused(fmicl, command, method, option, methods):
    code, _, err = fmicl(*command, method, *option)
    name = option[0][2:].replace("-", "_")
    assert code == 2
    assert f"`{name}`. Expected method = {methods} beside it. Elsewhere the option has" in err


@COMMANDS
def test_an_unknown_option_and_a_missing_method_are_named(fmicl, command):
    for place in (["simclr", "--qeue-size", "4"], ["--qeue-size", "4", "simclr"]):
        code, _, err = fmicl(*command, *place)
        assert (code, "No such option: --qeue-size" in err) == (2, True), err
        assert "--queue-size" in err
    code, _, err = fmicl(*command, "--out", "x")
    assert (code, "`method`. Expected one of 'simclr', 'moco'" in err) == (2, True), err


def test_divergences_are_listed(tmp_path, fmicl):
    code, out, err = fmicl("divergences", "--plot", tmp_path / "d.png")
    assert code == 0, err
    assert "neyman" in out
    assert (tmp_path / "d.png").stat().st_size > 0


@pytest.mark.parametrize("method", [[], ["simclr"]])
def test_presets_are_listed(fmicl, method):
    code, out, err = fmicl("train", *method, "--list-presets")
    assert code == 0, err
    assert "paper-cifar10" in out
    assert "paper-wikipedia" in out


def test_the_version_is_shown(fmicl):
    assert fmicl("--version")[:2] == (0, f"{fmicl_core.__version__}\n")
