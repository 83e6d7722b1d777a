"""The PyTorch losses on a GPU: values, time and memory, beside baselines under torch.compile."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch._inductor import config as inductor

import fmicl_torch
from benchmarks.gpu.cases import (
    Check,
    Result,
    Speed,
    Tune,
    call_of,
    ids_of,
    is_single,
    scalars_of,
    tile_rows,
)
from benchmarks.gpu.plain_torch import plain_loss
from benchmarks.gpu.tuning import replaced_tiles
from benchmarks.timing import Row, milliseconds
from fmicl_torch import fused

Arguments = dict[str, torch.Tensor]
Loss = Callable[..., torch.Tensor]
#: Features among the arguments, in the order in which they are compared.
FEATURES = ("x", "y", "bank")
#: Clocks, about 10 ms, that the GPU waits while Python queues a loss, and most rows of a loss of
#: which Python takes a good part of the time.
WAIT, QUEUED_ROWS = 20_000_000, 16384
#: Rows with which tiles are compiled.
WARM_ROWS = 8192


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
    """Two views of `n` samples."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(n, d, generator=generator, device=device)
    y = x + 0.5 * torch.randn(n, d, generator=generator, device=device)
    return [v.to(kind_of(dtype)) for v in (x, y)]


def arguments(case: Check | Speed, device: str) -> Arguments:
    """What the loss of a case takes, by name; features and scalars that learn ask for gradients."""
    x, y = views(case.n, case.d, case.dtype, device)
    given = {"x": x} if is_single(case) else {"x": x, "y": y}
    if case.bank:
        generator = torch.Generator(device).manual_seed(1)
        bank = torch.randn(case.bank_rows, case.d, generator=generator, device=device)
        given["bank"] = bank.to(kind_of(case.dtype))
    if case.scalars == "learned":
        given |= {k: torch.tensor(v, device=device) for k, v in scalars_of(case).items()}
    for name, value in given.items():  # a queue, which is what a bank is, has no gradient
        value.requires_grad_(name != "bank" or isinstance(case, Check))
    return given | {k: torch.from_numpy(v).to(device) for k, v in ids_of(case).items()}


def own_loss(case: Check | Speed, **more: object) -> Loss:
    """The loss of this library, of what `arguments` gives."""
    name, options = call_of(case)
    function, options = getattr(fmicl_torch, name), options | more
    return lambda x, y=None, **given: function(x, y, **given, **options)


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


def result(case: Check, device: str) -> Result:
    """The loss and, unless the value alone is asked for, its gradients."""
    given = arguments(case, device)
    leaves = {} if case.form == "fused_value" else asking(given)
    with precision(case.dtype, case.form), torch.set_grad_enabled(bool(leaves)):
        loss = own_loss(case)(**given)
        found = torch.autograd.grad(loss, list(leaves.values())) if leaves else ()
    gradients = dict(zip(leaves, found, strict=True))

    def arrays(of: Arguments) -> tuple[np.ndarray, ...]:
        chosen = (of[name] for name in FEATURES if name in of)
        return tuple(v.detach().double().cpu().numpy() for v in chosen)

    slopes = tuple(gradients[k].item() for k in scalars_of(case) if k in gradients)
    return Result(arrays(given), loss.item(), arrays(gradients), slopes)


def asking(given: Arguments) -> Arguments:
    """Those that ask for a gradient."""
    return {name: value for name, value in given.items() if value.requires_grad}


def waiting(call: Callable[[], object], device: str) -> Callable[[], None]:
    """The call, until the device is done."""

    def run() -> None:
        call()
        if device != "cpu":
            torch.cuda.synchronize()

    return run


def device_milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Median time that the GPU needs, without Python's: it waits until all work is in its queue."""
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(WAIT)
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def matrix_rate(dtype: str, device: str) -> float:
    """Tflop/s of one large product in the dtype: what the loss is measured against."""
    n = 8192 if device != "cpu" else 256
    a, b = views(n, n, dtype, device)
    with precision(dtype, ""):
        return 2e-9 * n**3 / milliseconds(waiting(lambda: a @ b, device), 10)


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


def step_of(case: Speed, given: Arguments) -> Callable[[], torch.Tensor]:
    """What is timed: a loss with its gradients, or products alone. It returns the loss, or those.

    What was compiled for another size is forgotten, so that no size is taken for a variable one.
    """
    torch.compiler.reset()
    if case.form.startswith("products"):
        rows = case.n if case.form == "products" else tile_rows(case.n)
        a, b = (F.normalize(given[name].detach(), dim=1) for name in ("x", "y"))
        return lambda: products(a, b, case.negatives, rows)
    checked = {} if case.loss in ("clip", "info_nce") else {"check_finite": False}
    plain = case.form.startswith(("eager", "compiled"))
    loss = plain_loss(case) if plain else own_loss(case, **checked)
    leaves = asking(given).values()

    def step() -> torch.Tensor:
        for leaf in leaves:
            leaf.grad = None
        value = loss(**given)
        value.backward()
        return value.detach()

    return step


@contextmanager
def tiles_of(case: Speed | Tune) -> Iterator[list[tuple[int, ...]]]:
    """The tiles of a case to be tuned in place of the library's; those that were taken."""
    with replaced_tiles(fused, case.tiles if isinstance(case, Tune) else {}) as taken:
        yield taken


def warm(case: Speed | Tune, device: str) -> None:
    """Have what the case needs compiled, for all processes."""
    with tiles_of(case):
        if isinstance(case, Tune):  # compiled for any number of rows
            case = case._replace(n=min(case.n, WARM_ROWS)).speed
        with precision(case.dtype, case.form):
            waiting(step_of(case, arguments(case, device)), device)()
    forget(device)


def forget(device: str) -> None:
    """Give memory back, which other processes need."""
    if device != "cpu":
        torch.cuda.empty_cache()


def tune(case: Tune, device: str) -> Row:
    """Time with the given tiles, the tiles, and what tells whether the loss is still the same."""
    with tiles_of(case) as taken:
        forget(device)
        given = arguments(case.speed, device)
        step = step_of(case.speed, given)
        with precision(case.dtype, case.form):
            value = step().item()
            length = given["x"].grad.float().norm().item()
            if device == "cpu":
                ms = milliseconds(step, case.repeats, untimed=1)
            else:
                ms = device_milliseconds(step, case.repeats)
    forget(device)
    row: Row = {"ms": round(ms, 4), "tiles": case.taken(taken)}
    return row | {"value": round(value, 5), "gradient": float(f"{length:.5g}")}


def speed(case: Speed, device: str) -> Row:
    """Time of the loss with its gradients, extra memory, and value."""
    forget(device)
    step = step_of(case, arguments(case, device))
    run = waiting(step, device)
    row: Row = {}
    with precision(case.dtype, case.form):
        value = step()  # what the first call compiles and allocates is not counted
        if value.dim() == 0:
            row["value"] = round(value.item(), 5)  # of all forms the same but for rounding
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
        if device != "cpu" and case.n <= QUEUED_ROWS:
            row["device_ms"] = round(device_milliseconds(step, case.repeats), 3)
    forget(device)
    return row
