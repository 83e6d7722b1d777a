"""How the other losses relate to f-MICL."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmicl_core import FMICL, Gaussian, Pearson, fmicl_reference
from fmicl_core.pairs import NEGATIVES, POSITIVES, Pairs
from fmicl_core.reference import normalize_rows
from fmicl_core.related import (
    alignment_uniformity_reference,
    donsker_varadhan_reference,
    info_nce_anchors,
    info_nce_blocks,
    info_nce_positives,
    info_nce_reference,
    spectral_contrastive_reference,
)

seeds = st.integers(0, 2**32 - 1)
PAIRS = [
    *(Pairs(negatives, positives) for negatives in NEGATIVES for positives in POSITIVES),
    Pairs("all", has_bank=True), Pairs("all", single=True), Pairs("anchor", single=True),
    Pairs("cross", single=True, has_bank=True),
]  # fmt: skip


def draw(seed, n=6, d=4):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(n, d))


@given(seed=seeds, temperature=st.floats(0.1, 2.0))
def test_info_nce_objective_is_above_its_donsker_varadhan_form(seed, temperature):
    """As losses: mean of logs <= log of mean, so the shifted InfoNCE loss is the lower one."""
    x, y = draw(seed)
    s = normalize_rows(x) @ normalize_rows(y).T / temperature
    n = len(s)
    off = ~np.eye(n, dtype=bool)
    per_anchor = [np.log(np.exp(s[i][off[i]]).mean()) for i in range(n)]
    info_nce_form = -np.trace(s) / n + np.mean(per_anchor)
    assert info_nce_form <= donsker_varadhan_reference(x, y, temperature) + 1e-12
    full = info_nce_reference(x, y, temperature, "cross")
    assert full >= info_nce_form + math.log(n - 1) - 1e-12  # its sum has the positive, too


@pytest.mark.parametrize("has_ids", [False, True])
@pytest.mark.parametrize("pairs", PAIRS, ids=str)
def test_blocks_hold_every_anchor_s_pools_once(pairs, has_ids):
    anchors = {name: set(pools) for name, pools in info_nce_anchors(pairs)}
    if has_ids:
        positives = info_nce_positives(pairs)
        anchors = {name: pools | {*positives[name]} for name, pools in anchors.items()}
    served: dict[str, list[str]] = {name: [] for name in anchors}
    for block, both, _ in info_nce_blocks(pairs, has_ids):
        served[block.left].append(block.right)
        if both and not block.symmetric:
            served[block.right].append(block.left)
    assert {name: set(pools) for name, pools in served.items()} == anchors
    assert all(len(pools) == len(set(pools)) for pools in served.values())


@given(seed=seeds)
def test_labels_make_it_the_supervised_contrastive_loss(seed):
    """Khosla et al. (2020), L_out, of two views or of one array with them."""
    x, y = draw(seed)
    labels = np.array([3, 1, 3, 3, 1, 2])
    z, both = normalize_rows(np.concatenate([x, y])), np.tile(labels, 2)
    s = z @ z.T / 0.2
    losses = []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        log_z = math.log(sum(math.exp(s[i, k]) for k in others))
        losses.append(np.mean([log_z - s[i, k] for k in others if both[k] == both[i]]))
    want = pytest.approx(np.mean(losses), rel=1e-12)
    assert info_nce_reference(x, y, 0.2, ids=labels) == want
    assert info_nce_reference(z, temperature=0.2, ids=both) == want
    assert info_nce_reference(x, y, 0.2) == pytest.approx(
        info_nce_reference(z, temperature=0.2, ids=np.tile(np.arange(6), 2)), rel=1e-12
    )


@pytest.mark.parametrize("negatives", NEGATIVES)
@given(seed=seeds)
def test_false_negatives_leave_the_denominator(negatives, seed):
    x, y = draw(seed)
    twins = np.array([0, 1, 2, 0, 4, 5])
    ids = {"positives": "pair", "ids": twins}
    shorter = info_nce_reference(x, y, 0.3, negatives, **ids)
    assert shorter < info_nce_reference(x, y, 0.3, negatives)
    assert info_nce_reference(x, y, 0.3, negatives, **ids | {"ids": range(6)}) == pytest.approx(
        info_nce_reference(x, y, 0.3, negatives), rel=1e-14
    )


@given(seed=seeds)
def test_nt_xent_is_the_softmax_over_all_other_views(seed):
    x, y = draw(seed)
    z = normalize_rows(np.concatenate([x, y]))
    s = z @ z.T / 0.5
    n = len(x)
    others = [sum(math.exp(s[i, k]) for k in range(2 * n) if k != i) for i in range(2 * n)]
    losses = [-math.log(math.exp(s[i, (i + n) % (2 * n)]) / others[i]) for i in range(2 * n)]
    assert info_nce_reference(x, y, 0.5, "all") == pytest.approx(np.mean(losses), rel=1e-12)


@given(seed=seeds)
def test_a_queue_equal_to_the_other_views_is_the_cross_form(seed):
    x, y = draw(seed)
    rolled = info_nce_reference(x, y, 0.3, bank=np.roll(y, 1, axis=0)[:1])
    s = (normalize_rows(x) @ normalize_rows(y).T) / 0.3
    want = np.mean(
        [math.log(math.exp(s[i, i]) + math.exp(s[i, -1])) - s[i, i] for i in range(len(x))]
    )
    assert rolled == pytest.approx(want, rel=1e-12)


@given(seed=seeds)
def test_alignment_uniformity_is_kl_in_its_donsker_varadhan_form(seed):
    """E+[d^2] + log E_x exp(-d^2): the KL score with 1/(2 sigma^2) = 1 is 1 - d^2."""
    x, y = draw(seed)
    kl = fmicl_reference(x, x, FMICL("kl", Gaussian(0.5), 1.0, "anchor"))
    spread = math.log(kl.penalty)  # penalty = e^L
    aligned = 1.0 - fmicl_reference(x, y, FMICL("kl", Gaussian(0.5), 1.0, "anchor")).score
    other = math.log(fmicl_reference(y, y, FMICL("kl", Gaussian(0.5), 1.0, "anchor")).penalty)
    got = alignment_uniformity_reference(x, y, exponent=2.0, t=1.0)
    assert got == pytest.approx(aligned + 0.5 * (spread + other), rel=1e-10, abs=1e-12)


@given(seed=seeds)
def test_spectral_contrastive_is_pearson_with_the_product_in_place_of_the_kernel(seed):
    x, y = draw(seed)
    s = normalize_rows(x) @ normalize_rows(y).T
    pearson = Pearson()
    off = ~np.eye(len(s), dtype=bool)
    score = 2.0 * (np.diag(s) - 1.0)  # f'(u) = 2 (u - 1) at u = x . y
    penalty = s[off] ** 2 - 1.0  # f*(f'(u)) = u^2 - 1
    u = np.abs(s[off])
    np.testing.assert_allclose(pearson.penalty(np.log(u)), penalty, atol=1e-12)
    want = -score.mean() + penalty.mean() - 1.0
    assert spectral_contrastive_reference(x, y) == pytest.approx(want, rel=1e-10, abs=1e-12)


def test_the_best_alpha_for_uniform_features_is_one_over_the_mean_kernel():
    """KL, d = 512, 1/(2 sigma^2) = 1: 1/E[G] = 7.36."""
    rng = np.random.default_rng(0)
    x = normalize_rows(rng.normal(size=(1500, 512)))
    mean = fmicl_reference(x, x, FMICL("kl", Gaussian(0.5), 1.0, "anchor")).penalty
    assert 1.0 / mean == pytest.approx(7.36, abs=0.01)
