"""What a PyTorch user relies on: autocast, compile, copies, memory, one-line use."""

import shutil
from functools import partial

import numpy as np
import pytest

import fmicl_core
from fmicl_core import FMICL, Gaussian, fmicl_reference

torch = pytest.importorskip("torch", reason="these are tests of the PyTorch backend")
fmicl_torch = pytest.importorskip("fmicl_torch", reason="these are tests of the PyTorch backend")
from fmicl_torch import registry  # noqa: E402

both = pytest.mark.parametrize("implementation", ["dense", "tiled"])
both_losses = pytest.mark.parametrize("name", ["fmicl_loss", "info_nce_loss"])


def views(n=40, d=8, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=dtype)
    y = x + 0.5 * torch.randn(n, d, generator=generator, dtype=dtype)
    return x.requires_grad_(), y.requires_grad_()


def gradients(loss, x, y):
    return torch.autograd.grad(loss, (x, y))


@both
def test_autocast_computes_in_float32(implementation):
    layer = torch.nn.Linear(8, 8)
    x, y = views(dtype=torch.float32)
    loss = fmicl_torch.FMICLLoss(divergence="js", implementation=implementation)
    with torch.autocast("cpu", torch.bfloat16):
        u, v = layer(x), layer(y)
        got = loss(u, v)
    assert u.dtype == torch.bfloat16
    assert got.dtype == torch.float32
    truth = fmicl_reference(u.detach().double().numpy(), v.detach().double().numpy(), FMICL("js"))
    assert got.item() == pytest.approx(truth.loss, rel=1e-5)
    got.backward()
    assert layer.weight.grad.isfinite().all()


@both
@pytest.mark.parametrize(
    "backend_name", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
def test_compile_equals_eager_in_one_graph(implementation, backend_name):
    if backend_name == "inductor" and shutil.which("g++") is None:
        pytest.skip("inductor needs a C++ compiler")
    loss = fmicl_torch.FMICLLoss(divergence="js", negatives="all", implementation=implementation)
    layer = torch.nn.Linear(8, 6).double()

    def step(x, y):
        return loss(layer(x), layer(y))

    compiled = torch.compile(step, fullgraph=True, backend=backend_name)
    x, y = views()
    expected, got = step(x, y), compiled(x, y)
    assert got.item() == pytest.approx(expected.item(), rel=1e-12)
    for a, b in zip(gradients(got, x, y), gradients(expected, x, y), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@both
def test_the_function_compiles_in_one_graph(implementation):
    """Options as names and as objects, met for the first time while compiling."""

    def step(x, y):
        named = fmicl_torch.fmicl_loss(x, y, alpha=12.5, implementation=implementation)
        js = fmicl_core.JensenShannon()
        other = fmicl_torch.fmicl_loss(x, y, divergence=js, implementation=implementation)
        return named + other + fmicl_torch.info_nce_loss(x, y, implementation=implementation)

    x, y = views()
    got, expected = torch.compile(step, fullgraph=True, backend="aot_eager")(x, y), step(x, y)
    assert got.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradients(got, x, y), gradients(expected, x, y))


def test_dense_has_any_order_of_derivatives():
    x, y = (v.detach()[:5, :3].requires_grad_() for v in views())
    call = lambda a, b: fmicl_torch.fmicl_loss(a, b, divergence="vlc", implementation="dense")  # noqa: E731
    assert torch.autograd.gradcheck(call, (x, y))
    assert torch.autograd.gradgradcheck(call, (x, y))


@both_losses
def test_tiled_refuses_a_second_derivative_and_says_what_to_do(name):
    x, y = views()
    loss = getattr(fmicl_torch, name)(x, y, implementation="tiled")
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"use implementation='dense'"):
        torch.autograd.grad(slope.square().sum(), x)


@both_losses
def test_gradient_scales_with_the_loss(name):
    x, y = views()
    loss = partial(getattr(fmicl_torch, name), implementation="tiled")
    one, seven = gradients(loss(x, y), x, y), gradients(7.0 * loss(x, y), x, y)
    torch.testing.assert_close(seven[0], 7.0 * one[0])


