"""Weights in slabs, which wide features take: equal to the reference, whatever the sizes."""

import numpy as np
import pytest
import torch

from fmicl_core import FMICL, Gaussian
from fmicl_core.fused import Tiles, prefers_slabs
from fmicl_torch import FMICLLoss, fused, siglip_loss, slabs


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Slabs for every width, of two tiles of 16 rows of at most 24 columns in float32."""
    tiles = Tiles(16, 16, 16, 4, 1)
    monkeypatch.setattr(fused, "prefers_slabs", lambda *_: True)
    monkeypatch.setattr(slabs, "SLAB_BYTES", 2 * 16 * 24 * 4)
    for module in (fused, slabs):
        monkeypatch.setattr(module, "SLAB_TILES", tiles)


def features(n=37, d=5, k=None, dtype="float32"):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d))
    arrays = x, x + 0.5 * rng.normal(size=(n, d)), None if k is None else rng.normal(size=(k, d))
    return [None if a is None else torch.tensor(a, dtype=getattr(torch, dtype)) for a in arrays]


def test_widths_beyond_256_take_slabs_where_products_are_fast():
    assert prefers_slabs(257, "bfloat16", False)
    assert prefers_slabs(1024, "float32", True)
    assert not prefers_slabs(256, "bfloat16", False)
    assert not prefers_slabs(1024, "float32", False)
    assert not prefers_slabs(1024, "float16", True)  # its weights could leave the range


@pytest.mark.filterwarnings("ignore:.*known to collapse:UserWarning")
def test_every_divergence_similarity_and_scheme(few, errors):
    x, y, bank = features(21, k=9 if few.pairs == "bank" else None)
    if not few.objective.normalize:
        x, y, bank = (None if v is None else 0.5 * v for v in (x, y, bank))
    loss, gradient = errors(few.objective, x, y, bank)
    assert loss < 4e-6
    assert gradient < 2e-5


def test_half_precision_costs_what_its_rounding_does(errors):
    loss, gradient = errors(FMICL("js", negatives="all"), *features(dtype="bfloat16")[:2])
    assert loss < 8e-3
    assert gradient < 1.6e-2


@pytest.mark.parametrize(("n", "k", "d"), [(2, None, 1), (70, None, 40), (33, 70, 16), (40, 3, 17)])
def test_any_size(n, k, d, errors):
    """Rows off the slab and off the tile, of one slab and of several; raw rows have masses."""
    for normalize in (True, False):
        objective = FMICL("js", Gaussian(d / 2.0), negatives="all", normalize=normalize)
        assert max(errors(objective, *features(n, d, k))) < 4e-6


@pytest.mark.parametrize("negatives", ["cross", "all"])
def test_ids_and_learned_scalars(negatives, errors):
    x, y, _ = features()
    ids = torch.arange(37) % 11
    assert max(errors(FMICL("kl", negatives=negatives), x, y, ids=ids)) < 2e-5
    learned = FMICL("js", negatives=negatives, logit_scale=3.0, logit_bias=-1.0)
    assert max(errors(learned, x, y)) < 2e-5


def test_small_penalties_keep_their_digits():
    """SigLIP at its start, with a bias of -10, where every penalty is about 5e-5."""
    x, y, _ = features()
    given = {"logit_scale": torch.tensor(1.0), "logit_bias": torch.tensor(-10.0)}
    found = siglip_loss(x, y, **given, implementation="fused").item()
    wanted = siglip_loss(x.double(), y.double(), **given, implementation="dense").item()
    assert found == pytest.approx(wanted, rel=2e-6)


@pytest.mark.parametrize("leaf", [0, 1])
def test_one_side_alone_may_have_a_gradient(leaf):
    loss = FMICLLoss(negatives="cross", implementation="fused")
    both = [v.requires_grad_() for v in features()[:2]]
    alone = [v.detach().requires_grad_(i == leaf) for i, v in enumerate(both)]
    expected = torch.autograd.grad(loss(*both), both)[leaf]
    (found,) = torch.autograd.grad(loss(*alone), alone[leaf])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_the_gradient_is_the_same_in_every_run():
    loss = FMICLLoss(negatives="all", implementation="fused")
    x, y, _ = (None if v is None else v.requires_grad_() for v in features())
    runs = [torch.autograd.grad(loss(x, y), (x, y)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
