"""alpha = "auto" in PyTorch: compiled, exported, transformed, and of a module that may change."""

from functools import partial

import pytest

from fmicl_core import KL, Cosine, Gaussian, Pairwise
from fmicl_core.divergences import Pearson, Ratio

torch = pytest.importorskip("torch", reason="these are tests of the PyTorch backend")
fmicl_torch = pytest.importorskip("fmicl_torch", reason="these are tests of the PyTorch backend")
testing = pytest.importorskip("torch._dynamo.testing", reason="as above")
registry = pytest.importorskip("fmicl_torch.registry", reason="as above")
tiled = pytest.importorskip("fmicl_torch.tiled", reason="as above")

both = pytest.mark.parametrize("implementation", ["dense", "tiled"])
#: Of the first the penalty is u; of the others u has formulas of KL's and of its own.
kinds = pytest.mark.parametrize(
    ("divergence", "similarity"),
    [("kl", "gaussian"), ("js", "laplace"), ("pearson", "cosine")],
)


@pytest.fixture(autouse=True)
def small_tiles(set_tile):
    set_tile(4)


@pytest.fixture
def views(draw):
    return tuple(torch.tensor(v) for v in draw(0)[:2])


def gradient(loss, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(x), x)[0]


class Mine(Pearson):
    """A divergence of one's own."""


@pytest.mark.by_turns(torch=True)
@kinds
@both
def test_one_graph_compiled_and_exported(views, divergence, similarity, implementation):
    """Other strengths are a symbol; a module changes between the found and a given weight."""
    x, y = views
    loss = fmicl_torch.FMICLLoss(
        divergence=divergence, similarity=similarity, alpha="auto", implementation=implementation
    )
    torch._dynamo.reset()
    counter = testing.CompileCounterWithBackend("aot_eager")
    step = torch.compile(loss, backend=counter, fullgraph=True)
    for strength in (1.0, 2.0, 3.0, 4.0):
        loss.strength = strength
        torch.testing.assert_close(step(x, y), loss(x, y))
        torch.testing.assert_close(*(gradient(lambda x, f=f: f(x, y), x) for f in (step, loss)))
    assert counter.frame_count <= 4  # with and without a gradient, and by then a symbol
    for alpha in (7.0, "auto"):
        loss.alpha = alpha
        torch.testing.assert_close(step(x, y), loss(x, y))
    program = torch.export.export(loss, (x, y)).module()
    torch.testing.assert_close(program(x, y), loss(x, y))


@kinds
@both
def test_transforms_take_the_weight_for_a_constant(views, divergence, similarity, implementation):
    x, y = views
    options = {"divergence": divergence, "similarity": similarity}
    terms = partial(fmicl_torch.fmicl_terms, implementation=implementation, **options)
    auto = lambda x: terms(x, y, alpha="auto").loss  # noqa: E731
    alpha = terms(x, y, alpha="auto").alpha
    fixed = lambda x: terms(x, y, alpha=alpha).loss  # noqa: E731
    want = gradient(fixed, x)
    torch.testing.assert_close(torch.func.grad(auto)(x), want)
    tangent = torch.cos(x)
    torch.testing.assert_close(torch.func.jvp(auto, (x,), (tangent,))[1], (want * tangent).sum())
    both = torch.stack([x, 0.5 * x + 1.0])
    torch.testing.assert_close(torch.vmap(auto)(both), torch.stack([auto(v) for v in both]))
    torch.testing.assert_close(torch.vmap(torch.func.grad(auto))(both)[0], want)
    if implementation == "dense" and divergence == "pearson":
        torch.testing.assert_close(*(torch.func.hessian(f)(x) for f in (auto, fixed)))