def test_terms_are_differentiable_one_by_one():
    x, y = views()
    for implementation in ("dense", "tiled"):
        terms = fmicl_torch.fmicl_terms(x, y, implementation=implementation)
        aligned, spread, whole = (
            torch.autograd.grad(term, x, retain_graph=True)[0]
            for term in (terms.score, terms.penalty, terms.loss)
        )
        torch.testing.assert_close(whole, 40.0 * spread - aligned)


@both
@both_losses
def test_only_one_side_may_ask_for_gradients(name, implementation):
    x, y = views()
    of = getattr(fmicl_torch, name)
    frozen = y.detach()
    for negatives in ("cross", "all", "within"):
        loss = partial(of, negatives=negatives, implementation=implementation)
        (got,) = torch.autograd.grad(loss(x, frozen), x)
        torch.testing.assert_close(got, gradients(loss(x, y), x, y)[0])
    with torch.no_grad():
        value = of(x, y, implementation=implementation)
    assert not value.requires_grad
    assert value.item() == pytest.approx(of(x, y).item(), rel=1e-12)


@both
@pytest.mark.parametrize("wanted", ["x", "y", "bank"])
def test_info_nce_of_a_queue_differentiates_what_is_asked_for(wanted, implementation):
    x, y = views()
    bank = torch.randn(9, 8, dtype=torch.float64)
    arrays = {"x": x.detach(), "y": y.detach(), "bank": bank}
    loss = partial(fmicl_torch.info_nce_loss, implementation=implementation)
    every = [v.clone().requires_grad_() for v in arrays.values()]
    want = torch.autograd.grad(loss(*every[:2], bank=every[2]), every)
    one = arrays | {wanted: arrays[wanted].clone().requires_grad_()}
    (got,) = torch.autograd.grad(loss(one["x"], one["y"], bank=one["bank"]), one[wanted])
    torch.testing.assert_close(got, want[list(arrays).index(wanted)])


@both_losses
def test_the_backward_pass_inside_autocast_is_in_float32(name):
    x, y = views(dtype=torch.float32)
    loss = partial(getattr(fmicl_torch, name), implementation="tiled")
    want = gradients(loss(x, y), x, y)
    with torch.autocast("cpu", torch.bfloat16):
        got = gradients(loss(x, y), x, y)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


@both_losses
def test_gradients_of_several_losses_at_once(name):
    """`is_grads_batched`, which `torch.autograd.functional.jacobian(vectorize=True)` uses."""
    x, y = views()
    loss = partial(getattr(fmicl_torch, name), implementation="tiled")
    several = torch.stack([loss(x, y), 2.0 * loss(x, y)])
    (got,) = torch.autograd.grad(
        several, x, torch.eye(2, dtype=torch.float64), is_grads_batched=True
    )
    want = gradients(loss(x, y), x, y)[0]
    torch.testing.assert_close(got, torch.stack([want, 2.0 * want]))


def test_the_module_has_no_state():
    loss = fmicl_torch.FMICLLoss(divergence="tsallis", similarity=Gaussian(0.1), negatives="all")
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}
    assert loss.load_state_dict({}, strict=True)


@pytest.mark.parametrize("labels", [0, 10])
@both_losses
def test_tiled_saves_linear_memory_for_the_backward_pass(name, labels):
    def saved(n, implementation):
        total = 0

        def count(tensor):
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        x, y = views(n, 16, torch.float32)
        options = {"implementation": implementation, "negatives": "cross"}
        options |= {"ids": torch.arange(n) % labels} if labels else {}
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            getattr(fmicl_torch, name)(x, y, **options)
        return total

    assert saved(2048, "tiled") < 2.2 * saved(1024, "tiled")
    assert saved(2048, "tiled") < 20 * 2048 * 16 * 4
    assert saved(2048, "dense") > 3.5 * saved(1024, "dense")


