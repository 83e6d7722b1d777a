"""The reference: which pairs count, its gradient, its symmetries, and its edges."""

import math
import warnings
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from fmicl_core import DIVERGENCES, FMICL, Cauchy, Cosine, Gaussian, Laplace, fmicl_reference
from fmicl_core.pairs import NEGATIVES, POSITIVES
from fmicl_core.related import (
    alignment_uniformity_reference,
    donsker_varadhan_reference,
    info_nce_reference,
    spectral_contrastive_reference,
)

SIMILARITIES = (Gaussian(0.4, 1.2), Cosine(1.6), Laplace(0.9), Cauchy(1.1))
every_scheme = pytest.mark.parametrize("negatives", NEGATIVES)
seeds = st.integers(0, 2**32 - 1)


def make(divergence="js", similarity=SIMILARITIES[0], alpha=3.0, negatives="all", normalize=True):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FMICL(divergence, similarity, alpha, negatives, normalize)


def draw(seed, n=6, d=4, k=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(n, d)), rng.normal(size=(k, d))


def plain_loss(
    x, y, bank, divergence, sigma2, mu, alpha, negatives, ids=None, bank_ids=None, positives="ids"
):
    """The definition, pair by pair in Python, without the library's affine form or blocks."""
    unit = lambda rows: [r / math.sqrt(sum(v * v for v in r)) for r in rows]  # noqa: E731
    x, y = unit(x), None if y is None else unit(y)
    log_kernel = lambda p, q: math.log(mu) - sum((p - q) ** 2) / (2 * sigma2)  # noqa: E731
    n = range(len(x))
    ids = n if ids is None else ids
    off = [(i, j) for i, j in product(n, n) if ids[i] != ids[j]]
    if bank is not None:
        others = ["none"] * len(bank) if bank_ids is None else bank_ids
        rows = zip(unit(bank), others, strict=True)
        pairs = [(x[i], b) for (b, own), i in product(rows, n) if own != ids[i]]
    elif y is None or negatives == "anchor":
        pairs = [(x[i], x[j]) for i, j in off]
    elif negatives == "within":
        pairs = [(v[i], v[j]) for v in (x, y) for i, j in off]
    elif negatives == "cross":
        pairs = [(x[i], y[j]) for i, j in off]
    else:
        pairs = [(v[i], w[j]) for v in (x, y) for w in (x, y) for i, j in off]
    equal = [(i, j) for i, j in product(n, n) if ids[i] == ids[j]]
    if y is None:
        anchors = {i: [(x[i], x[j]) for k, j in equal if k == i != j] for i in n}
    elif positives == "pair":
        anchors = {i: [(x[i], y[i])] for i in n}
    elif negatives == "all" and bank is None:  # of all views alike, but no row with itself
        views = {(v, i): row for v, rows in enumerate((x, y)) for i, row in enumerate(rows)}
        anchors = {
            one: [(views[one], views[v, j]) for i, j in equal for v in (0, 1)
                  if i == one[1] and (v, j) != one]
            for one in views
        }  # fmt: skip
    else:
        anchors = {i: [(x[i], y[j]) for k, j in equal if k == i] for i in n}
    scores = [
        np.mean([divergence.score(log_kernel(p, q)) for p, q in own]) if own else 0.0
        for own in anchors.values()
    ]
    score = np.mean(scores)
    penalty = np.mean([divergence.penalty(log_kernel(p, q)) for p, q in pairs])
    return -score + alpha * penalty, score, penalty


@every_scheme
@pytest.mark.parametrize("use_bank", [False, True])
@given(seed=seeds)
def test_the_pairs_that_count_are_the_defined_ones(negatives, use_bank, seed):
    x, y, bank = draw(seed)
    bank = bank if use_bank else None
    got = fmicl_reference(x, y, make(negatives=negatives), bank)
    js = DIVERGENCES["js"]()
    want = plain_loss(x, y, bank, js, 0.4, 1.2, 3.0, negatives)
    assert (got.loss, got.score, got.penalty) == pytest.approx(want, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=repr)
