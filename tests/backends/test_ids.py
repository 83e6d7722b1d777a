"""Pairs by id: labels, many views, duplicates and false negatives, in every backend."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmicl_core import FMICL, Cosine, Gaussian, Laplace, fmicl_reference
from fmicl_core.pairs import NEGATIVES, POSITIVES
from fmicl_core.related import info_nce_reference

seeds = st.integers(0, 2**32 - 1)
both = pytest.mark.parametrize("implementation", ["dense", "tiled"])
some = settings(max_examples=5)
#: Slow in JAX and TensorFlow, which compile for every case.
many_compilations = pytest.mark.many_compilations
#: Eleven rows with five ids, one of them a row's own, and a bank that has two of these ids.
IDS = np.array([4, -7, 4, 1, 9, 4, 1, 300, 1, 4, 9])
BANK_IDS = np.array([9, 5, 4, 6, 4, 5, 4, 8, 9])
#: What is given beside x; positives; a scheme; divergence, similarity and whether rows are scaled.
GIVEN = [
    ("y", "ids", "anchor", "kl", Gaussian(0.4, 1.2), True),
    ("y", "ids", "within", "js", Gaussian(0.5, 150.0), True),
    ("y", "ids", "cross", "vlc", Laplace(0.9), False),
    ("y", "ids", "all", "pearson", Gaussian(0.6), False),
    ("y", "pair", "anchor", "tsallis", Gaussian(0.6), False),
    ("y", "pair", "cross", "js", Laplace(0.9), True),
    ("y", "pair", "all", "kl", Cosine(1.6), True),
    ("y bank", "ids", "all", "js", Gaussian(0.4), True),
    ("y bank", "pair", "anchor", "jeffreys", Gaussian(0.4), True),
    ("", "ids", "anchor", "js", Gaussian(0.4, 1.2), True),
    ("", "ids", "all", "squared_hellinger", Laplace(0.9), False),
    ("bank", "ids", "anchor", "kl", Gaussian(0.4), False),
]
named = partial(pytest.mark.parametrize, "case", ids=lambda c: "-".join(map(str, c[:4])))
#: All, of which JAX and TensorFlow, which compile for each, have three in short; and those three.
every_case = named(
    [case if i in (1, 7, 9) else pytest.param(case, marks=pytest.mark.many_compilations)
     for i, case in enumerate(GIVEN)]
)  # fmt: skip
few_cases = named([GIVEN[i] for i in (1, 7, 9)])


def objective_of(case):
    _, positives, negatives, divergence, similarity, normalize = case
    return FMICL(divergence, similarity, 3.0, negatives, normalize, positives)


def arrays_of(case, seed, draw, bank_ids=BANK_IDS):
    """Features and ids by argument."""
    x, y, bank = draw(seed, k=9)
    beside = case[0].split()
    given = {"x": x, "y": y if "y" in beside else None, "bank": bank if "bank" in beside else None}
    return given, {"ids": IDS, "bank_ids": bank_ids if "bank" in beside else None}


def loss_of(backend, case, features, ids, implementation, **options):
    return backend.evaluate(
        **features, **ids, objective=objective_of(case), implementation=implementation, **options
    )


@both
@every_case
@some
@given(seed=seeds)
def test_it_is_the_reference(backend, set_tile, draw, distance, case, implementation, seed):
    set_tile(4)
    features, ids = arrays_of(case, seed, draw)
    got = loss_of(backend, case, features, ids, implementation)
    truth = fmicl_reference(**features, **ids, objective=objective_of(case))
    assert distance(got, truth) < 1e-12


@many_compilations
@pytest.mark.parametrize("tile", [1, 3, 12])
@few_cases
def test_the_size_of_tiles_does_not_matter(backend, set_tile, draw, distance, case, tile):
    set_tile(tile)
    features, ids = arrays_of(case, tile, draw)
    got = loss_of(backend, case, features, ids, "tiled")
    assert distance(got, fmicl_reference(**features, **ids, objective=objective_of(case))) < 1e-12


@pytest.mark.by_turns(every=6)
@both
@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize(
    "negatives", [*(pytest.param(n, marks=many_compilations) for n in NEGATIVES if n != "all"),
                  "all", "bank"],
)  # fmt: skip
def test_ids_that_are_all_different_change_no_bit(
    backend, set_tile, draw, negatives, positives, implementation
):
    set_tile(4)
    x, y, bank = draw(3, k=9 if negatives == "bank" else None)
    scheme = "anchor" if negatives == "bank" else negatives
    rng = np.random.default_rng(3)
    different = rng.permutation(np.arange(-50, 50))[:20]
    ids = {"ids": different[:11]} | ({} if bank is None else {"bank_ids": different[11:]})
    for dtype in ("float32", "float64"):
        plain, named = (
            backend.evaluate(
                x, y, bank, FMICL("js", negatives=scheme, positives=positives), dtype,
                implementation, **given,
            )
            for given in ({}, ids)
        )  # fmt: skip
        assert (named.loss, named.score, named.penalty) == (plain.loss, plain.score, plain.penalty)
        # The framework differentiates the dense form, and may add up in another order.
        loose = {"float32": 1e-6, "float64": 1e-14}[dtype] if implementation == "dense" else 0.0
        for name, gradient in plain.grads.items():
            largest = np.abs(gradient).max()
            assert np.abs(named.grads[name] - gradient).max() <= loose * largest


@many_compilations
@both
@few_cases
@some
@given(seed=seeds)
def test_rows_may_be_permuted_and_ids_renamed(backend, set_tile, draw, case, implementation, seed):
    set_tile(4)
    features, ids = arrays_of(case, seed, draw)
    loss = partial(loss_of, backend, case, implementation=implementation)
    base = loss(features, ids)
    rng = np.random.default_rng(seed)
    names = dict(zip(range(-10, 310), rng.permutation(10**6)[:320].tolist(), strict=True))
    renamed = {k: v if v is None else np.array([names[i] for i in v]) for k, v in ids.items()}
    same = loss(features, renamed)
    assert (same.loss, same.score, same.penalty) == (base.loss, base.score, base.penalty)
    order = rng.permutation(11)
    moved = loss(
        {k: v if v is None or k == "bank" else v[order] for k, v in features.items()},
        ids | {"ids": IDS[order]},
    )
    assert moved.loss == pytest.approx(base.loss, rel=1e-11, abs=1e-11)
    np.testing.assert_allclose(moved.grads["x"], base.grads["x"][order], atol=1e-11)


@many_compilations
@both
@some
@given(seed=seeds)
def test_many_views_are_the_mean_of_two(backend, set_tile, draw, implementation, seed):
    """Of V views in one array the score is the mean over the pairs of views of the two-view score,
    and the penalty (1/V) that of "within" + (1 - 1/V) that of "cross".
    """
    set_tile(4)
    rng = np.random.default_rng(seed)
    views = [rng.normal(size=(4, 5)) for _ in range(3)]
    evaluate = partial(backend.evaluate, bank=None, implementation=implementation)
    whole = evaluate(
        np.concatenate(views), None, objective=FMICL("js"), ids=np.tile([5, 2, 9, 1], 3)
    )
    parts = {
        scheme: [
            evaluate(views[i], views[j], objective=FMICL("js", negatives=scheme))
            for i, j in ((0, 1), (0, 2), (1, 2))
        ]
        for scheme in ("within", "cross")
    }
    mean = {
        (scheme, term): np.mean([getattr(r, term) for r in results])
        for scheme, results in parts.items() for term in ("score", "penalty")
    }  # fmt: skip
    assert whole.score == pytest.approx(mean["within", "score"], rel=1e-11)
    penalty = mean["within", "penalty"] / 3 + mean["cross", "penalty"] * 2 / 3
    assert whole.penalty == pytest.approx(penalty, rel=1e-11)


@many_compilations
@both
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_a_duplicate_exerts_no_force(backend, set_tile, draw, negatives, implementation):
    """Wherever a row is that is no sample of its own, the row it repeats is pulled as before."""
    set_tile(4)
    x, y, _ = draw(8)
    ids = np.arange(11)
    ids[6] = ids[2]
    moved = x.copy(), y.copy()
    for view in moved:
        view[6] += 1.0
    one, two = (
        backend.evaluate(
            *views, None, FMICL("js", negatives=negatives, positives="pair"), ids=ids,
            implementation=implementation,
        )
        for views in ((x, y), moved)
    )  # fmt: skip
    for name in ("x", "y"):
        np.testing.assert_allclose(one.grads[name][2], two.grads[name][2], atol=1e-13)
        assert np.abs(one.grads["x"][3] - two.grads["x"][3]).max() > 1e-4


@many_compilations
@both
@some
@given(seed=seeds)
def test_the_parts_of_a_bank_add_up(backend, set_tile, draw, implementation, seed):
    set_tile(4)
    x, y, bank = draw(seed, k=9)
    whole, *parts = (
        backend.evaluate(
            x, y, bank[part], FMICL("pearson", Gaussian(0.3)), ids=IDS, bank_ids=BANK_IDS[part],
            implementation=implementation,
        )
        for part in (slice(None), slice(6), slice(6, None))
    )  # fmt: skip
    pairs = [(IDS[:, None] != BANK_IDS[part]).sum() for part in (slice(6), slice(6, None))]
    want = np.average([p.penalty for p in parts], weights=pairs)
    assert whole.penalty == pytest.approx(want, rel=1e-12)
    assert {round(p.score, 12) for p in parts} == {round(whole.score, 12)}


@many_compilations
@both
@few_cases
def test_the_gradient_is_the_central_difference(backend, set_tile, draw, case, implementation):
    set_tile(4)
    rng = np.random.default_rng(5)
    features, ids = arrays_of(case, 5, draw)
    directions = {k: rng.normal(size=v.shape) for k, v in features.items() if v is not None}

    def at(step):
        moved = features | {k: features[k] + step * d for k, d in directions.items()}
        return loss_of(backend, case, moved, ids, implementation)

    products = [at(0.0).grads[k] * d for k, d in directions.items()]
    difference = (at(1e-5).loss - at(-1e-5).loss) / 2e-5
    size = sum(np.abs(p).sum() for p in products)
    assert difference == pytest.approx(sum(p.sum() for p in products), abs=1e-6 * size)


@pytest.mark.by_turns(torch=True)
@both
@few_cases
def test_compiled_equals_eager(backend, set_tile, draw, distance, case, implementation):
    set_tile(4)
    features, ids = arrays_of(case, 6, draw)
    eager, compiled = (
        loss_of(backend, case, features, ids, implementation, compiled=c) for c in (False, True)
    )
    assert distance(compiled, eager) < 1e-12


@both
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_lower_precision(backend, set_tile, draw, distance, dtype, implementation):
    set_tile(4)
    case = GIVEN[9]
    features, ids = arrays_of(case, 2, draw)
    features["x"] = backend.rounded(features["x"], dtype)
    got = loss_of(backend, case, features, ids, implementation, dtype=dtype)
    truth = fmicl_reference(**features, **ids, objective=objective_of(case))
    assert got.dtypes == {"x": dtype, "loss": "float32"}
    assert distance(got, truth) < {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}[dtype]


@both
@pytest.mark.parametrize("dtype", ["int32", "int16", "uint8"])
def test_ids_of_any_integer_dtype(backend, draw, dtype, implementation):
    case = GIVEN[9]
    features, ids = arrays_of(case, 2, draw)
    names = {"ids": np.unique(ids["ids"], return_inverse=True)[1]}
    wide, narrow = (
        loss_of(backend, case, features, {"ids": names["ids"].astype(kind)}, implementation)
        for kind in ("int64", dtype)
    )
    assert wide.loss == narrow.loss


@both
def test_ids_that_differ_beyond_32_bits_are_different(backend, draw, implementation):
    """NumPy's numbers are taken as they are, where JAX without x64 would cut them off."""
    x = backend.array(draw(0)[0], "float32")
    far, near = (
        float(backend.library.fmicl_loss(x, ids=ids, implementation=implementation))
        for ids in (IDS.astype(np.int64) << 33, IDS)
    )
    assert far == near


