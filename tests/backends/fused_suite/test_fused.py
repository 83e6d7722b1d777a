"""The Triton routine, run by Triton's interpreter, equals the reference."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from fmicl_core import FMICL, NUMPY, Cosine, Gaussian, forms
from fmicl_core.pairs import NEGATIVES
from fmicl_torch import (
    FMICLLoss,
    fmicl_loss,
    fused,
    fused_functions,
    fused_weights,
    siglip_loss,
    tiled,
)
from fmicl_torch.fused_formulas import Symbol, Trace, triton_formulas
from fmicl_torch.registry import register

#: Of the loss, by which a rounding of the features changes it, and of the gradients.
LOSS = {"float32": 4e-6, "float16": 1e-3, "bfloat16": 8e-3}
GRADIENT = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1.6e-2}


@pytest.fixture(autouse=True)
def small(set_tiles):
    """Tiles of 16, two parts."""


def features(n=21, d=5, k=None, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    arrays = x, x + 0.5 * rng.normal(size=(n, d)), None if k is None else rng.normal(size=(k, d))
    return [None if a is None else torch.tensor(a, dtype=getattr(torch, dtype)) for a in arrays]


@pytest.mark.by_turns(every=12)
@pytest.mark.filterwarnings("ignore:.*known to collapse:UserWarning")
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "deterministic"])
@pytest.mark.parametrize("dtype", LOSS)
def test_within_the_error_budget(case, dtype, atomic, errors, deterministic):
    """Every divergence with every similarity and scheme: off the dense error by a rounding."""
    deterministic(not atomic)
    x, y, bank = features(k=9 if case.pairs == "bank" else None, dtype=dtype)
    if not case.objective.normalize:
        x, y, bank = (None if v is None else 0.5 * v for v in (x, y, bank))
    loss, gradient = errors(case.objective, x, y, bank)
    dense_loss, dense_gradient = errors(case.objective, x, y, bank, "dense")
    assert loss <= dense_loss + LOSS[dtype]
    assert gradient <= dense_gradient + GRADIENT[dtype]


@pytest.mark.parametrize(("divergence", "similarity"), [("js", Gaussian()), ("vlc", Cosine(1.6))])
def test_the_weight_is_found_by_the_routine_too(divergence, similarity, errors, monkeypatch):
    """alpha = "auto": u in the formulas of KL, and of a cosine in its own."""
    ran, sums = [], tiled.fused_sums

    def noting(left, right, launch, grad, *more):
        ran.append((launch.pairwise, grad))
        return sums(left, right, launch, grad, *more)

    monkeypatch.setattr(tiled, "fused_sums", noting)
    objective = FMICL(divergence, similarity, "auto")
    x, y, bank = features(k=9)
    assert max(errors(objective, x, y, bank, ids=torch.arange(len(x)) % 15)) < 4e-6
    assert (objective.pairwise.ratio, False) in ran
    assert (objective.pairwise, True) in ran


@pytest.mark.by_turns(every=6)
@pytest.mark.parametrize("how", ["atomic", "deterministic raw", "atomic raw", "deterministic"])
@pytest.mark.parametrize(
    "size",
    [
        (2, None, 1, (16, 16, 16, 1)),
        (33, None, 5, (16, 16, 16, 5)),
        (40, None, 100, (32, 16, 128, 2)),
        (20, None, 130, (16, 32, 32, 1)),
        (40, None, 7, (16, 32, 16, 2)),
        (17, 70, 40, (16, 32, 16, 3)),
        (32, 16, 32, (32, 16, 32, 1)),
        (1, 1, 3, (16, 16, 16, 1)),
    ],
)
def test_any_size(size, how, errors, set_tiles, deterministic):
    """Rows, columns and widths off the tile, of one piece and of several."""
    n, k, d, tiles = size
    set_tiles(*tiles)
    deterministic("deterministic" in how)
    # "all" has symmetric blocks and a full one.
    objective = FMICL("js", Gaussian(d / 2.0), negatives="all", normalize="raw" not in how)
    assert max(errors(objective, *features(n, d, k))) < 4e-6


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "deterministic"])
def test_features_far_from_0_lose_no_digits_of_the_gradient(atomic, errors, deterministic):
    """Weighted features and the sum of weights nearly cancel there: weights must be the same."""
    deterministic(not atomic)
    x, y, _ = features(40, 8)
    objective = FMICL("js", Gaussian(2.0), negatives="all", normalize=False)
    _, gradient = errors(objective, *((0.5 * v + 10.0).bfloat16() for v in (x, y)))
    assert gradient < GRADIENT["bfloat16"]


def sums_by_hand(pairwise, x, y, counts, positive, skips):
    """Sum over the pairs that count, each so many times, and its gradients; float64."""
    a, b, c = pairwise.coefficients()
    x, y = x.double().numpy(), y.double().numpy()
    z = a * x @ y.T + b * ((x**2).sum(1)[:, None] + (y**2).sum(1)) + c
    value, slope = (
        (pairwise.positive(z), pairwise.positive_slope(z)) if positive
        else pairwise.excess_and_slope(z)
    )  # fmt: skip
    counts = counts * ~np.eye(*z.shape, dtype=bool) if skips else counts
    weight = counts * slope
    return (
        (counts * value).sum(),
        a * weight @ y + 2.0 * b * weight.sum(1)[:, None] * x,
        a * weight.T @ x + 2.0 * b * weight.sum(0)[:, None] * y,
    )


@pytest.mark.by_turns(every=2)
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "deterministic"])
@pytest.mark.parametrize("positive", [True, False], ids=["equal", "different"])
@pytest.mark.parametrize(("normalize", "is_sorted"), [(False, True), (True, False)])
def test_pairs_by_the_numbers_of_their_rows(normalize, is_sorted, positive, atomic):
    """Sums over pairs with different numbers, and weighted ones over pairs with equal ones."""
    pairwise = FMICL("js", normalize=normalize).pairwise
    launch = fused.Launch(pairwise, True, torch.float32, atomic)
    rng = np.random.default_rng(3)
    x, _, y = features(49, 5, 25)
    numbers = [np.sort(rng.integers(0, 20, size)) for size in (49, 25)]
    if not is_sorted:
        numbers = [np.roll(n, 18) for n in numbers]
    by_number = rng.uniform(0.1, 1.0, 20).astype(np.float32)
    for right, sides in ((None, (numbers[0],) * 2), (y, numbers)):
        equal = sides[0][:, None] == sides[1]
        counts = equal * by_number[sides[0]][:, None] if positive else ~equal
        others = x if right is None else right
        want = sums_by_hand(pairwise, x, others, counts, positive, skips=True)
        given = tuple(torch.tensor(n, dtype=torch.int32) for n in sides)
        weights = torch.tensor(by_number[sides[0]]) if positive else None
        value = fused.fused_sums(x, right, launch, False, False, given, weights)
        got = fused.fused_sums(x, right, launch, True, right is not None, given, weights)
        assert [v.total.item() for v in (value, got)] == pytest.approx([want[0]] * 2, rel=1e-5)
        tiled._scale(got.grad_left, got.mass_left, x, pairwise, 1.0)
        np.testing.assert_allclose(got.grad_left, want[1], rtol=1e-4, atol=1e-4)
        if right is not None:
            tiled._scale(got.grad_right, got.mass_right, y, pairwise, 1.0)
            np.testing.assert_allclose(got.grad_right, want[2], rtol=1e-4, atol=1e-4)


def test_tiles_without_equal_numbers_are_not_visited():
    """Not a number of theirs is looked at: it would spread over the gradients of other rows."""
    x, *_ = features(64)
    x[32:48] = float("nan")
    numbers = torch.arange(64, dtype=torch.int32) // 4
    launch = fused.Launch(FMICL("js").pairwise, True, torch.float32, True)
    for right in (None, x.clone()):
        got = fused.fused_sums(x, right, launch, True, True, (numbers,) * 2, torch.ones(64))
        finite = got.grad_left.isfinite().all(dim=1)
        assert torch.equal(finite, (numbers < 8) | (numbers >= 12))


@pytest.mark.by_turns(every=2)
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "deterministic"])
@pytest.mark.parametrize(
    ("dtype", "negatives", "normalize", "given"),
    [
        ("float32", "anchor", False, ("x",)),
        ("bfloat16", "all", True, ("x", "y")),
        ("float16", "anchor", True, ("x", "bank")),
    ],
)
def test_pairs_by_id(dtype, negatives, normalize, given, atomic, errors, deterministic):
    deterministic(not atomic)
    rows = dict(zip(("x", "y", "bank"), features(40, 5, 18, dtype), strict=True))
    rows = {name: rows[name] for name in given}
    rng = np.random.default_rng(1)
    ids = {"ids": torch.tensor(rng.integers(-3, 9, 40))}
    ids |= {"bank_ids": torch.tensor(rng.integers(0, 15, 18))} if "bank" in given else {}
    objective = FMICL("js", negatives=negatives, normalize=normalize)
    loss, gradient = errors(objective, **rows, **ids)
    assert loss <= LOSS[dtype]
    assert gradient <= GRADIENT[dtype]


@pytest.mark.by_turns(every=2)
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "deterministic"])
@pytest.mark.parametrize(
    ("dtype", "negatives", "normalize", "given", "has_ids"),
    [
        ("float32", "all", True, ("x", "y"), False),
        ("float32", "cross", False, ("x", "y"), True),
        ("float32", "anchor", True, ("x", "y", "bank"), True),
        ("bfloat16", "all", True, ("x", "y"), True),
        ("float16", "cross", True, ("x", "y"), False),
    ],
)
def test_scale_and_bias_learn(dtype, negatives, normalize, given, has_ids, atomic, errors,
                              deterministic):  # fmt: skip
    """Their derivatives, too, come out of the one launch."""
    deterministic(not atomic)
    rows = dict(zip(("x", "y", "bank"), features(40, 5, 18, dtype), strict=True))
    rows = {name: rows[name] for name in given}
    ids = {"ids": torch.arange(40) * 7 % 11} if has_ids else {}
    objective = FMICL("js", alpha=3.0, negatives=negatives, normalize=normalize,
                      logit_scale=1.5, logit_bias=-2.0)  # fmt: skip
    loss, gradient = errors(objective, **rows, **ids)
    dense_loss, dense_gradient = errors(objective, **rows, **ids, implementation="dense")
    assert loss <= dense_loss + LOSS[dtype]
    assert gradient <= dense_gradient + GRADIENT[dtype]


@pytest.fixture
def weights_outside(monkeypatch):
    """Weights are written down at any width, for squares of 32 rows and columns."""
    monkeypatch.setattr(fused, "writes_weights", lambda *_: True)
    monkeypatch.setattr(fused_weights, "SIDE", 32)


@pytest.mark.by_turns(every=2)
@pytest.mark.parametrize(
    ("dtype", "tiles"), [("float32", (16, 32, 32)), ("bfloat16", (32, 16, 16))]
)
@pytest.mark.parametrize(
    ("options", "given", "has_ids"),
    [
        ({"negatives": "all"}, ("x", "y"), False),
        ({"negatives": "within", "divergence": "jeffreys"}, ("x", "y"), False),
        ({"negatives": "anchor", "normalize": False}, ("x", "y", "bank"), False),
        ({"negatives": "cross", "normalize": False}, ("x", "y"), True),
        ({"negatives": "all", "logit_scale": 1.5, "logit_bias": -2.0}, ("x", "y"), True),
    ],
)
def test_weights_written_down(
    options, given, has_ids, dtype, tiles, weights_outside, errors, set_tiles, monkeypatch
):
    """As without, where squares of 32 do not fill the last; symmetric blocks and full ones."""
    set_tiles(*tiles)
    rows = dict(zip(("x", "y", "bank"), features(49, 20, 41, dtype), strict=True))
    rows = {name: 0.5 * rows[name] for name in given}
    ids = {"ids": torch.arange(49) * 7 % 31} if has_ids else {}
    objective = FMICL(**{"divergence": "js"} | options)
    outside = errors(objective, **rows, **ids)
    monkeypatch.setattr(fused, "writes_weights", lambda *_: False)
    assert outside == pytest.approx(errors(objective, **rows, **ids), abs=4e-6)


def test_weights_are_written_down_where_features_are_wide(monkeypatch):
    taken, launch = [], fused.launch_weights

    def spy(left, *args):
        taken.append(left.rows.shape[1])
        return launch(left, *args)

    monkeypatch.setattr(fused, "launch_weights", spy)
    for d, dtype in ((128, "bfloat16"), (130, "float32"), (130, "bfloat16")):
        x, y, _ = features(20, d, dtype=dtype)
        fmicl_loss(x, y, implementation="fused")
    assert taken == [144]


def test_siglip_is_fused_and_only_its_bias_may_learn():
    x, y, _ = features(40)
    bias = torch.tensor(-3.0, requires_grad=True)
    losses = [siglip_loss(x, y, logit_bias=bias, implementation=i) for i in ("fused", "dense")]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, bias)[0] for loss in losses))


def test_ids_that_all_differ_change_nothing():
    x, y, _ = features(40)
    x.requires_grad_()
    options = {"negatives": "all", "implementation": "fused"}
    losses = [fmicl_loss(x, y, ids=ids, **options) for ids in (None, torch.arange(40).flip(0))]
    assert torch.equal(*losses)
    assert torch.equal(*(torch.autograd.grad(loss, x)[0] for loss in losses))


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_the_deterministic_pass_repeats_and_equals_atomics(negatives, deterministic):
    x, y, _ = features(40, 10)
    x.requires_grad_()
    y.requires_grad_()
    loss = FMICLLoss(divergence="vlc", negatives=negatives, implementation="fused")
    atomic = torch.autograd.grad(loss(x, y), (x, y))
    deterministic(True)
    first, second = (torch.autograd.grad(loss(x, y), (x, y)) for _ in range(2))
    for a, b, c in zip(atomic, first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert torch.equal(b, c)


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "deterministic"])
def test_gradients_are_computed_where_they_are_wanted(atomic, deterministic, monkeypatch):
    deterministic(not atomic)
    launched = []
    launch = fused._launch

    def spy(*args):
        launched.append(args[-2:])
        return launch(*args)

    monkeypatch.setattr(fused, "_launch", spy)
    x, y, bank = features(20, 5, 18)
    x.requires_grad_()
    (alone,) = torch.autograd.grad(fmicl_loss(x, y, bank=bank, implementation="fused"), x)
    assert launched == [(True, False)]
    bank.requires_grad_()
    both, _ = torch.autograd.grad(fmicl_loss(x, y, bank=bank, implementation="fused"), (x, bank))
    assert launched[1:] == ([(True, True)] if atomic else [(True, False)] * 2)
    torch.testing.assert_close(alone, both)
    with torch.no_grad():
        fmicl_loss(x, y, bank=bank, implementation="fused")
    assert launched[-1] == (False, False)


def test_features_need_not_be_contiguous(errors):
    x, y, _ = features(20, 12)
    assert max(errors(FMICL("js", negatives="all"), x[:, ::2], y.T.contiguous().T[:, ::2])) < 4e-6


@pytest.mark.parametrize("implementation", ["auto", "fused"])
def test_compiled_equals_eager_in_one_graph(implementation):
    loss = FMICLLoss(divergence="js", negatives="all", implementation=implementation)
    x, y, _ = features(20, 6)
    step = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaves = [v.requires_grad_() for v in (x, y)]
    want, got = (torch.autograd.grad(f(x, y), leaves) for f in (loss, step))
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("normalize", [True, False])
def test_the_operator_keeps_its_promises(normalize):
    """Schema, sizes, layouts and dtypes of what it returns, as torch.compile relies on them."""
    text = register(FMICL("js", normalize=normalize).pairwise)
    x, y, _ = features(20, 6)
    numbers = torch.arange(20, dtype=torch.int32) // 3
    ids = numbers, numbers + 1, torch.ones(20)
    for grad, columns, more in (
        (True, True, (None,) * 4), (True, False, (None, *ids)),
        (True, True, (torch.tensor(-1.0), *ids)), (False, False, (None, *ids[:2], None)),
    ):  # fmt: skip
        arguments = x.T.contiguous().T, y, *more, text, True, 512, grad, columns, "bfloat16"
        torch.library.opcheck(
            torch.ops.fmicl.block_mean.default, arguments,
            test_utils=("test_schema", "test_faketensor"),
        )  # fmt: skip


def test_autocast_and_dtypes_of_what_comes_back():
    layer = torch.nn.Linear(8, 8)
    x, y, _ = features(20, 8)
    with torch.autocast("cpu", torch.bfloat16):
        u, v = layer(x), layer(y)
        loss = fmicl_loss(u, v, implementation="fused")
    loss.backward()
    assert (u.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    assert layer.weight.grad.isfinite().all()


def test_a_second_derivative_is_refused():
    x, y, _ = features()
    loss = fmicl_loss(x.requires_grad_(), y, implementation="fused")
    with pytest.raises(RuntimeError, match=r"use implementation='dense'"):
        torch.autograd.grad(torch.autograd.grad(loss, x, create_graph=True)[0].sum(), x)


def test_a_user_s_divergence_is_traced(cubic, quartic, errors):
    text, given = register(FMICL(cubic, quartic).pairwise), features()[0]
    assert fused.fused_dtype("fused", text, given, given.dtype) == "float32"
    x, y, _ = features()
    leaves = x.requires_grad_(), y
    options = {"divergence": cubic, "similarity": quartic, "negatives": "all"}
    got, want = (
        torch.autograd.grad(fmicl_loss(*leaves, implementation=i, **options), x)[0]
        for i in ("fused", "tiled")
    )
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


UNTRACEABLE = {
    "foreign": lambda L, ops: torch.exp(L),  # no function of `Ops`
    "branching": lambda L, ops: ops.exp(L) if L < 100.0 else L,  # other for each pair
}


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_what_cannot_be_traced_falls_back(name, kl_by, monkeypatch):
    monkeypatch.setattr(forms, "DENSE_PAIRS", 10)
    x, y, _ = features(dtype="bfloat16")
    divergence = kl_by(UNTRACEABLE[name])
    if name == "foreign":  # the other is beyond the tiled form too
        got = fmicl_loss(x, y, divergence=divergence)
        assert got.item() == fmicl_loss(x, y, divergence=divergence, implementation="tiled").item()
    with pytest.raises(ValueError, match=r"`implementation`. Expected one of 'auto', 'dense', 't.*"
                                         r"cannot be written in Triton \(TypeError"):  # fmt: skip
        fmicl_loss(x, y, divergence=divergence, implementation="fused")


@pytest.mark.parametrize(
    ("dtype", "d", "why"), [("float64", 5, "float64"), ("float32", 1025, "D <= 1024, not 1025")]
)
def test_other_features_are_refused_or_fall_back(dtype, d, why):
    x, y, _ = features(4, d, dtype=dtype)
    with pytest.raises(ValueError, match=f"for this input.*{why}.*Received: implementation='fused"):
        fmicl_loss(x, y, implementation="fused")
    assert fmicl_loss(x, y).isfinite()


def test_auto_takes_the_fused_routine_for_large_batches_on_tensor_cores(monkeypatch):
    sums, taken = fused.fused_sums, []

    def spy(*args):
        taken.append(args[2].dtype)
        return sums(*args)

    monkeypatch.setattr(tiled, "fused_sums", spy)
    for dtype in ("bfloat16", "float32"):
        fmicl_loss(*features(dtype=dtype)[:2])
    assert taken == []
    monkeypatch.setattr(forms, "DENSE_PAIRS", 10)
    for dtype in ("bfloat16", "float16", "float32"):
        fmicl_loss(*features(dtype=dtype)[:2])
    assert taken == [torch.bfloat16, torch.float16]
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    fmicl_loss(*features()[:2])
    torch.backends.cuda.matmul.allow_tf32 = allowed
    assert taken[2:] == [torch.float32]


@pytest.mark.slow
def test_shards_go_round_the_ring_through_the_fused_routine():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        command = [sys.executable, Path(__file__).parent / "ring.py", str(free.getsockname()[1])]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    errors = json.loads(output.splitlines()[-1])
    assert set(errors) == {"cross", "all", "ids", "learned"}
    assert max(errors.values()) < 1e-5


@triton.jit
def apply(given, result, SIZE: tl.constexpr, EVALUATE: tl.constexpr):
    at = tl.arange(0, SIZE)
    value, _, _ = EVALUATE(tl.load(given + at))
    tl.store(result + at, value)


@pytest.mark.parametrize("name", ["exp", "expm1", "log1p", "softplus", "sigmoid", "relu"])
def test_functions_keep_their_digits(name):
    points = np.array([-80, -30, -9, -1, -0.49, -1e-3, -1e-8, 0])
    points = np.concatenate([points, [1e-8, 1e-3, 0.39, 0.5, 1, 4.8, 30, 80]])
    if name == "log1p":
        points = np.abs(points)
    given, result = torch.tensor(points, dtype=torch.float32), torch.empty(16)
    trace = Trace()
    result_of = getattr(trace.ops, name)(Symbol("z", trace)).entry()
    source, unit = trace.written((result_of,) * 3)
    evaluate = fused_functions.evaluator(source)
    apply[(1,)](unit * given, result, SIZE=16, EVALUATE=evaluate)
    want = getattr(NUMPY, name)(given.double().numpy())
    # An exponent is rounded once more, in base 2, by a part of its size.
    allowed = (1e-6 + 1e-7 * np.abs(points)) * np.abs(want)
    assert (np.abs(result.numpy() - want) <= allowed).all()
    apply[(1,)](torch.full((16,), torch.nan), result, SIZE=16, EVALUATE=evaluate)
    assert result.isnan().all()


def test_what_slope_and_value_share_is_computed_once():
    """Counts what a pair costs: powers of 2 and quotients, which GPUs are slowest at."""
    for objective, powers, quotients, sums in (
        (FMICL("js"), 1, 1, "factors"),
        (FMICL("kl"), 1, 0, "addends"),
        (FMICL("vlc"), 1, 1, "addends"),
        (FMICL("js", logit_scale=1.0, logit_bias=-1.0), 1, 1, "both"),
    ):
        formulas = triton_formulas(objective.pairwise)
        counts = [formulas.source.count(name) for name in ("exp2", "divide", "log")]
        assert counts == [powers, quotients, 0]
        assert formulas.sums == sums


def test_logarithms_of_products_keep_small_penalties_and_large_ones():
    """Of a bias of -16, whose factors differ from 1 by less than float32 resolves; and of 4.6."""
    for mu in (1e-7, 99.0):
        x, y, _ = features(40, 8)
        pairwise = FMICL("js", Gaussian(4.0, mu=mu)).pairwise
        x, y = (torch.nn.functional.normalize(v) for v in (x, y))
        launch = fused.Launch(pairwise, True, torch.float32, True)
        got = fused.fused_sums(x, y, launch, False, False)
        want, *_ = sums_by_hand(pairwise, x, y, np.ones((40, 40)), False, skips=True)
        assert got.total.item() == pytest.approx(want, rel=1e-6)