@given(
    seed=seeds,
    normalize=st.booleans(),
    use_bank=st.booleans(),
    scheme=st.sampled_from([*NEGATIVES]),
)
def test_gradient_is_the_derivative(divergence, similarity, seed, normalize, use_bank, scheme):
    try:
        objective = make(divergence, similarity, 3.0, scheme, normalize)
    except ValueError:
        return  # this cosine leaves the domain of this conjugate, which test_objective covers
    x, y, bank = (0.7 * v for v in draw(seed))
    bank = bank if use_bank else None
    got = fmicl_reference(x, y, objective, bank)
    directions = draw(seed + 1)
    step = 1e-6
    moved = [
        fmicl_reference(
            x + s * directions[0], y + s * directions[1], objective,
            None if bank is None else bank + s * directions[2],
        ).loss
        for s in (step, -step)
    ]  # fmt: skip
    slope = (got.grad_x * directions[0]).sum() + (got.grad_y * directions[1]).sum()
    if got.grad_bank is not None:
        slope += (got.grad_bank * directions[2]).sum()
    size = abs(got.loss) + np.abs(got.grad_x).sum() + np.abs(got.grad_y).sum()
    assert (moved[0] - moved[1]) / (2 * step) == pytest.approx(slope, rel=1e-5, abs=2e-6 * size)


