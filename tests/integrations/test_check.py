"""`fmicl check` passes here, fails when a number is wrong, and training is equal everywhere."""

import dataclasses
import itertools
import json
import math
import pydoc
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs typer")
pytest.importorskip("sklearn", reason="the training is on scikit-learn's digits")
from typer.testing import CliRunner

from fmicl_check import ADAPTERS, Case, battery, cases, run_case
from fmicl_check.base import describe
from fmicl_check.case import DTYPES, FUSED_TOLERANCE, IDS, SCHEMES, SIMILARITIES, SUITABLE
from fmicl_check.columns import COLUMNS, Trained, find_columns, opened, train
from fmicl_check.frameworks import Absent, is_failure
from fmicl_check.parity import (
    EQUAL,
    Comparison,
    Findings,
    planned,
    relative_difference,
    train_everywhere,
    weight_differences,
)
from fmicl_check.processes import run_batteries
from fmicl_check.training import LOSSES, Training, initial_weights, nudged, trainings
from fmicl_check.truth import RELATED, TILED
from fmicl_cli.main import app
from fmicl_recipes.choices import METHODS

#: Some of every kind; the whole battery, which takes a minute, is for `fmicl check` itself.
FEW = [
    Case("js", "laplace", "cross", "tiled"),
    Case("kl", "gaussian, any norm", "bank", "dense", "bfloat16"),
    Case("vlc", "cosine", "all", "dense", "float32", compiled=True),
    Case("info_nce_loss", negatives="within", compiled=True),
    Case("js", "laplace", "bank", "tiled", "float32", ids="labels"),
    Case("info_nce_loss", negatives="all", implementation="tiled", ids="duplicates"),
]


@pytest.fixture(params=ADAPTERS)
def framework(request, require):
    """Every framework in turn."""
    require(request.param)
    return request.param


@pytest.fixture
def adapters(require):
    """All frameworks, PyTorch first."""
    return [make() for name, make in ADAPTERS.items() if require(name)]


@pytest.fixture
def few(monkeypatch):
    """Let the battery be short, and nothing in it compiled."""
    monkeypatch.setattr(battery, "cases", lambda dtypes, *_: FEW[:2])


def negative(parts):
    """A score and what it pulls, or None, with the other sign."""
    return tuple(None if part is None else -part for part in parts)


@pytest.fixture
def flip_sign(monkeypatch):
    """Give the positive pairs of a framework the wrong sign."""

    def flip(framework):
        place = {"torch": "blocks"}.get(framework, "terms")
        terms = import_module(f"fmicl_{framework}.{place}")
        right = terms.positive_scores
        monkeypatch.setattr(terms, "positive_scores", lambda rows, o: -right(rows, o))
        if framework == "torch":  # small batches have formulas of their own
            small = import_module("fmicl_torch.small_pairs").SmallPairs
            score = small._score
            monkeypatch.setattr(
                small, "_score", lambda self, z, grad: negative(score(self, z, grad))
            )

    return flip


@pytest.fixture
def remove(monkeypatch):
    """Let frameworks not be installed."""
    return lambda *names: [monkeypatch.setitem(sys.modules, name, None) for name in names]


