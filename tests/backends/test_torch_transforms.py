"""Forward mode and `torch.func` over every form of every loss of pairs."""

from functools import partial

import pytest

torch = pytest.importorskip("torch", reason="these are tests of the PyTorch backend")
fmicl_torch = pytest.importorskip("fmicl_torch", reason="these are tests of the PyTorch backend")
func = torch.func


def batches(n=20, d=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, n, d, generator=generator, dtype=torch.float64)


@pytest.fixture(params=["fmicl_loss", "info_nce_loss"])
def name(request):
    return request.param


@pytest.fixture(params=[{}, {"ids": torch.arange(20) * 7 % 4}], ids=["", "ids"])
def options(request):
    """Options of a loss of 20 rows."""
    return {"negatives": "all", **request.param}


@pytest.fixture(params=["dense", "tiled"])
def loss(name, options, request, set_tile):
    set_tile(8)
    return partial(getattr(fmicl_torch, name), implementation=request.param, **options)


@pytest.fixture
def dense(name, options):
    return partial(getattr(fmicl_torch, name), implementation="dense", **options)


def gradient(of, x, y):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(of(x, y), x)[0]


def test_the_functional_gradient_is_autograd_s(loss, dense):
    xs, ys, _ = batches()
    want = gradient(dense, xs[0], ys[0])
    torch.testing.assert_close(func.grad(loss)(xs[0], ys[0]), want)
    torch.testing.assert_close(func.jacrev(loss)(xs[0], ys[0]), want)
    for got in (func.grad(loss, argnums=(0, 1))(xs[0], ys[0])[1], gradient(lambda y, x: loss(x, y),
                ys[0], xs[0])):  # fmt: skip
        torch.testing.assert_close(got, gradient(lambda y, x: dense(x, y), ys[0], xs[0]))


def test_forward_mode_is_the_gradient_along_the_tangent(loss, dense):
    xs, ys, tangents = batches()
    want = (gradient(dense, xs[0], ys[0]) * tangents[0]).sum()
    _, slope = func.jvp(lambda x: loss(x, ys[0]), (xs[0],), (tangents[0],))
    torch.testing.assert_close(slope, want)
    _, both = func.jvp(loss, (xs[0], ys[0]), (tangents[0], tangents[1]))
    other = (gradient(lambda y, x: dense(x, y), ys[0], xs[0]) * tangents[1]).sum()
    torch.testing.assert_close(both, want + other)


def test_a_vmapped_loss_is_the_losses_one_by_one(loss, dense):
    xs, ys, _ = batches()
    pairs = list(zip(xs, ys, strict=True))
    torch.testing.assert_close(
        func.vmap(loss)(xs, ys), torch.stack([dense(*pair) for pair in pairs])
    )
    torch.testing.assert_close(
        func.vmap(func.grad(loss))(xs, ys), torch.stack([gradient(dense, *pair) for pair in pairs])
    )
    raw, dense_raw = partial(loss, normalize=False), partial(dense, normalize=False)
    shared = func.vmap(raw, in_dims=(1, None))(xs.movedim(0, 1), ys[0])
    torch.testing.assert_close(shared, torch.stack([dense_raw(x, ys[0]) for x in xs]))


def test_second_derivatives_are_exact_or_refused(loss, dense):
    xs, ys, _ = batches()
    bend = lambda of: func.grad(lambda x: func.grad(of)(x, ys[0]).square().sum())  # noqa: E731
    if loss.keywords["implementation"] == "dense":
        assert bend(dense)(xs[0]).isfinite().all()
        return
    with pytest.raises(RuntimeError, match=r"use implementation='dense'"):
        bend(loss)(xs[0])


@pytest.mark.parametrize("options", [{}], ids=[""])
def test_ids_may_be_vmapped_beside_features_or_alone(loss, dense):
    xs, ids = batches()[0], torch.arange(60).view(3, 20) * 7 % torch.tensor([[4], [3], [5]])
    bank = {"bank": batches()[1][0], "bank_ids": torch.arange(20) % 6}
    for more in ({}, bank):
        of = lambda x, ids, loss=loss, more=more: loss(x, ids=ids, **more)  # noqa: E731
        want = torch.stack([of(x, i, dense) for x, i in zip(xs, ids, strict=True)])
        torch.testing.assert_close(func.vmap(of)(xs, ids), want)
        shared = torch.stack([of(xs[0], i, dense) for i in ids])
        torch.testing.assert_close(func.vmap(of, in_dims=(None, 0))(xs[0], ids), shared)