@many_compilations
@both
@pytest.mark.parametrize("ids", [np.arange(11), np.zeros(11, int)], ids=["alone", "together"])
@pytest.mark.parametrize("name", ["fmicl_loss", "info_nce_loss"])
def test_without_a_pair_a_compiled_loss_is_nan(backend, draw, name, ids, implementation):
    """Eagerly it is an error, see test_bad_input.py; a wrong number it is nowhere."""
    options = {"check_finite": False} if name == "fmicl_loss" else {}
    for compiled in (False, True) if name == "fmicl_loss" else (True,):
        got = backend.call(
            name, {"x": draw(0)[0]}, compiled=compiled, ids={"ids": ids},
            implementation=implementation, **options,
        )  # fmt: skip
        assert np.isnan(got.loss)


NCE = [
    *(("y", p, s) for p in POSITIVES for s in NEGATIVES),
    ("y bank", "ids", "all"), ("y bank", "pair", "all"), ("", "ids", "all"), ("", "ids", "anchor"),
    ("bank", "ids", "all"),
]  # fmt: skip


def info_nce(backend, case, seed, draw, implementation, **options):
    features, ids = arrays_of(case, seed, draw)
    more = {"temperature": 0.3, "positives": case[1], "negatives": case[2]}
    truth = info_nce_reference(**features, **ids, **more)
    got = backend.call(
        "info_nce_loss", features, ids=ids, implementation=implementation, **more, **options
    )
    return got, truth