def check(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


# The battery


def met(battery, *names):
    """The combinations of these attributes that occur in a battery."""
    return {tuple(getattr(case, name) for name in names) for case in battery}


PLAIN = [c for c in cases() if not (c.is_related or c.ids or c.learned or c.auto)]
FORMS = ("dense", "tiled")
OPTIONS = {"loss": SUITABLE, "similarity": SIMILARITIES, "negatives": SCHEMES}


def test_any_two_options_meet_in_float64():
    eager = [c for c in PLAIN if c.dtype == "float64" and not c.compiled]
    dense = [c for c in eager if c.implementation == "dense"]
    for (a, first), (b, second) in itertools.combinations(OPTIONS.items(), 2):
        assert met(dense, a, b) == set(itertools.product(first, second))
    small = [c for c in eager if c.implementation != "auto"]
    for name, values in OPTIONS.items():
        assert met(small, name, "implementation") == set(itertools.product(values, FORMS))
    assert len(set(cases())) == len(cases())


def test_every_dtype_comes_with_every_divergence_in_both_forms_and_compiled():
    eager = [c for c in PLAIN if not c.compiled]
    dense = [c for c in eager if c.implementation == "dense"]
    assert met(dense, "loss", "dtype") == set(itertools.product(SUITABLE, DTYPES))
    assert {c.dtype for c in eager if c.implementation == "tiled"} == set(DTYPES)
    assert {c.dtype for c in PLAIN if c.compiled} == set(DTYPES)
    assert {c.implementation for c in PLAIN if c.compiled} == set(FORMS)


def test_ids_come_with_every_divergence_and_in_both_forms():
    own = [c for c in cases() if c.ids and not c.is_related]
    assert {c.loss for c in own if c.implementation == "dense"} == set(SUITABLE)
    named = [c for c in cases() if c.ids and c.is_related]
    for some in (own, named):
        assert met(some, "ids", "implementation") == set(itertools.product(IDS, FORMS))
    assert any(c.compiled and c.learned for c in own)


def test_every_loss_by_name_that_has_tiles_comes_in_both_forms():
    named = met([c for c in cases() if c.is_related], "loss", "implementation")
    assert named == {(name, "dense") for name in RELATED} | {(name, "tiled") for name in TILED}
    own = [c for c in cases() if c.loss == "info_nce_loss"]
    assert met(own, "negatives", "implementation") == set(itertools.product(SCHEMES, FORMS))


def test_the_full_battery_is_every_combination():
    full = cases(full=True)
    assert set(cases()) <= set(full)
    own = [c for c in full if not (c.is_related or c.ids or c.learned or c.auto)]
    ours = [c for c in own if c.implementation != "auto"]
    assert len(set(ours)) == len(ours) == 7 * 5 * 5 * 2 * 3 * 2


def test_a_fused_routine_is_checked_where_there_is_one(require, monkeypatch, framework):
    adapter = ADAPTERS[framework]()
    assert not battery.has_fused(adapter)  # on a CPU
    if framework == "jax":
        monkeypatch.setattr(require("fmicl_jax.fused"), "INTERPRET", True)
        assert battery.has_fused(adapter)
        fused = [c for c in cases(fused=True) if c.implementation == "fused"]
        assert {c.loss for c in fused} == set(SUITABLE)
        for dtype, tolerance in FUSED_TOLERANCE.items():
            case = next(c for c in fused if c.dtype == dtype and c.negatives == "all")
            outcome = run_case(adapter, case)
            assert outcome.passed, outcome
            assert outcome.case.tolerance == tolerance
            assert outcome.case.label == f"{dtype} fused"


@pytest.mark.parametrize("change", [RuntimeError("out of memory"), None], ids=str)
def test_a_fused_routine_that_breaks_is_not_passed_over(require, monkeypatch, change):
    require("torch")
    adapter = ADAPTERS["torch"]()

    def evaluate(*_):
        if change:
            raise change

    monkeypatch.setattr(adapter, "evaluate", evaluate)
    assert battery.has_fused(adapter)


@pytest.mark.by_turns(every=2)  # each half has tiled forms, ids and a compiled case
@pytest.mark.parametrize("case", FEW, ids=repr)
def test_a_case_passes(framework, case):
    outcome = run_case(framework, case)
    assert outcome.passed, outcome
    assert outcome.loss == pytest.approx(outcome.wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"loss": math.nan}, ""),
        ({"uniformity": math.inf}, ""),
        ({"grads": {"x": np.full((7, 4), np.nan), "y": np.zeros((7, 4))}}, ""),
        ({"dtypes": {"x": "float64", "y": "float32", "loss": "float64"}}, "y is float32"),
    ],
    ids=lambda change: str(next(iter(change), "")) if isinstance(change, dict) else change,
)
def test_what_is_not_finite_or_of_another_dtype_fails(require, monkeypatch, change, problem):
    require("torch")
    adapter = ADAPTERS["torch"]()
    right = adapter.evaluate
    wrong = lambda *a, **k: dataclasses.replace(right(*a, **k), **change)  # noqa: E731
    monkeypatch.setattr(adapter, "evaluate", wrong)
    outcome = run_case(adapter, Case("kl"))
    assert not outcome.passed
    assert problem in outcome.problem


