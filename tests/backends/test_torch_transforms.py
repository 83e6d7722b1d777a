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


def slope(of, tangent):
    """Slope in forward mode along the tangent, as a function."""
    return lambda x: func.jvp(of, (x,), (tangent,))[1]


#: Every way to a second derivative, as a function of the loss of x and of a tangent.
TWICE = {
    "reverse over reverse": lambda of, t: func.grad(lambda x: (func.grad(of)(x) * t).sum()),
    "reverse over forward": lambda of, t: func.grad(slope(of, t)),
    "forward over reverse": lambda of, t: slope(func.grad(of), t),
    "forward over forward": lambda of, t: func.jacfwd(slope(of, t)),
    "hessian": lambda of, t: lambda x: torch.einsum("ijkl,kl", func.hessian(of)(x), t),
}


@pytest.mark.parametrize("normalize", [True, False], ids=["unit", "raw"])
@pytest.mark.parametrize("way", TWICE)
def test_second_derivatives_are_exact_or_refused(loss, dense, way, normalize):
    xs, ys, tangents = batches()
    of, plain = (lambda x, f=f: f(x, ys[0], normalize=normalize) for f in (loss, dense))
    twice = TWICE[way](of, tangents[0])
    if loss.keywords["implementation"] == "dense":
        want = TWICE["reverse over reverse"](plain, tangents[0])(xs[0])
        torch.testing.assert_close(twice(xs[0]), want)
        return
    with pytest.raises(RuntimeError, match=r"use implementation='dense'"):
        twice(xs[0])


def test_what_is_linear_in_the_tangent_is_differentiated_in_it(loss):
    """No second derivative of the loss: it is the gradient."""
    xs, ys, tangents = batches()
    of = lambda x: loss(x, ys[0])  # noqa: E731
    in_tangent = func.grad(lambda t: func.jvp(of, (xs[0],), (t,))[1])(tangents[0])
    torch.testing.assert_close(in_tangent, func.grad(of)(xs[0]))


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


@pytest.fixture(params=["fmicl_loss", "siglip_loss", "info_nce_loss"])
def learned(request):
    """A loss of features, a scale (a temperature, of InfoNCE) and a bias (0 then), by its form."""
    ids = torch.arange(20) * 7 % 4

    def of(implementation):
        loss = partial(getattr(fmicl_torch, request.param), ids=ids, implementation=implementation)
        if request.param == "info_nce_loss":
            return lambda x, y, scale, bias: loss(x, y, temperature=scale) + 0.0 * bias
        return lambda x, y, scale, bias: loss(x, y, logit_scale=scale, logit_bias=bias)

    return of


SCALARS = torch.tensor([0.7, 1.9, 0.4]).double(), torch.tensor([-1.5, 0.3, -4.0]).double()


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_scalars_learn_under_the_transforms_too(learned, implementation, set_tile):
    set_tile(8)
    loss, dense = learned(implementation), learned("dense")
    (xs, ys, tangents), (scales, biases) = batches(), SCALARS
    first = xs[0], ys[0], scales[0], biases[0]
    leaves = [v.clone().requires_grad_() for v in first]
    want = torch.autograd.grad(dense(*leaves), leaves)
    torch.testing.assert_close(func.grad(loss, argnums=(0, 1, 2, 3))(*first), want)
    moves = tangents[0], tangents[1], torch.tensor(0.3).double(), torch.tensor(-0.2).double()
    along = [(g * t).sum() for g, t in zip(want, moves, strict=True)]
    torch.testing.assert_close(func.jvp(loss, first, moves)[1], sum(along))
    _, slope = func.jvp(lambda *s: loss(*first[:2], *s), first[2:], moves[2:])
    torch.testing.assert_close(slope, along[2] + along[3])
    every = list(zip(xs, ys, scales, biases, strict=True))
    torch.testing.assert_close(
        func.vmap(loss)(xs, ys, scales, biases), torch.stack([dense(*one) for one in every])
    )
    slopes = func.vmap(func.grad(loss, argnums=2), in_dims=(None, None, 0, 0))
    torch.testing.assert_close(
        slopes(*first[:2], scales, biases),
        torch.stack([func.grad(dense, argnums=2)(*first[:2], *one[2:]) for one in every]),
    )


def test_second_derivatives_in_scalars_are_exact_or_refused(learned):
    (xs, ys, _), (scales, biases) = batches(), SCALARS
    for argument in (0, 2):
        bend = lambda of, at=argument: func.grad(  # noqa: E731
            lambda s: func.grad(of, argnums=at)(xs[0], ys[0], s, biases[0]).square().sum()
        )
        assert bend(learned("dense"))(scales[0]).isfinite()
        with pytest.raises(RuntimeError, match=r"use implementation='dense'"):
            bend(learned("tiled"))(scales[0])


def test_a_graph_that_is_kept_gives_its_gradients_again(loss):
    """The last backward pass overwrites what the others need."""
    x, y = (v.clone().requires_grad_() for v in batches()[0][:2])
    value = 3.0 * loss(x, y)
    passes = [torch.autograd.grad(value, (x, y), retain_graph=keep) for keep in (True, True, False)]
    for again in passes[1:]:
        for one, other in zip(passes[0], again, strict=True):
            assert torch.equal(one, other)