@pytest.mark.parametrize("negatives", ["anchor", "cross", "all"])
@kinds
def test_small_batches_are_one_node(views, divergence, similarity, negatives):
    options = {"divergence": divergence, "similarity": similarity, "negatives": negatives}
    terms = partial(fmicl_torch.fmicl_terms, *views, alpha="auto", **options)
    x, y = (v.requires_grad_() for v in views)
    quick, dense = terms(), terms(implementation="dense")
    assert type(quick.loss.grad_fn).__name__ == "_NodeBackward"
    torch.testing.assert_close(quick, dense)
    assert not quick.alpha.requires_grad
    assert not dense.alpha.requires_grad
    for of in ("loss", "score", "penalty"):  # of the terms by the dense form
        torch.testing.assert_close(
            *(torch.autograd.grad(getattr(t, of), (x, y), retain_graph=True, materialize_grads=True)
              for t in (quick, dense))
        )  # fmt: skip


def test_of_kl_nothing_is_swept_twice_and_u_has_no_gradient(views, monkeypatch):
    swept = []

    class Noted(tiled.Sweep):
        def __init__(self, left, right, pairwise, bias, grad, columns):
            super().__init__(left, right, pairwise, bias, grad, columns)
            swept.append((pairwise.divergence == KL(), grad))

    monkeypatch.setattr(tiled, "Sweep", Noted)
    x = views[0].requires_grad_()
    for divergence, expected in (("kl", [(True, True)]), ("vlc", [(False, True), (True, False)])):
        swept.clear()
        fmicl_torch.fmicl_loss(
            x, views[1], alpha="auto", divergence=divergence, implementation="tiled"
        ).backward()
        assert swept == expected


def test_the_module_may_be_given_another_weight(views):
    loss = fmicl_torch.FMICLLoss(alpha="auto", strength=2.0, divergence="js")
    found = loss.terms(*views)
    loss.alpha = found.alpha.item()
    assert (loss.strength, loss.objective.strength) == (None, None)
    assert loss(*views).item() == pytest.approx(found.loss.item(), rel=1e-12)
    with pytest.raises(ValueError, match=r"`strength`. Expected None unless alpha='auto'"):
        loss.strength = 3.0
    loss.alpha = torch.nn.Parameter(torch.tensor(3.0))
    loss.alpha = "auto"
    assert loss.strength == 5.0
    assert list(loss.parameters()) == []
    loss.strength = 2
    assert loss(*views) == found.loss
    loss.alpha = "auto"
    assert "alpha='auto'," in repr(loss)
    assert "strength=2.0," in repr(loss)
    for strength in (0.0, -1.0, torch.tensor(1.0), "2"):
        with pytest.raises(ValueError, match=r"`strength`. Expected a finite number > 0"):
            loss.strength = strength
    with pytest.raises(ValueError, match=r"`alpha`. Expected a finite number > 0 or 'auto'"):
        loss.alpha = "found"
    assert loss(*views) == found.loss


def test_a_cached_loss_is_that_of_the_whole_batch(views):
    encoder = torch.nn.Linear(5, 4, dtype=torch.float64)
    loss = partial(fmicl_torch.fmicl_loss, alpha="auto", divergence="js", similarity=Gaussian(0.3))
    whole = loss(*(encoder(v) for v in views))
    parts = fmicl_torch.cached_loss(loss, encoder, *views, mini_batch_size=3)
    weights = [*encoder.parameters()]
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(*(torch.autograd.grad(v, weights) for v in (parts, whole)))


def test_the_text_of_a_ratio_says_what_it_is_of():
    """A program names the ratio by its text; of the library's any process builds it."""
    pairwise = Pairwise(Ratio(Pearson()), Cosine(), True)
    text = registry.register(pairwise)
    assert registry._built(text) == pairwise
    mine = Pairwise(Mine(), Cosine(), True)
    fmicl_torch.FMICLLoss(divergence=Mine(), similarity="cosine")
    text = registry.ratio(registry.register(mine))
    assert f"Ratio(of={__name__}." in text
    assert registry.described(text) == ""
    assert registry.pairwise_of(text) == mine.ratio


@pytest.mark.parametrize("implementation", ["auto", "dense", "tiled"])
def test_an_infinite_mean_of_u_is_refused_and_does_not_switch_the_penalty_off(implementation):
    x, y = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    options = {"divergence": "js", "logit_bias": 100.0, "implementation": implementation}
    with pytest.raises(ValueError, match=r"smaller `logit_scale` or `logit_bias`"):
        fmicl_torch.fmicl_loss(x, y, alpha="auto", **options)