# The command


def test_json_stands_alone_on_standard_output(require):
    require("torch")
    options = "--framework torch --dtype float32 --dtype bfloat16 --json"
    command = [sys.executable, "-m", "fmicl_cli", "check", *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"]
    assert [row["dtype"] for row in report["rows"]] == ["float32", "bfloat16"]
    assert sum(row["cases"] for row in report["rows"]) == len(cases(["float32", "bfloat16"]))
    for row in report["rows"]:
        assert row["passed"]
        assert 0.0 < row["loss_error"] <= row["loss_tolerance"]
        assert 0.0 < row["gradient_error"] <= row["gradient_tolerance"]


def test_a_wrong_sign_fails_and_its_worst_case_can_be_computed_again(framework, flip_sign, few):
    flip_sign(framework)
    done = check("--framework", framework)
    assert done.exit_code == 1
    assert f"{framework} float64: 1 of 1 fail" in done.stdout
    assert f"{framework} bfloat16: 1 of 1 fail" in done.stdout
    command = next(line for line in done.stdout.splitlines() if "python -c" in line)
    scope = {}
    exec(shlex.split(command)[2].replace("print(", "again = ("), scope)
    assert scope["again"].framework == framework
    assert scope["again"].case == FEW[0]
    assert not scope["again"].passed


def test_several_frameworks_are_checked_side_by_side_and_one_that_dies_fails(require):
    require("torch")
    adapter, told = ADAPTERS["torch"](), []
    unknown = SimpleNamespace(name="unknown", device="cpu")
    done, lost = run_batteries(
        [adapter, unknown], [FEW[:2], FEW[:2]], lambda name, case: told.append((name, case))
    )
    assert [o.case for o in done] == FEW[:2]
    assert all(o.passed for o in done)
    assert told == [("torch", case) for case in FEW[:2]]
    assert [o.case for o in lost] == FEW[:2]
    assert all("its process ended with the exit code 1" in o.problem for o in lost)


def test_an_exception_is_an_outcome(require, few, monkeypatch):
    require("torch")
    monkeypatch.delattr(import_module("fmicl_torch"), "fmicl_terms")
    done = check("--framework", "torch")
    assert done.exit_code == 1
    assert "the worst: AttributeError: module 'fmicl_torch' has no attribute" in done.stdout


def test_a_long_message_keeps_its_end():
    told = describe(TypeError("in user code:\n" + "File x, line 1\n" * 99 + "the reason"))
    assert told.startswith("TypeError: in user code: File x")
    assert told.endswith("the reason")
    assert len(told) < 260


def test_a_missing_framework_is_named(require, few, remove):
    require("torch")
    remove("jax", "tensorflow")
    done = check()
    assert done.exit_code == 0
    assert "jax, missing: not installed; pip install 'fmicl[jax]'" in done.stdout
    assert "closest to its tolerance" in done.stdout
    assert re.search(r"2 cases took \d+ s, imports included; torch \d+ s\.", done.stdout)
    report = json.loads(check("--json").stdout)
    assert report["passed"]
    assert [entry["state"] for entry in report["absent"]] == ["missing", "missing"]


def test_a_missing_framework_that_was_asked_for_fails(few, remove):
    remove("jax")
    assert check("--framework", "jax").exit_code == 1


def test_a_check_of_nothing_fails(few, remove):
    remove(*ADAPTERS)
    done = check()
    assert done.exit_code == 1
    assert "tensorflow, missing" in done.stdout


BROKEN = [
    ("raise OSError('libcudart.so.12:\\n no such file')", "OSError: libcudart.so.12: no such file"),
    ("import a_dependency", "ModuleNotFoundError: No module named 'a_dependency'"),
    ("", "ModuleNotFoundError: No module named 'jax."),
]


@pytest.mark.parametrize(("text", "detail"), BROKEN)
def test_a_broken_framework_is_reported_and_fails(few, remove, monkeypatch, tmp_path, text, detail):
    (tmp_path / "jax.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.split(".")[0] in ("jax", "fmicl_jax")]:
        monkeypatch.delitem(sys.modules, name)
    remove("torch", "tensorflow")
    done = check()
    assert done.exit_code == 1
    assert f"jax, broken: {detail}" in done.stdout
    assert "torch, missing" in done.stdout


def test_what_is_broken_fails_though_the_rest_passes():
    adapter, broken = object(), Absent("jax", "broken", "")
    assert is_failure([broken], [adapter], [])
    assert not is_failure([Absent("jax", "missing", "")], [adapter], [])
    assert not is_failure([Absent("jax", "no device", "")], [adapter], ["torch"])
    assert is_failure([Absent("jax", "no device", "")], [adapter], ["torch", "jax"])


MISTAKES = [
    (["--framework", "mxnet"], "`framework`. Expected one of 'torch', 'jax', 'tensorflow'"),
    (["--device", "tpu"], "`device`. Expected one of 'cpu', 'gpu'"),
    (["--dtype", "float16"], "`dtype`. Expected one of 'float64', 'float32', 'bfloat16'"),
    (["--method", "moco"], "`method`. Expected --train beside it"),
    (["--steps", "5"], "`steps`. Expected --train beside it"),
    (["--train", "--full"], "`full`. Expected no --train beside it"),
    (["--train", "--out", __file__], "`out`. Expected a folder"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_mistakes_are_named(arguments, message):
    done = check(*arguments)
    assert isinstance(done.exception, ValueError)  # which `main` prints in one line, exit code 2
    assert message in str(done.exception)


# The training

BY_NAME = {column.name: column for column in COLUMNS}
LIGHTNING = BY_NAME["torch"]
SHORT = Training("simclr", "kl-micl", "float64", 6)
#: Steps of the run that the command's own is too long for.
MOCO = Training("moco", "info-nce", "float64", 8)


@pytest.fixture
def trainers(require):
    """The columns of Lightning and Flax, which train in this process."""
    for name in ("lightning", "flax", "optax"):
        require(name)
    jax = require("jax")
    before = jax.config.jax_enable_x64
    columns = LIGHTNING, BY_NAME["jax"]
    for column in columns:
        assert isinstance(opened(column, SHORT, "cpu"), dict)
    yield columns
    jax.config.update("jax_enable_x64", before)


@cache
def right(training):
    """Lightning's run, trained once, before anything is broken."""
    return train(LIGHTNING, training, "cpu")


def gaps(a, b):
    """The largest differences of losses and weights."""
    return (
        relative_difference(a.losses, b.losses).max(),
        max(weight_differences(a.weights, b.weights).values()),
    )


def test_a_check_trains_every_method_with_every_loss_and_optimiser():
    plan = planned(METHODS, 100, ["float64", "float32"])
    assert {(t.method, t.loss, t.dtype) for t in plan} == set(
        itertools.product(METHODS, LOSSES, ["float64", "float32"])
    )
    assert {t.optimizer for t in plan} == {"sgd", "adamw", "lars"}
    assert len(set(plan)) == len(plan)


@pytest.mark.parametrize("steps", [1, 2, 7, 99, 100])
def test_a_training_has_its_steps_and_warms_up_where_there_are_epochs(steps):
    settings = Training("moco", "kl-micl", "float32", steps).settings("torch")
    assert steps % settings.epochs == 0
    assert settings.epochs == 1 or 0 < settings.warmup_epochs < settings.epochs
    assert (settings.momentum, settings.precision) == (0.9, "32")
    assert settings.weight_decay > 0.0


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_drawn_so_that_nothing_hides(method):
    settings = Training(method, "kl-micl", "float64", 2).settings("jax")
    weights = initial_weights(settings)
    for name, value in weights.items():
        assert name == "pointer" or np.all(value != np.rint(value)), name  # neither 0 nor 1
        own = weights.get(name.removeprefix("key_"))
        frozen = "patch_embed" in name
        assert not name.startswith("key_") or frozen == np.array_equal(value, own)
    moved = nudged(weights, "float32")
    assert max(weight_differences(moved, weights).values()) < 2.0**-22
    assert all(np.all(moved[name] != weights[name]) for name in weights if name != "pointer")


@pytest.mark.parametrize(
    "training", [pytest.param(SHORT, id="simclr", marks=pytest.mark.slow),
                 pytest.param(MOCO, id="moco")],  # which has all that SimCLR has, and more
)  # fmt: skip
def test_lightning_and_flax_train_alike_in_float64(trainers, training):
    torch, jax = right(training), train(trainers[1], training, "cpu")
    assert len(torch.losses) == training.steps
    curve, weights = gaps(jax, torch)
    assert curve < EQUAL
    assert weights < EQUAL
    assert len(np.unique(torch.losses)) == training.steps  # it does move


#: What a trainer could do otherwise than the others, each of which has to show.
BREAKS = {
    "momentum": ("torch.optim.SGD.__init__", lambda init: lambda self, *a, momentum, **k: init(
        self, *a, momentum=momentum - 1e-6, **k)),
    "decay of biases": ("torch.optim.SGD.__init__", lambda init: lambda self, groups, *a, **k: init(
        self, [group | {"weight_decay": 1e-3} for group in groups], *a, **k)),
    "epsilon of a norm": ("torch.nn.BatchNorm2d.__init__", lambda init: lambda self, *a, **k: init(
        self, *a, eps=1.001e-5, **k)),
    "statistics of a norm": (
        "torch.nn.BatchNorm2d.__init__",
        lambda init: lambda self, *a, **k: init(self, *a, momentum=0.1001, **k)),
    "schedule": ("fmicl_lightning.method.warmup_cosine", lambda schedule: (
        lambda optimizer, steps, warmup: schedule(optimizer, steps + 1, warmup))),
}  # fmt: skip


@pytest.mark.parametrize("what", BREAKS)
def test_a_trainer_that_does_something_else_is_noticed(trainers, monkeypatch, what):
    want = right(SHORT)
    path, change = BREAKS[what]
    owner, _, name = path.rpartition(".")
    holder = pydoc.locate(owner)
    monkeypatch.setattr(holder, name, change(getattr(holder, name)))
    wrong = train(LIGHTNING, SHORT, "cpu")
    assert max(gaps(wrong, want)) > 10.0 * EQUAL


@pytest.mark.parametrize("what", ["ema", "order of keys"])
def test_a_momentum_encoder_that_does_something_else_is_noticed(trainers, monkeypatch, what):
    method = import_module("fmicl_lightning.method").MomentumMethod
    moco = import_module("fmicl_lightning.moco")
    want = right(MOCO)
    if what == "ema":
        follow = method.follow
        monkeypatch.setattr(method, "follow", lambda self, momentum: follow(self, momentum + 1e-6))
    else:
        monkeypatch.setattr(moco, "key_order", lambda count, seed, step: np.arange(count))
    assert max(gaps(train(LIGHTNING, MOCO, "cpu"), want)) > 10.0 * EQUAL


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_trainer_trains_alike(require, method):
    """All five columns, Keras on each of its backends, in processes of their own."""
    for name in ("lightning", "flax", "keras", "tensorflow"):
        require(name)
    plan = trainings([method], 6, ["float64"])
    findings = train_everywhere(COLUMNS, plan)
    assert not findings.absent
    for comparison in (c for g in findings.groups for c in g.comparisons):
        assert comparison.passed, comparison
    assert findings.passed([*ADAPTERS])


@pytest.mark.slow
def test_the_command_compares_and_draws(require, tmp_path):
    for name in ("lightning", "flax"):
        require(name)
    done = check("--framework", "torch", "--framework", "jax", "--train", "--method", "simclr",
                 "--steps", 3, "--json", "--out", tmp_path)  # fmt: skip
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert json.loads((tmp_path / "train.json").read_text()) == report
    assert {c["framework"] for c in report["comparisons"]} == {"jax"}
    assert {c["dtype"] for c in report["comparisons"]} == {"float64", "float32"}
    assert report["versions"].keys() == {"torch", "jax"}
    assert (tmp_path / "train.png").read_bytes()[:4] == b"\x89PNG"


def test_training_needs_two_trainers(remove, tmp_path):
    remove("jax", "keras")
    done = check("--train", "--out", tmp_path)
    assert "`framework`. Expected at least two trainers that can be used" in str(done.exception)


def test_what_is_missing_is_a_column_that_says_how_to_install_it(remove):
    remove("lightning", "tensorflow")
    found, absent = find_columns()
    states = {entry.framework: entry.detail for entry in absent}
    assert states["torch"] == "lightning is not installed; pip install 'fmicl[lightning]'"
    assert "pip install 'fmicl[keras,tensorflow]'" in states["keras-tensorflow"]
    assert not {c.name for c in found} & states.keys()
    assert [c.name for c in find_columns(["tensorflow"])[0]] == [c.name for c in found if c.backend]


def test_a_framework_that_was_asked_for_has_to_train():
    missing = Absent("keras-jax", "missing", "")
    findings = Findings(versions={"torch": {}, "jax": {}}, absent=[missing])
    assert findings.passed()
    assert findings.passed(["jax"])
    assert not findings.passed(["tensorflow"])
    findings.absent.append(Absent("keras-torch", "broken", ""))
    assert not findings.passed()


def test_what_is_not_finite_or_too_far_apart_does_not_pass():
    near = {"difference": 1e-12, "weights": 1e-12}
    assert Comparison(SHORT, "jax", "torch", **near).passed
    for change in ({"difference": math.inf}, {"difference": 2e-9}, {"weights": 2e-9},
                   {"weights": math.inf}, {"problem": "an error"}):  # fmt: skip
        assert not Comparison(SHORT, "jax", "torch", **near | change).passed
    float32 = dataclasses.replace(SHORT, dtype="float32")
    assert Comparison(float32, "jax", "torch", difference=1e-6, weights=1e-2).passed
    for change in ({"difference": 2e-4}, {"weights": math.inf}, {"problem": "an error"}):
        assert not Comparison(float32, "jax", "torch", **near | change).passed


def test_weights_differ_where_one_is_missing_or_not_finite():
    a, b = {"w": np.ones(2), "v": np.array([np.nan])}, {"w": np.ones(2), "v": np.ones(1)}
    assert weight_differences(a, b) == {"w": 0.0, "v": math.inf}
    assert weight_differences(a, {"w": np.zeros(2)}) == {"w": math.inf, "v": math.inf}


def test_a_trainer_that_ends_in_an_error_is_a_problem(monkeypatch, require):
    require("lightning")
    parity = import_module("fmicl_check.parity")
    right = Trained(np.ones(2), {"w": np.ones(2)})

    def results(work, parts):
        for name, part in parts.items():
            yield name, {"torch": "2"}
            for _ in range(part.results - 1):
                yield name, right if name == "torch" else "RuntimeError: out of memory"

    monkeypatch.setattr(parity, "side_by_side", results)
    findings = train_everywhere([LIGHTNING, BY_NAME["jax"]], [SHORT])
    (comparison,) = findings.groups[0].comparisons
    assert comparison.problem == "RuntimeError: out of memory"
    assert not findings.passed()
