"""The PyTorch losses on a GPU: values, time and memory, beside baselines under torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks.gpu_cases import CHUNK, DENSE_ROWS, Check, Result, Speed, milliseconds
from benchmarks.timing import Row
from fmicl_core.divergences import LOG2
from fmicl_torch import fmicl_loss

FORMS = ("dense", "tiled", "kernel", "kernel_deterministic")
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def device_name() -> str:
    """The GPU, or "cpu" where there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def views(n: int, d: int, dtype: str, device: str) -> list[torch.Tensor]:
    """Two views of `n` samples that ask for gradients."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(n, d, generator=generator, device=device)
    y = x + 0.5 * torch.randn(n, d, generator=generator, device=device)
    kind = torch.float32 if dtype == "tf32" else getattr(torch, dtype)
    return [v.to(kind).requires_grad_() for v in (x, y)]


@contextmanager
def precision(dtype: str, deterministic: bool = False) -> Iterator[None]:
    """Products of float32 numbers in tf32 for "tf32"; a deterministic gradient where asked for."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32, torch.are_deterministic_algorithms_enabled()
    matmul.allow_tf32 = dtype == "tf32"
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    try:
        yield
    finally:
        matmul.allow_tf32 = before[0]
        torch.use_deterministic_algorithms(before[1])


def result(case: Check, similarity: object, device: str) -> Result:
    """The loss and its gradients."""
    x, y = views(case.n, case.d, case.dtype, device)
    with precision(case.dtype, case.implementation == "kernel_deterministic"):
        loss = fmicl_loss(
            x, y, divergence=case.divergence, negatives=case.negatives, normalize=case.normalize,
            similarity=similarity, implementation=case.implementation.split("_")[0],
        )  # type: ignore[arg-type]  # fmt: skip
        gradients = torch.autograd.grad(loss, (x, y))
    a, b, *gradients = (v.detach().double().cpu().numpy() for v in (x, y, *gradients))
    return Result(a, b, loss.item(), tuple(gradients))


def waiting(call: Callable[[], object], device: str) -> Callable[[], None]:
    """The call, until the device is done."""

    def run() -> None:
        call()
        if device != "cpu":
            torch.cuda.synchronize()

    return run


def matrix_rate(dtype: str, device: str) -> float:
    """Tflop/s of one large product in the dtype: what the loss is measured against."""
    n = 8192 if device != "cpu" else 512
    a, b = (v.detach() for v in views(n, n, dtype, device))
    with precision(dtype):
        return 2e-9 * n**3 / milliseconds(waiting(lambda: a @ b, device), 10)


def own_loss(negatives: str, implementation: str) -> Loss:
    """A loss of this library."""
    return lambda x, y: fmicl_loss(
        x, y, divergence="js", negatives=negatives, implementation=implementation,
        check_finite=False,
    )  # fmt: skip


def _chunk(rows: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.softplus(2.0 * (rows @ y.T).float() - 2.0).sum()


def chunks() -> Loss:
    """Jensen-Shannon "cross" of row chunks, each compiled, and again in the backward pass.

    Memory is linear, as Inf-CL's is: no matrix of all pairs is kept.
    """
    compiled = torch.compile(_chunk)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
        total: torch.Tensor = sum(
            checkpoint(compiled, rows, y, use_reentrant=False) for rows in x.split(CHUNK)
        )
        own = 2.0 * (x * y).float().sum(dim=1) - 2.0
        pairs = len(x) * (len(x) - 1)
        uniformity = (total - F.softplus(own).sum()) / pairs - LOG2
        return 40.0 * uniformity + F.softplus(-own).mean() - LOG2

    return loss


def losses(n: int, negatives: str) -> dict[str, Callable[[], Loss]]:
    """What is compared at so many rows, by name; made when its turn comes."""
    own = ("kernel", "kernel_deterministic", "tiled") + (("dense",) if n <= DENSE_ROWS else ())
    made = {name: lambda name=name: own_loss(negatives, name.split("_")[0]) for name in own}
    if n <= DENSE_ROWS:
        made["compiled_dense"] = lambda: torch.compile(own_loss(negatives, "dense"))
    if negatives == "cross":
        made["compiled_chunks"] = chunks
    return made


def speed(name: str, make: Callable[[], Loss], case: Speed, device: str) -> Row:
    """Time of the loss with its gradients, extra memory, and value."""
    x, y = views(case.n, case.d, case.dtype, device)
    loss = make()

    def step() -> None:
        x.grad = y.grad = None
        loss(x, y).backward()

    run = waiting(step, device)
    with precision(case.dtype, name == "kernel_deterministic"):
        if device != "cpu":
            run()  # what the first call compiles and allocates is not counted
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            run()
        ms = milliseconds(run, case.repeats)
    with torch.no_grad(), precision(case.dtype):
        value = loss(x, y).item()  # of all losses of a case the same
    row: Row = {"ms": round(ms, 3)}
    if device != "cpu":
        # The gradients of the step before are among what is held, as the inputs are.
        row["extra_mib"] = round((torch.cuda.max_memory_allocated() - held) / 2**20, 1)
    return row | {"value": round(value, 5)}