@pytest.mark.parametrize(
    "case", [case if i in (3, 7, 10) else pytest.param(case, marks=many_compilations)
             for i, case in enumerate(NCE)], ids=str,
)  # fmt: skip
@settings(max_examples=3)
@given(seed=seeds)
def test_info_nce_is_its_reference(backend, set_tile, draw, case, seed):
    """Value in either form, and one gradient of both."""
    set_tile(4)
    (dense, truth), (tiled, _) = (
        info_nce(backend, case, seed, draw, form) for form in ("dense", "tiled")
    )
    assert dense.loss == pytest.approx(truth, rel=1e-11, abs=1e-11)
    assert tiled.loss == pytest.approx(truth, rel=1e-11, abs=1e-11)
    for name, gradient in dense.grads.items():
        np.testing.assert_allclose(tiled.grads[name], gradient, rtol=1e-9, atol=1e-12)


@many_compilations
@both
@pytest.mark.parametrize("case", [NCE[3], NCE[8], NCE[10]], ids=str)
def test_compiled_info_nce_is_eager(backend, set_tile, draw, case, implementation):
    set_tile(4)
    (eager, _), (compiled, _) = (
        info_nce(backend, case, 7, draw, implementation, compiled=c) for c in (False, True)
    )
    assert compiled.loss == pytest.approx(eager.loss, rel=1e-12)
    for name, gradient in eager.grads.items():
        np.testing.assert_allclose(compiled.grads[name], gradient, atol=1e-11)


