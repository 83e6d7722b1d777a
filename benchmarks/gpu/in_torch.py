"""The PyTorch losses on a GPU: values, time and memory, beside baselines under torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch._inductor import config as inductor
from torch.utils.checkpoint import checkpoint

from benchmarks.gpu.cases import CHUNK, Check, Result, Speed, tile_rows
from benchmarks.timing import Row, milliseconds
from fmicl_core.divergences import LOG2
from fmicl_torch import fmicl_loss

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def prepare(device: str) -> str:
    """Name of the GPU, or "cpu" where that is asked for.

    Processes share what they compile, but each chooses the tiles of Inductor's own routines anew:
    while others compile, a choice by time is a poor one.
    """
    if hasattr(inductor, "autotune_local_cache"):
        inductor.autotune_local_cache = False
    if device == "cpu":
        return "cpu"
    torch.zeros(1, device=device)  # fails where there is none
    return torch.cuda.get_device_name()


def in_order() -> bool:
    """Whether the GPU still answers this process."""
    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def views(n: int, d: int, dtype: str, device: str) -> list[torch.Tensor]:
    """Two views of `n` samples that ask for gradients."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(n, d, generator=generator, device=device)
    y = x + 0.5 * torch.randn(n, d, generator=generator, device=device)
    return [v.to(kind_of(dtype)).requires_grad_() for v in (x, y)]


def kind_of(dtype: str) -> torch.dtype:
    """What numbers of that name are stored in."""
    return torch.float32 if dtype == "tf32" else getattr(torch, dtype)  # type: ignore[no-any-return]


