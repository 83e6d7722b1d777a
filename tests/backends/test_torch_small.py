"""Small batches in PyTorch, one node of the graph each: as the dense form, whatever is asked."""

from functools import partial

import numpy as np
import pytest

from fmicl_core import DIVERGENCES, Cosine, Gaussian, Laplace
from fmicl_core.pairs import NEGATIVES

torch = pytest.importorskip("torch", reason="these are tests of the PyTorch backend")
fmicl_torch = pytest.importorskip("fmicl_torch", reason="these are tests of the PyTorch backend")

SUITABLE = [name for name, make in DIVERGENCES.items() if make().suitable]


def rows(*sizes, d=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(n, d, generator=generator, dtype=dtype) for n in sizes]


def both_forms(loss, *given):
    """Value and gradients by "auto", which is one node, and by the dense form."""
    found = []
    for implementation in ("auto", "dense"):
        leaves = [v.clone().requires_grad_() for v in given]
        value = loss(*leaves, implementation=implementation)
        node = type(value.grad_fn).__name__ == "_NodeBackward"
        assert node == (implementation == "auto")
        found.append((value.detach(), *torch.autograd.grad(value, leaves)))
    return found


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_softmaxes_are_those_of_the_dense_form(negatives, normalize):
    """Cold enough, too, that e^s leaves the range of a number without its peak."""
    for name in ("info_nce_loss", "dcl_loss"):
        loss = partial(getattr(fmicl_torch, name), negatives=negatives, normalize=normalize)
        for temperature in (0.5, 0.001):
            of = lambda x, y, t, loss=loss, **k: loss(x, y, temperature=t, **k)  # noqa: E731
            torch.testing.assert_close(*both_forms(of, *rows(11, 11), scalar(temperature)))
    bank = lambda x, y, b, **k: fmicl_torch.dcl_loss(x, y, bank=b, normalize=normalize, **k)  # noqa: E731
    torch.testing.assert_close(*both_forms(bank, *rows(11, 11, 7)))
    for scale in (10.0, 90.0):
        clip = lambda x, y, s, **k: fmicl_torch.clip_loss(  # noqa: E731
            x, y, logit_scale=s, normalize=normalize, **k
        )
        torch.testing.assert_close(*both_forms(clip, *rows(11, 11), scalar(scale)))


@pytest.mark.parametrize("similarity", [Gaussian(), Gaussian(0.5, 150.0), Laplace(), Cosine(2.0)])
@pytest.mark.parametrize("divergence", SUITABLE)
def test_means_are_those_of_the_dense_form(divergence, similarity):
    options = {"divergence": divergence, "similarity": similarity}
    for negatives in NEGATIVES:
        loss = partial(fmicl_torch.fmicl_loss, negatives=negatives, **options)
        of = lambda x, y, a, loss=loss, **k: loss(x, y, alpha=a, **k)  # noqa: E731
        torch.testing.assert_close(*both_forms(of, *rows(11, 11), scalar(3.0)))
    bank = lambda x, y, b, **k: fmicl_torch.fmicl_loss(x, y, bank=b, **options, **k)  # noqa: E731
    torch.testing.assert_close(*both_forms(bank, *rows(11, 11, 7)))


@pytest.mark.parametrize("normalize", [True, False])
def test_scale_and_bias_learn(normalize):
    def of(loss):
        return lambda x, y, s, c, **k: loss(
            x, y, logit_scale=s, logit_bias=c, normalize=normalize, **k
        )

    losses = [fmicl_torch.siglip_loss]
    losses += [partial(fmicl_torch.fmicl_loss, negatives=n, divergence="js") for n in NEGATIVES]
    for loss in losses:
        torch.testing.assert_close(*both_forms(of(loss), *rows(11, 11), scalar(2.0), scalar(-1.0)))


@pytest.mark.parametrize("loss", [
    partial(fmicl_torch.fmicl_loss, divergence="vlc", negatives="all"),
    lambda x, y: fmicl_torch.fmicl_terms(x, y, negatives="cross")[1:],
    fmicl_torch.info_nce_loss, partial(fmicl_torch.clip_loss, logit_scale=2.0),
], ids=["vlc", "terms", "info_nce", "clip"])  # fmt: skip
def test_derivatives_of_any_order(loss):
    x, y = (v.requires_grad_() for v in rows(5, 5, d=3))
    assert torch.autograd.gradcheck(loss, (x, y))
    assert torch.autograd.gradgradcheck(loss, (x, y))


def test_a_view_may_be_made_of_the_other():
    """What one input owes to another is counted once, in second derivatives, too."""
    (x,), (w,) = rows(6, d=3), rows(3, d=3)
    x, w = x.requires_grad_(), w.requires_grad_()
    found = []
    for implementation in ("auto", "dense"):
        value = fmicl_torch.info_nce_loss(x, x @ w, implementation=implementation)
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), (x, w)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e30])
def test_rows_of_any_length(length):
    x, y = rows(6, 6, dtype=torch.float32)
    x[2] *= length
    x[4] = 0.0
    for loss in (fmicl_torch.info_nce_loss, fmicl_torch.fmicl_loss):
        torch.testing.assert_close(*both_forms(loss, x, y))


@pytest.mark.parametrize("loss", [fmicl_torch.fmicl_loss, fmicl_torch.info_nce_loss])
def test_ids_that_are_all_different_change_no_bit(loss):
    x, y = (v.requires_grad_() for v in rows(6, 6))
    ids = torch.tensor([4, -1, 7, 0, 3, 9])
    given = [{}, {"ids": ids}, {"ids": ids.numpy()}]
    values = [loss(x, y, **more) for more in given]
    values += [loss(x, y, bank=y.detach(), **more) for more in (*given[:2], given[1])]
    values[-1] = loss(x, y, bank=y.detach(), ids=ids, bank_ids=ids + 20)
    found = [(v, *torch.autograd.grad(v, (x, y))) for v in values]
    for base, others in ((found[0], found[1:3]), (found[3], found[4:])):
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(base, other, strict=True))
    alike = loss(x, y, ids=np.array([1, 1, 2, 3, 4, 5]))
    assert not torch.equal(alike, values[0])
    met = loss(x, y, bank=y.detach(), ids=ids, bank_ids=ids)
    assert not torch.equal(met, values[3])
    with pytest.raises(ValueError, match="`ids`"):
        loss(x, y, ids=ids[:3])


def test_what_is_not_finite_is_an_error_or_shows():
    x, y = rows(6, 6)
    x[3, 1] = torch.nan
    assert fmicl_torch.info_nce_loss(x, y).isnan()
    assert fmicl_torch.fmicl_loss(x, y, check_finite=False).isnan()
    with pytest.raises(ValueError, match=r"`x`. Expected finite features"):
        fmicl_torch.fmicl_loss(x, y)
    with pytest.raises(ValueError, match="`alpha`"):
        fmicl_torch.fmicl_loss(x, y, alpha=None)
