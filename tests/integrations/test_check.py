"""`fmicl check` passes here, fails when a number is wrong, and training is equal everywhere."""

import dataclasses
import itertools
import json
import math
import re
import shlex
import subprocess
import sys
from collections import deque
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
from fmicl_check.frameworks import Absent, is_failure
from fmicl_check.methods import LOSSES, METHODS
from fmicl_check.optimizers import SGD, make_sgd
from fmicl_check.parity import MOMENTUM, RATE, Comparison, loss_curve, train_everywhere
from fmicl_check.processes import run_batteries
from fmicl_check.setup import make_setup
from fmicl_check.truth import RELATED, TILED
from fmicl_cli.main import app
from fmicl_recipes import settings

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


PLAIN = [c for c in cases() if not (c.is_related or c.ids or c.learned)]
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
    own = [c for c in full if not (c.is_related or c.ids or c.learned)]
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


def test_the_methods_are_those_of_the_trainers():
    assert set(METHODS) == set(settings.METHODS)


#: SimCLR as long as the command trains; the others until the queue of 4 batches has wrapped.
@pytest.mark.parametrize(("method", "steps"), [("simclr", 100), ("moco", 6), ("moco-v3", 6)])
def test_float64_curves_are_equal(adapters, method, steps):
    groups = list(train_everywhere(adapters, [method], steps, ["float64"]))
    assert [g.loss for g in groups] == list(LOSSES)
    for comparison in (c for g in groups for c in g.comparisons):
        assert comparison.difference <= 1e-9, comparison
        assert comparison.passed
    for group in groups:
        curve = group.curves["torch"]
        assert len(curve) == steps
        assert steps < 100 or curve[-5:].mean() < curve[:5].mean() - 0.5  # it does learn


def test_float32_curves_differ_as_rounding_makes_them(adapters):
    for group in train_everywhere(adapters[:2], ["simclr"], 30, ["float32"]):
        (comparison,) = group.comparisons
        assert 0.0 < comparison.difference <= comparison.tolerance < 1e-5


def test_a_wrong_sign_makes_training_differ(require, flip_sign, tmp_path):
    require("jax")
    flip_sign("torch")
    done = check("--framework", "torch", "--framework", "jax", "--train", "--method", "simclr",
                 "--dtype", "float64", "--steps", 2, "--json", "--out", tmp_path)  # fmt: skip
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    verdicts = {c["loss"]: c["passed"] for c in report["comparisons"]}
    assert verdicts == {"kl-micl": False, "info-nce": True}
    assert json.loads((tmp_path / "train.json").read_text()) == report
    assert (tmp_path / "train.png").read_bytes()[:4] == b"\x89PNG"


def test_training_needs_two_frameworks(require, remove, tmp_path):
    require("torch")
    remove("jax", "tensorflow")
    done = check("--train", "--out", tmp_path)
    assert "`framework`. Expected at least two that can be used" in str(done.exception)


def test_curves_that_are_not_finite_are_not_equal():
    curves = Comparison("simclr", "kl-micl", "float32", "jax", "torch", math.inf, 1, math.inf)
    assert not curves.passed


def test_the_framework_s_own_optimiser_is_sgd_with_momentum(framework):
    adapter = ADAPTERS[framework]()
    rng = np.random.default_rng(0)
    with adapter.precision("float64"):
        own = plain = {"w": adapter.array(rng.normal(size=(3, 2)))}
        optimizer = make_sgd(adapter, own, RATE, MOMENTUM)
        reference = SGD(adapter, plain, RATE, MOMENTUM)
        assert type(optimizer) is not SGD
        for _ in range(3):
            gradients = {"w": adapter.array(rng.normal(size=(3, 2)))}
            own, plain = optimizer.step(own, gradients), reference.step(plain, gradients)
    np.testing.assert_allclose(adapter.numpy(own["w"]), adapter.numpy(plain["w"]), rtol=1e-14)


def test_without_optax_the_step_is_plain(require, remove):
    require("jax")
    remove("optax")
    assert type(make_sgd(ADAPTERS["jax"](), {}, RATE, MOMENTUM)) is SGD


def test_moco_is_what_a_user_of_torch_would_write(require):
    """Momentum encoder before the keys, keys without gradient, a queue that wraps."""
    torch, library = require("torch"), require("fmicl_torch")
    steps, setup = 6, make_setup(6, METHODS["moco"].queue)

    def perceptron():
        layers = [torch.nn.Linear(n, m) for n, m in ((64, 64), (64, 64), (64, 64), (64, 16))]
        for name, layer in zip(("encoder.0", "encoder.1", "head.0", "head.1"), layers, strict=True):
            layer.weight.data = torch.tensor(setup.weights[f"{name}.weight"].T)
            layer.bias.data = torch.tensor(setup.weights[f"{name}.bias"])
        silu = [torch.nn.SiLU() for _ in layers]
        return torch.nn.Sequential(*itertools.chain(*zip(layers, silu, strict=True)))[:-1]

    encoder, momentum = perceptron(), perceptron().requires_grad_(False)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=RATE, momentum=MOMENTUM)
    queue, losses = deque(torch.tensor(setup.queue), maxlen=METHODS["moco"].queue), []
    for x1, x2 in torch.tensor(setup.views):
        for old, new in zip(momentum.parameters(), encoder.parameters(), strict=True):
            old.lerp_(new.detach(), 1.0 - METHODS["moco"].momentum)
        keys = momentum(x2)
        loss = library.info_nce_loss(encoder(x1), keys, bank=torch.stack(list(queue)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        queue.extendleft(keys)  # a full deque drops from the other end
        losses.append(loss.item())
    curve = loss_curve(ADAPTERS["torch"](), "moco", "info-nce", "float64", setup)
    assert len(curve) == steps
    np.testing.assert_allclose(curve, losses, rtol=1e-12)