@every_scheme
@given(seed=seeds)
def test_samples_can_be_permuted_and_the_sphere_rotated(negatives, seed):
    x, y, _ = draw(seed)
    objective = make(negatives=negatives)
    base = fmicl_reference(x, y, objective)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    moved = fmicl_reference(x[order] @ turn, y[order] @ turn, objective)
    assert moved.loss == pytest.approx(base.loss, rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(moved.grad_x, base.grad_x[order] @ turn, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(moved.grad_y, base.grad_y[order] @ turn, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("negatives", ["within", "cross", "all"])
@given(seed=seeds)
def test_views_can_be_swapped_where_the_scheme_is_symmetric(negatives, seed):
    x, y, _ = draw(seed)
    objective = make(negatives=negatives)
    a, b = fmicl_reference(x, y, objective), fmicl_reference(y, x, objective)
    assert a.loss == pytest.approx(b.loss, rel=1e-12)
    np.testing.assert_allclose(a.grad_x, b.grad_y, rtol=1e-9, atol=1e-12)


@given(seed=seeds, factor=st.floats(1e-3, 1e3))
def test_normalised_loss_ignores_scale_and_its_gradient_is_tangent(seed, factor):
    x, y, _ = draw(seed)
    base, scaled = (fmicl_reference(f * x, y, make()) for f in (1.0, factor))
    assert scaled.loss == pytest.approx(base.loss, rel=1e-12)
    np.testing.assert_allclose(scaled.grad_x * factor, base.grad_x, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose((base.grad_x * x).sum(axis=1), 0.0, atol=1e-12)


@given(seed=seeds)
def test_within_is_the_mean_of_both_anchors(seed):
    x, y, _ = draw(seed)
    parts = [
        fmicl_reference(*views, make(negatives="anchor")).penalty for views in ((x, y), (y, x))
    ]
    within = fmicl_reference(x, y, make(negatives="within")).penalty
    assert within == pytest.approx(np.mean(parts), rel=1e-12)


@given(seed=seeds)
def test_a_bank_adds_up_from_its_parts(seed):
    x, y, bank = draw(seed)
    parts = [fmicl_reference(x, y, make(), b).penalty for b in (bank[:2], bank[2:])]
    whole = fmicl_reference(x, y, make(), bank).penalty
    assert whole == pytest.approx((2 * parts[0] + 3 * parts[1]) / 5, rel=1e-12)


@every_scheme
@pytest.mark.parametrize("divergence", [n for n, m in DIVERGENCES.items() if m().suitable])
def test_edges_are_finite(divergence, negatives):
    x = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1e200, 1e-200], [1e-300, 0.0]])
    got = fmicl_reference(x, -x, make(divergence, Gaussian(), 40.0, negatives))
    assert math.isfinite(got.loss)
    assert np.isfinite(got.grad_x[:5]).all()


def test_a_zero_row_counts_as_orthogonal():
    e = np.eye(3)
    with_zero = fmicl_reference(np.vstack([e[0], 0 * e[0]]), e[:2], make(negatives="anchor"))
    orthogonal = fmicl_reference(e[:2], np.vstack([e[0], e[2]]), make(negatives="anchor"))
    assert with_zero.loss == pytest.approx(orthogonal.loss, rel=1e-14)


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("divergence", [n for n, m in DIVERGENCES.items() if m().suitable])
def test_uniformity_theorem_minimisers_are_simplices(divergence, n):
    """N <= d + 1: descent from random starts ends with x_i . x_j = -1/(N-1)."""
    objective = make(divergence, Gaussian(), 1.0, "anchor")
    shape = (n, 4)

    def negative_term(flat):
        x = flat.reshape(shape)
        got = fmicl_reference(x, x, objective)
        # With y = x the positive term is constant under normalisation, and so is its gradient, 0.
        return got.penalty, (got.grad_x + got.grad_y).ravel()

    start = np.random.default_rng(n).normal(size=shape)
    options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 2000}
    result = minimize(negative_term, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    found = result.x.reshape(shape)
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    products = (unit @ unit.T)[~np.eye(n, dtype=bool)]
    np.testing.assert_allclose(products, -1 / (n - 1), atol=2e-4)
    np.testing.assert_allclose(2 - 2 * products, 2 * n / (n - 1), atol=4e-4)


#: Six rows with three ids, and a bank of which two rows have one of them.
IDS, BANK_IDS = np.array([0, 7, -2, 0, 7, 0]), np.array([-1, 7, -1, -2, -1])
#: What is given beside x; positives; a scheme.
BESIDE = [
    *(("y", p, s) for p in POSITIVES for s in NEGATIVES),
    *(("y and bank", p, "all") for p in POSITIVES),
    ("nothing", "ids", "anchor"), ("nothing", "ids", "all"), ("bank", "ids", "anchor"),
]  # fmt: skip


@pytest.mark.parametrize(("beside", "positives", "negatives"), BESIDE)
@given(seed=seeds)
def test_ids_say_which_pairs_count(beside, positives, negatives, seed):
    x, y, bank = draw(seed)
    y, bank = y if "y" in beside.split() else None, bank if "bank" in beside else None
    ids = IDS, None if bank is None else BANK_IDS
    objective = FMICL("js", Gaussian(0.4, 1.2), 3.0, negatives, positives=positives)
    got = fmicl_reference(x, y, objective, bank, *ids)
    want = plain_loss(
        x, y, bank, objective.generator, 0.4, 1.2, 3.0, negatives, *ids, positives=positives
    )
    assert (got.loss, got.score, got.penalty) == pytest.approx(want, rel=1e-10, abs=1e-12)
    step = 1e-6 * np.random.default_rng(seed).normal(size=x.shape)
    ahead, behind = (
        fmicl_reference(
            x + s * step, None if y is None else y - s * step, objective,
            None if bank is None else bank + s * step[:5], *ids,
        ).loss
        for s in (1.0, -1.0)
    )  # fmt: skip
    slope = (got.grad_x * step).sum()
    slope -= 0.0 if y is None else (got.grad_y * step).sum()
    slope += 0.0 if bank is None else (got.grad_bank * step[:5]).sum()
    assert (ahead - behind) / 2 == pytest.approx(slope, rel=1e-5, abs=1e-10)


@every_scheme
@given(seed=seeds)
def test_ids_that_are_all_different_change_nothing(negatives, seed):
    x, y, bank = draw(seed)
    for others in ({}, {"bank": bank}, {"bank": bank, "bank_ids": np.arange(-5, 0)}):
        features = {k: v for k, v in others.items() if k == "bank"}
        plain = fmicl_reference(x, y, make(negatives=negatives), **features)
        named = fmicl_reference(x, y, make(negatives=negatives), ids=range(6), **others)
        assert (named.loss, named.score, named.penalty) == (plain.loss, plain.score, plain.penalty)
        np.testing.assert_array_equal(named.grad_x, plain.grad_x)


@given(seed=seeds)
def test_two_views_in_one_array_are_the_scheme_all(seed):
    x, y, _ = draw(seed)
    objective = make(negatives="all")
    two = fmicl_reference(x, y, objective, ids=IDS)
    one = fmicl_reference(np.concatenate([x, y]), None, objective, ids=np.tile(IDS, 2))
    assert (two.loss, two.score) == pytest.approx((one.loss, one.score), rel=1e-12)
    np.testing.assert_allclose(np.concatenate([two.grad_x, two.grad_y]), one.grad_x, atol=1e-12)


NO_PAIRS = [
    ({"ids": range(6)}, "`ids`. Expected at least two rows with equal ids"),
    ({"ids": np.zeros(6, int)}, "`ids`. Expected at least two different ids"),
    ({"ids": np.zeros(6, int), "bank": np.ones((2, 4)), "bank_ids": [0, 0]},
     "`bank_ids`. Expected a row of the bank whose id differs from one in `ids`"),
    ({"ids": IDS == 0}, "`ids`. Expected whole numbers, .* Received: ids.dtype='bool'"),
    ({"ids": IDS[:5]}, r"`ids`. Expected .*, \(N,\) = \(6,\). Received: ids.shape=\(5,\)"),
    ({"ids": IDS, "objective": FMICL(negatives="cross")},
     "`negatives`. Expected 'anchor' or 'all' for a single array. There is no second view"),
    ({"ids": IDS, "objective": FMICL(positives="pair")},
     "`positives`. Expected 'ids' for a single array. There is no second view"),
    ({"bank_ids": BANK_IDS}, "`bank_ids`. Expected None without `ids`"),
    ({"ids": IDS, "bank_ids": BANK_IDS}, "`bank_ids`. Expected None without `bank`"),
    ({}, r"`y`. Expected the second view .* `loss\(features, ids=labels\)`"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), NO_PAIRS)
def test_what_makes_no_pairs_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fmicl_reference(draw(0)[0], **arguments)


@pytest.mark.parametrize("reference", [
    fmicl_reference, info_nce_reference, donsker_varadhan_reference, alignment_uniformity_reference,
    spectral_contrastive_reference,
])  # fmt: skip
@pytest.mark.parametrize("labels", [(), (np.zeros(6, int),)], ids=["alone", "labels"])
def test_two_views_in_one_array_are_shown_how_to_split(reference, labels):
    x, _, _ = draw(0)
    with pytest.raises(ValueError, match=r"`y`. Expected .* `z1, z2 = np.split\(features, 2\)`"):
        reference(x, *labels)
    value = reference(*np.split(x, 2))
    assert math.isfinite(getattr(value, "loss", value))


@pytest.mark.parametrize("similarity", ["gaussian", "cosine", "laplace"])
def test_an_automatic_weight_is_the_strength_over_the_mean_of_u(similarity):
    x, y = np.random.default_rng(0).normal(size=(2, 6, 4))
    kl = fmicl_reference(x, y, FMICL("kl", similarity, "auto", strength=3.0))
    assert kl.alpha * kl.penalty == pytest.approx(3.0, rel=1e-14)
    # Of a kernel u is the kernel, whatever the divergence; a cosine's is the slope of f*.
    other = fmicl_reference(x, y, FMICL("pearson", similarity, "auto", strength=3.0))
    if similarity != "cosine":
        assert other.alpha == kl.alpha
    else:
        assert 3.0 / other.alpha == pytest.approx(1.0 + _mean_cosine(x) / 2.0, rel=1e-14)


def _mean_cosine(x):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = unit @ unit.T
    return (cosines.sum() - len(x)) / (len(x) * (len(x) - 1))


def test_an_automatic_weight_has_the_gradient_of_donsker_and_varadhan():
    x, y = np.random.default_rng(1).normal(size=(2, 5, 3))

    def bound(x):  # - E+[s] + strength * log E_x[u]
        terms = fmicl_reference(x, y, FMICL("kl"))
        return 2.0 * np.log(terms.penalty) - terms.score

    grad = fmicl_reference(x, y, FMICL("kl", alpha="auto", strength=2.0)).grad_x
    for i, j in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i, j] = 1e-5
        slope = (bound(x + step) - bound(x - step)) / 2e-5
        assert grad[i, j] == pytest.approx(slope, abs=1e-8)
