"""What the losses on a GPU are checked against and timed beside: truth, and plain code."""

import numpy as np
import pytest

from benchmarks.gpu import in_torch, plain_torch
from benchmarks.gpu.cases import LEARNED, SCALARS, Check, Result, Speed, Tune, ids_of, is_single
from benchmarks.gpu.truth import truth_of
from benchmarks.gpu.worker import check
from fmicl_core.family import clip_reference, siglip_reference
from fmicl_core.related import info_nce_reference
from fmicl_torch import fused

N, D = 8, 3


def named(loss, negatives="cross", bank=False, pairs="rows"):
    return Check("dense", loss, "-", negatives, bank, "float32", N, D, pairs=pairs)


def reference(case, features, scalars):
    """The loss by the references of the core."""
    x, y, *bank = features
    if case.loss == "siglip":
        return siglip_reference(x, y, *scalars, ids_of(case).get("ids"))
    if case.loss == "clip":
        return clip_reference(x, y, *scalars)
    bank = bank[0] if bank else None
    return info_nce_reference(x, y, negatives=case.negatives, bank=bank, logit_scale=scalars[0])


@pytest.mark.parametrize(
    "case",
    [
        named("siglip"),
        named("siglip", pairs="classes"),
        named("clip"),
        named("info_nce"),
        named("info_nce", "all"),
        named("info_nce", "within"),
        named("info_nce", bank=True),
    ],
    ids=str,
)
def test_the_gradients_of_losses_by_name_are_those_of_the_references(case):
    features = tuple(np.random.default_rng(0).normal(size=(2 + case.bank, N, D)))
    truth, scalars = truth_of(case, features), SCALARS[case.loss]
    assert truth.loss == reference(case, features, scalars)
    step = 1e-6
    for i, gradient in enumerate(truth.gradients):
        for place in ((0, 0), (3, 1), (7, 2)):
            ends = []
            for sign in (1, -1):
                moved = [v.copy() for v in features]
                moved[i][place] += sign * step
                ends.append(reference(case, moved, scalars))
            wanted = (ends[0] - ends[1]) / (2 * step)
            assert gradient[place] == pytest.approx(wanted, rel=1e-5, abs=1e-8)
    for i, slope in enumerate(truth.slopes):
        more, less = ([v + s * step * (i == j) for j, v in enumerate(scalars)] for s in (1, -1))
        ends = [reference(case, features, values) for values in (more, less)]
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("wrong", ["", "loss", "gradients", "slopes"])
def test_a_check_sees_a_wrong_loss_gradient_or_slope_of_a_scalar(wrong):
    case = Check("fused", "js", "gaussian", "cross", False, "float32", N, D, scalars="learned")
    features = tuple(np.random.default_rng(0).normal(size=(2, N, D)))
    truth = truth_of(case, features)
    assert case.objective().logits == LEARNED
    got = {"loss": truth.loss, "gradients": truth.gradients, "slopes": truth.slopes}
    changes = {"loss": truth.loss + 1e-3, "slopes": (truth.slopes[0], 1.001 * truth.slopes[1])}
    changes["gradients"] = (truth.gradients[0], 1.001 * truth.gradients[1])
    got |= {name: changes[name] for name in (wrong,) if name}

    class Library:
        @staticmethod
        def result(case, device):
            return Result(features, **got)

    row = check(Library, case, "cpu")
    assert row["passed"] == int(not wrong)
    assert set(row) == {"loss_error", "gradient_error", "scalar_error", "passed"}


#: Every loss that plain code has, with its pairs.
PLAIN = [
    *(Speed("js", "", 48, 8, "float32", negatives) for negatives in ("anchor", "cross")),
    Speed("js", "", 48, 8, "float32", "cross", bank=64),
    *(
        Speed("js", "", 48, 8, "float32", negatives, pairs=pairs)
        for negatives in ("anchor", "cross")
        for pairs in ("ids", "classes")
    ),
    Speed("js", "", 48, 8, "float32", "cross", scalars="learned"),
    Speed("siglip", "", 48, 8, "float32", "cross", scalars="learned"),
    Speed("clip", "", 48, 8, "float32", "cross", scalars="learned"),
    *(Speed("info_nce", "", 48, 8, "float32", negatives) for negatives in ("cross", "all")),
    Speed("info_nce", "", 48, 8, "float32", "cross", bank=64),
]


@pytest.mark.parametrize("case", PLAIN, ids=str)
@pytest.mark.parametrize("form", ["eager_dense", "compiled_chunks"])
def test_plain_pytorch_is_the_same_loss(case, form, monkeypatch):
    monkeypatch.setattr(in_torch.torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(plain_torch, "CHUNK", 16)
    values, gradients = [], []
    for name in ("dense", form):
        given = in_torch.arguments(case, "cpu")
        values.append(in_torch.step_of(case._replace(form=name), given)().item())
        gradients.append([v.grad for v in in_torch.asking(given).values()])
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    for own, plain in zip(*gradients, strict=True):
        assert plain.numpy() == pytest.approx(own.numpy(), rel=1e-3, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_plain_jax_is_the_same_loss(case, monkeypatch):
    in_jax = pytest.importorskip("benchmarks.gpu.in_jax")
    monkeypatch.setattr("benchmarks.gpu.plain_jax.CHUNK", 16)
    given = in_jax.arguments(case)
    (own, ours), *others = (
        in_jax.step_of(case._replace(form=name))(*given)
        for name in ("dense", "compiled_dense", "compiled_chunks")
    )
    for plain, theirs in others:
        assert float(plain) == pytest.approx(float(own), rel=1e-5)
        for name, wanted in ours.items():
            assert np.asarray(theirs[name]) == pytest.approx(np.asarray(wanted), rel=1e-3, abs=1e-6)


def test_ids_are_of_eight_rows_each_or_of_ten_classes():
    case = Speed("js", "fused", 80, 8, "float32", "anchor", pairs="ids")
    assert np.bincount(ids_of(case)["ids"]).tolist() == [8] * 10
    assert set(ids_of(case._replace(n=8192, pairs="classes"))["ids"]) == set(range(10))
    assert ids_of(case._replace(pairs="rows")) == {}
    assert is_single(case)
    assert not is_single(case._replace(negatives="cross"))
    bank = ids_of(case._replace(bank=40))
    assert {name: len(ids) for name, ids in bank.items()} == {"ids": 80, "bank_ids": 40}


def test_tiles_to_be_tuned_take_the_place_of_the_present_ones_and_give_it_back():
    present = fused.tiles_for
    given = 128, "bfloat16", False, 227 * 1024, True
    shape = Tune("fused", 64, 128, "bfloat16", "anchor")
    with in_torch.tiles_of(shape) as taken:
        assert fused.tiles_for(*given) == present(*given)
    assert taken == [present(*given)]
    assert shape.taken([(64, 64, 32, 8, 2, None)]) == "64 64 32 8 2"
    other = shape._replace(rows=32, columns=64, width=128, warps=4, stages=1)
    with pytest.raises(ZeroDivisionError), in_torch.tiles_of(other) as taken:
        assert fused.tiles_for(*given) == (32, 64, 128, 4, 1, None)
        raise ZeroDivisionError
    assert fused.tiles_for is present
    assert shape.taken([]) == "-"
    with pytest.raises(RuntimeError, match="takes no tiles"):
        other.taken([])