@contextmanager
def precision(dtype: str, form: str) -> Iterator[None]:
    """Products of float32 numbers in tf32 for "tf32"; a deterministic gradient by the form."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32, torch.are_deterministic_algorithms_enabled()
    matmul.allow_tf32 = dtype == "tf32"
    torch.use_deterministic_algorithms(form == "fused_deterministic", warn_only=True)
    try:
        yield
    finally:
        matmul.allow_tf32 = before[0]
        torch.use_deterministic_algorithms(before[1])


def result(case: Check, similarity: object, device: str) -> Result:
    """The loss and, unless the value alone is asked for, its gradients."""
    features = views(case.n, case.d, case.dtype, device)
    if case.bank:
        generator = torch.Generator(device).manual_seed(1)
        bank = torch.randn(case.bank_rows, case.d, generator=generator, device=device)
        features.append(bank.to(kind_of(case.dtype)).requires_grad_())
    x, y, *bank = features
    value_alone = case.form == "fused_value"
    with precision(case.dtype, case.form), torch.set_grad_enabled(not value_alone):
        loss = fmicl_loss(
            x, y, bank=bank[0] if bank else None, divergence=case.divergence,
            similarity=similarity, negatives=case.negatives, normalize=case.normalize,
            implementation=case.form.split("_")[0],
        )  # type: ignore[arg-type]  # fmt: skip
        gradients = () if value_alone else torch.autograd.grad(loss, features)
    arrays = [v.detach().double().cpu().numpy() for v in (*features, *gradients)]
    count = len(features)
    return Result(tuple(arrays[:count]), loss.item(), tuple(arrays[count:]))


def waiting(call: Callable[[], object], device: str) -> Callable[[], None]:
    """The call, until the device is done."""

    def run() -> None:
        call()
        if device != "cpu":
            torch.cuda.synchronize()

    return run


def matrix_rate(dtype: str, device: str) -> float:
    """Tflop/s of one large product in the dtype: what the loss is measured against."""
    n = 8192 if device != "cpu" else 256
    a, b = (v.detach() for v in views(n, n, dtype, device))
    with precision(dtype, ""):
        return 2e-9 * n**3 / milliseconds(waiting(lambda: a @ b, device), 10)


def own_loss(negatives: str, implementation: str) -> Loss:
    """A loss of this library."""
    return lambda x, y: fmicl_loss(
        x, y, divergence="js", negatives=negatives, implementation=implementation,
        check_finite=False,
    )  # fmt: skip


def _chunk(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return F.softplus(2.0 * (rows @ others.T).float() - 2.0).sum()


def chunks(negatives: str) -> Loss:
    """Jensen-Shannon of row chunks, each compiled, and again in the backward pass.

    Memory is linear, as Inf-CL's is: no matrix of all pairs is kept.
    """
    compiled = torch.compile(_chunk, dynamic=False)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
        others = y if negatives == "cross" else x
        total: torch.Tensor = sum(
            checkpoint(compiled, rows, others, use_reentrant=False) for rows in x.split(CHUNK)
        )
        positive = 2.0 * (x * y).float().sum(dim=1) - 2.0
        own = 2.0 * (x * others).float().sum(dim=1) - 2.0
        pairs = len(x) * (len(x) - 1)
        penalty = (total - F.softplus(own).sum()) / pairs - LOG2
        return 40.0 * penalty + F.softplus(-positive).mean() - LOG2

    return loss


def products(x: torch.Tensor, y: torch.Tensor, negatives: str, rows: int) -> torch.Tensor:
    """The matrix products of a loss with its gradients and no formula between: a floor.

    Of "anchor" half of the tiles are enough; whole, it is two products, 4 N^2 D flops and not 3.
    """
    n, symmetric = len(x), negatives == "anchor"
    if rows >= n:
        z = x @ (x if symmetric else y).T
        return z @ x if symmetric else torch.stack((z @ y, z.T @ x))
    grad_x, grad_y = torch.zeros_like(x), torch.zeros_like(y)
    for i in range(0, n, rows):
        some = slice(i, i + rows)
        right = x[i:] if symmetric else y
        z = x[some] @ right.T
        grad_x[some].addmm_(z, right)
        if symmetric:
            grad_x[i + rows :].addmm_(z[:, rows:].T, x[some])
        else:
            grad_y.addmm_(z.T, x[some])
    return grad_x if symmetric else grad_y


def step_of(case: Speed, x: torch.Tensor, y: torch.Tensor) -> Callable[[], torch.Tensor]:
    """What is timed: a loss with its gradients, or products alone. It returns the loss, or those.

    What was compiled for another size is forgotten, so that no size is taken for a variable one.
    """
    torch.compiler.reset()
    name, negatives = case.loss, case.negatives
    if name.startswith("products"):
        rows = case.n if name == "products" else tile_rows(case.n)
        a, b = (F.normalize(v.detach(), dim=1) for v in (x, y))
        return lambda: products(a, b, negatives, rows)
    if name == "compiled_chunks":
        loss = chunks(negatives)
    elif name == "compiled_dense":
        loss = torch.compile(own_loss(negatives, "dense"), dynamic=False)
    else:
        loss = own_loss(negatives, name.split("_")[0])

    def step() -> torch.Tensor:
        x.grad = y.grad = None
        value = loss(x, y)
        value.backward()
        return value.detach()

    return step


def warm(case: Speed, device: str) -> None:
    """Have what the case needs compiled, for all processes."""
    x, y = views(case.n, case.d, case.dtype, device)
    with precision(case.dtype, case.loss):
        waiting(step_of(case, x, y), device)()
    forget(device)


def forget(device: str) -> None:
    """Give memory back, which other processes need."""
    if device != "cpu":
        torch.cuda.empty_cache()


def speed(case: Speed, device: str) -> Row:
    """Time of the loss with its gradients, extra memory, and value."""
    forget(device)
    x, y = views(case.n, case.d, case.dtype, device)
    step = step_of(case, x, y)
    run = waiting(step, device)
    row: Row = {}
    with precision(case.dtype, case.loss):
        value = step()  # what the first call compiles and allocates is not counted
        if value.dim() == 0:
            row["value"] = round(value.item(), 5)  # of all losses of a case the same
        del value
        if device != "cpu":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        run()
        if device != "cpu":
            # The gradients of the step before are among what is held, as the inputs are.
            row["extra_mib"] = round((torch.cuda.max_memory_allocated() - held) / 2**20, 1)
        row["ms"] = round(milliseconds(run, case.repeats, untimed=0), 3)
    forget(device)
    return row
