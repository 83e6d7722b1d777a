"""SigLIPLoss and CLIPLoss: their parameters learn, and are saved, copied, compiled and moved."""

import copy
import math

import pytest

torch = pytest.importorskip("torch", reason="these are tests of the PyTorch backend")
fmicl_torch = pytest.importorskip("fmicl_torch", reason="these are tests of the PyTorch backend")
CLIPLoss, SigLIPLoss = fmicl_torch.CLIPLoss, fmicl_torch.SigLIPLoss
both = pytest.mark.parametrize("kind", [SigLIPLoss, CLIPLoss])


def views(n=24, d=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator, dtype=dtype)
    return x, x + 0.5 * torch.randn(n, d, generator=generator, dtype=dtype)


def function_of(kind, loss):
    """The loss as the function that it stands for, of the parameters' values."""
    if kind is CLIPLoss:
        return lambda x, y, **given: fmicl_torch.clip_loss(
            x, y, logit_scale=loss.log_scale.exp().item(), **given
        )
    return lambda x, y, **given: fmicl_torch.siglip_loss(
        x, y, logit_scale=loss.log_scale.exp().item(), logit_bias=loss.logit_bias.item(), **given
    )


@both
def test_it_is_the_function_with_the_papers_first_values(kind):
    x, y = views()
    loss, ids = kind(), torch.arange(24) % 5
    first = {SigLIPLoss: 10.0, CLIPLoss: 1.0 / 0.07}[kind]
    assert loss.logit_scale.item() == pytest.approx(first, rel=1e-6)
    assert {k: v.shape for k, v in loss.named_parameters()} == dict.fromkeys(
        ("log_scale", "logit_bias")[: 2 if kind is SigLIPLoss else 1], torch.Size([])
    )
    for given in ({}, {"ids": ids}):
        want = function_of(kind, loss)(x, y, **given).item()
        assert loss(x, y, **given).item() == pytest.approx(want, rel=1e-6)
    duplicates = kind(positives="pair", normalize=False, implementation="tiled")
    want = function_of(kind, loss)(x, y, ids=ids, positives="pair", normalize=False)
    assert duplicates(x, y, ids=ids).item() == pytest.approx(want.item(), rel=1e-5)


@both
@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_it_learns(kind, implementation):
    """A tower and the parameters of the loss, by a few steps."""
    torch.manual_seed(0)
    x, y = views()
    tower, loss = torch.nn.Linear(4, 4), kind(implementation=implementation)
    before = [p.detach().clone() for p in loss.parameters()]
    optimiser = torch.optim.SGD([*tower.parameters(), *loss.parameters()], lr=0.05)
    values = []
    for _ in range(8):
        optimiser.zero_grad()
        value = loss(tower(x), y)
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.8 * values[0]
    assert all(p != q for p, q in zip(loss.parameters(), before, strict=True))


@both
def test_state_copies_and_text_keep_what_it_learned(kind):
    x, y = views()
    loss = kind(positives="pair", implementation="tiled")
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(0.3)
    fresh = kind(positives="pair", implementation="tiled")
    fresh.load_state_dict(loss.state_dict())
    pasted = eval(repr(loss), {kind.__name__: kind})
    for made in (fresh, copy.deepcopy(loss), pasted):
        assert repr(made) == repr(loss)
        assert made(x, y).item() == pytest.approx(loss(x, y).item(), rel=1e-5)
    fresh.double()
    assert fresh(x.double(), y.double()).dtype == torch.float64


@both
def test_autocast_computes_in_float32(kind):
    x, y = views()
    loss, tower = kind(), torch.nn.Linear(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        features = tower(x)
        value = loss(features, y)
    value.backward()
    assert (features.dtype, value.dtype) == (torch.bfloat16, torch.float32)
    assert all(p.grad.isfinite() for p in loss.parameters())
    assert loss.log_scale.grad.dtype == torch.float32


@both
@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_steps_compile_once(kind, implementation):
    """Whatever the parameters become, CLIP's at its limit included."""
    x, y = views()
    loss = kind(implementation=implementation)
    twin = copy.deepcopy(loss)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    step = torch.compile(loss, fullgraph=True, backend="aot_eager")
    optimisers = [torch.optim.SGD(m.parameters(), lr=0.5) for m in (loss, twin)]
    for _ in range(4):
        for module, run, optimiser in zip((loss, twin), (step, twin), optimisers, strict=True):
            optimiser.zero_grad()
            run(x, y).backward()
            optimiser.step()
            if kind is CLIPLoss:
                with torch.no_grad():
                    module.log_scale.add_(1.0)
        got, want = step(x, y), twin(x, y)
        assert got.item() == pytest.approx(want.item(), rel=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch.testing.assert_close(list(loss.parameters()), list(twin.parameters()))


def test_clip_s_scale_is_held_at_100_and_learns_there():
    x, y = views()
    loss = CLIPLoss(logit_scale=100.0)
    with torch.no_grad():
        loss.log_scale += 1.0  # a step that went further
    assert loss.logit_scale.item() == pytest.approx(100.0)
    loss.eval()
    want = fmicl_torch.clip_loss(x, y, logit_scale=100.0).item()
    assert loss(x, y).item() == pytest.approx(want, rel=1e-5)
    further = math.log(100.0) + 1.0
    assert loss.log_scale.item() == pytest.approx(further)  # evaluation changes nothing
    loss.train()
    # Two calls before the backward pass, as with several losses of a step.
    value = loss(x, y) + loss(y, x)
    assert loss.log_scale.item() == pytest.approx(math.log(100.0))
    value.backward()
    assert loss.log_scale.grad.item() != 0.0
    assert "logit_scale=100.0" in repr(loss)


@both
def test_what_is_wrong_is_said(kind):
    for options, name in (
        ({"logit_scale": 0.0}, "logit_scale"), ({"positives": "all"}, "positives"),
        ({"normalize": 1}, "normalize"), ({"implementation": "fast"}, "implementation"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"Invalid value for argument `{name}`"):
            kind(**options)
    with pytest.raises(ValueError, match="Invalid value for argument `logit_bias`"):
        SigLIPLoss(logit_bias=math.inf)
    with pytest.raises(ValueError, match="Expected a number <= 100, at which the scale is held"):
        CLIPLoss(logit_scale=200.0)


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_losses_without_a_negative_or_a_scalar_say_so(implementation):
    x, y = views(6)
    same, bank_ids = torch.ones(6, dtype=torch.int64), torch.tensor([3, 3])
    for name in ("siglip_loss", "clip_loss", "dcl_loss"):
        with pytest.raises(ValueError, match=r"`ids`. Expected at least two different ids"):
            getattr(fmicl_torch, name)(x, y, ids=same, implementation=implementation)
    with pytest.raises(
        ValueError, match=r"`bank_ids`. Expected a row of the bank whose id differs"
    ):
        fmicl_torch.dcl_loss(x, y, bank=x[:2], ids=torch.arange(6), bank_ids=bank_ids,
                             implementation=implementation)  # fmt: skip
    for name in ("logit_scale", "logit_bias"):
        with pytest.raises(ValueError, match=f"`{name}`. Expected a finite number"):
            fmicl_torch.siglip_loss(x, y, implementation=implementation, **{name: None})
