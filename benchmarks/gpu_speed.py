"""Time and memory of the PyTorch losses on a GPU, and how near they come to its matrix rate.

Every case is on its own: where one fails, by its memory for instance, the row says why.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks.timing import Row
from fmicl_core.divergences import LOG2
from fmicl_torch import fmicl_loss

DTYPES = {
    "float32": torch.float32, "tf32": torch.float32, "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}  # fmt: skip
#: Flops that no exact method can avoid, in N^2 D; a symmetric block needs half of a full one.
FLOPS = {"cross": 6, "anchor": 3}
#: Rows of a chunk of the baseline that tiles as Inf-CL does, and most rows of the dense forms.
CHUNK, DENSE_ROWS = 2048, 32768
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def views(n: int, d: int, dtype: str, device: str) -> list[torch.Tensor]:
    """Two views of `n` samples that ask for gradients."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(n, d, generator=generator, device=device)
    y = x + 0.5 * torch.randn(n, d, generator=generator, device=device)
    return [v.to(DTYPES[dtype]).requires_grad_() for v in (x, y)]


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


def guarded(measure: Callable[[], Row]) -> Row:
    """The row of a measurement, or the reason why there is none."""
    try:
        return measure()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device != "cpu":
        torch.cuda.synchronize()


def milliseconds(call: Callable[[], object], device: str, repeats: int) -> float:
    """Median time of a call, after two to warm up and compile."""
    times = []
    for turn in range(repeats + 2):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        if turn >= 2:
            times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def matrix_rate(device: str, dtype: str) -> float:
    """Tflop/s of one large product in the dtype: what the loss is measured against."""
    n = 8192 if device != "cpu" else 512
    a, b = (v.detach() for v in views(n, n, dtype, device))
    with precision(dtype):
        return 2e-9 * n**3 / milliseconds(lambda: a @ b, device, 10)


def options(negatives: str, implementation: str) -> Loss:
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
    made = {name: lambda name=name: options(negatives, name.split("_")[0]) for name in own}
    if n <= DENSE_ROWS:
        made["compiled_dense"] = lambda: torch.compile(options(negatives, "dense"))
    if negatives == "cross":
        made["compiled_chunks"] = chunks
    return made


def speed(
    name: str, make: Callable[[], Loss], n: int, d: int, dtype: str, negatives: str, device: str,
    rate: float, repeats: int,
) -> Row:  # fmt: skip
    """Time of the loss with its gradients, fraction of the matrix rate, extra memory, and value."""
    x, y = views(n, d, dtype, device)
    loss = make()

    def step() -> None:
        x.grad = y.grad = None
        loss(x, y).backward()

    with precision(dtype, name == "kernel_deterministic"):
        if device != "cpu":
            step()  # what the first call compiles and allocates is not counted
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            step()
            torch.cuda.synchronize()
        row: Row = {"ms": round(milliseconds(step, device, repeats), 3)}
    flops = FLOPS[negatives] * n**2 * d
    with torch.no_grad(), precision(dtype):
        row["value"] = round(loss(x, y).item(), 5)  # of all losses of a case the same
    row["fraction_of_rate"] = round(1e-9 * flops / float(row["ms"]) / rate, 4)
    if device != "cpu":
        # The gradients of the step before are among what is held, as the inputs are.
        row["extra_mib"] = round((torch.cuda.max_memory_allocated() - held) / 2**20, 1)
    return row


def cases(device: str) -> Iterator[tuple[int, int, str, str, list[str] | None, int]]:
    """Rows, width, dtype, negatives, names (None: all), and repetitions."""
    if device == "cpu":
        for dtype in ("float32", "bfloat16"):
            yield 300, 32, dtype, "cross", None, 1
        yield 300, 32, "bfloat16", "anchor", ["kernel"], 1
        return
    for n, d in ((512, 128), (1024, 128), (8192, 128), (8192, 512), (32768, 128), (65536, 128),
                 (65536, 512)):  # fmt: skip
        for dtype in ("bfloat16", "float16", "tf32", "float32") if n < 65536 else ("bfloat16",):
            for negatives in FLOPS:
                yield n, d, dtype, negatives, None, 10 if n < 32768 else 3
    for dtype in ("bfloat16", "float32"):
        yield 1 << 20, 128, dtype, "anchor", ["kernel"], 1


def speeds(device: str) -> Iterator[Row]:
    """A row for each case and loss; every one is there, whatever happens to the others."""
    rates: dict[str, float] = {}
    for n, d, dtype, negatives, only, repeats in cases(device):
        if dtype not in rates:
            rates[dtype] = matrix_rate(device, dtype)
        for name, make in losses(n, negatives).items():
            if only is None or name in only:
                what: Row = {"loss": name, "n": n, "d": d, "dtype": dtype, "negatives": negatives}
                what["rate_tflops"] = round(rates[dtype], 2)
                run = (name, make, n, d, dtype, negatives, device, rates[dtype], repeats)
                yield what | guarded(lambda run=run: speed(*run))