@both_losses
def test_auto_is_dense_for_small_batches_and_tiled_for_large_ones(name):
    loss = getattr(fmicl_torch, name)
    curvature = lambda x, y: torch.autograd.grad(  # noqa: E731
        torch.autograd.grad(loss(x, y), x, create_graph=True)[0].square().sum(), x
    )
    with pytest.raises(RuntimeError, match=r"implementation='dense'"):
        curvature(*views(600, 4))
    curvature(*views(100, 4))


@both
@both_losses
def test_other_ids_compile_nothing_anew(name, implementation):
    loss = partial(getattr(fmicl_torch, name), implementation=implementation)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    step = torch.compile(lambda x, ids: loss(x, ids=ids), fullgraph=True, backend="aot_eager")
    x, _ = views(24)
    for ids in (torch.arange(24) % 3, torch.arange(24) // 2, torch.arange(-5, 19) ** 2):
        got, want = step(x, ids), loss(x, ids=ids)
        assert got.item() == pytest.approx(want.item(), rel=1e-12)
        torch.testing.assert_close(*(torch.autograd.grad(value, x)[0] for value in (got, want)))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@both
def test_a_loss_with_ids_is_exported(implementation):
    class Model(torch.nn.Module):
        def forward(self, x, ids):
            return fmicl_torch.fmicl_loss(x, ids=ids, implementation=implementation)

    x, ids = views()[0].detach(), torch.arange(40) % 7
    program = torch.export.export(Model(), (x, ids % 3)).module()
    assert program(x, ids).item() == Model()(x, ids).item()


@pytest.mark.parametrize("ids", [np.arange(40)[::-1] % 7, (np.arange(40)[::-1] % 7).astype(">i4"),
                                 (np.arange(40, dtype=np.uint64)[::-1] % 7) << 61])  # fmt: skip
def test_ids_may_be_numpy_arrays_of_any_layout(ids):
    x, _ = views()
    plain = torch.arange(39, -1, -1) % 7
    assert fmicl_torch.fmicl_loss(x, ids=ids).item() == fmicl_torch.fmicl_loss(x, ids=plain).item()
    with pytest.raises(ValueError, match=r"`ids`. Expected a torch.Tensor. Received: type\(ids\)="):
        fmicl_torch.fmicl_loss(x, ids=ids.tolist())


@both_losses
def test_ids_take_deterministic_algorithms(name):
    x, y = views()
    loss = partial(getattr(fmicl_torch, name), ids=torch.arange(40) % 7, implementation="tiled")
    want = gradients(loss(x, y), x, y)
    torch.use_deterministic_algorithms(True)
    try:
        torch.testing.assert_close(gradients(loss(x, y), x, y), want, rtol=0, atol=0)
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_operators_keep_their_promises():
    """Schema, sizes, layouts and dtypes of what they return, as torch.compile relies on them."""
    check = partial(torch.library.opcheck, test_utils=("test_schema", "test_faketensor"))
    x, y = (v.detach() for v in views(20))
    numbers = torch.arange(20, dtype=torch.int32) // 3
    ids, bias = (numbers, numbers + 1, torch.ones(20, dtype=x.dtype)), torch.tensor(-1.0).double()
    text = registry.register(FMICL("js", logit_bias=-1.0).pairwise)
    for grad, columns, more in (
        (True, True, (bias, None, None, None)), (True, False, (bias, *ids)),
        (False, False, (bias, *ids[:2], None)),
    ):  # fmt: skip
        arguments = x.T.contiguous().T, y, *more, text, True, 8, grad, columns, ""
        check(torch.ops.fmicl.block_mean.default, arguments)
    for options in (("all", "ids", False, False), ("cross", "pair", True, False),
                    ("within", "ids", False, True)):  # fmt: skip
        arguments = x, y, None, numbers, None, None, *options, 8
        check(torch.ops.fmicl.info_nce.default, arguments)
        sums = torch.ops.fmicl.info_nce.default(*arguments)[1:]
        arguments = *arguments[:5], *sums, *options, 8, [True, False, False]
        check(torch.ops.fmicl.info_nce_gradients.default, arguments)