@many_compilations
@both
@pytest.mark.parametrize("negatives", [*NEGATIVES, "bank"])
def test_info_nce_of_ids_that_are_all_different_is_the_one_without(
    backend, set_tile, draw, negatives, implementation
):
    set_tile(4)
    x, y, bank = draw(3, k=9 if negatives == "bank" else None)
    arrays = {"x": x, "y": y, "bank": bank}
    options = {} if bank is not None else {"negatives": negatives}
    plain, named = (
        backend.call("info_nce_loss", arrays, implementation=implementation, ids=ids, **options)
        for ids in (None, {"ids": np.arange(11)[::-1].copy()})
    )
    assert named.loss == pytest.approx(plain.loss, rel=1e-14)
    for name, gradient in plain.grads.items():
        np.testing.assert_allclose(named.grads[name], gradient, rtol=1e-12, atol=1e-14)


@both
def test_objects_take_ids(backend, draw, implementation):
    x, y, bank = (backend.array(v) for v in draw(0, k=9))
    library, given = backend.library, {"ids": IDS, "bank_ids": BANK_IDS}
    options = {"positives": "pair", "implementation": implementation}
    loss = library.FMICLLoss(divergence="js", **options)
    want = library.fmicl_terms(x, y, bank=bank, divergence="js", **options, **given)
    assert [float(v) for v in loss.terms(x, y, bank, **given)] == [float(v) for v in want]
    assert float(loss(x, y, bank, **given)) == float(want.loss)
    info_nce = library.InfoNCELoss(**options)
    want = library.info_nce_loss(x, y, bank=bank, **options, **given)
    assert float(info_nce(x, y, bank, **given)) == float(want)
