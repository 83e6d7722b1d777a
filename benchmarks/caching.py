"""`python -m benchmarks.caching`: gradient caching beside one large batch, in PyTorch and JAX.

A small vision transformer without dropout embeds two views of CIFAR-sized images, and JS-MICL with
`negatives="all"` is differentiated in its weights: of the whole batch in one pass, by `cached_loss`
in mini-batches, and of a batch with as many images as a mini-batch. Times are seconds of the
processor, taken in turn in one process; memory is what the peak of the resident set rises in a
step, each in a process of its own whose allocator returns at once what is freed.

    python -m benchmarks.caching torch --n 256 --mini-batch 32
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.__main__ import show, write
from benchmarks.memory import peak_of_second_run
from benchmarks.timing import Row, median_ratio

#: Sizes of the transformer: width of a head, of which there are 6, depth and side of a patch.
WIDTH, DEPTH, PATCH = 16, 4, 4
LOSS: dict[str, Any] = {"divergence": "js", "negatives": "all", "implementation": "tiled"}
WAYS = ("whole", "cached", "mini_batch")
Array = NDArray[Any]
#: The gradient in the weights, in NumPy.
Step = Callable[[], Array]


def images(n: int) -> Array:
    """Two views of n images, (2, n, 3, 32, 32)."""
    return np.random.default_rng(0).normal(size=(2, n, 3, 32, 32)).astype(np.float32)


def torch_step(way: str, n: int, size: int) -> Step:
    """A step of PyTorch."""
    import torch

    from fmicl_lightning.vit import ViT
    from fmicl_torch import cached_loss, fmicl_loss

    torch.manual_seed(0)
    encoder = ViT(3, WIDTH, DEPTH, PATCH)
    views = torch.from_numpy(images(n))
    if way == "mini_batch":
        views = views[:, : size // 2].clone()

    def step() -> Array:
        if way == "cached":
            loss = cached_loss(fmicl_loss, encoder, *views, mini_batch_size=size, **LOSS)
        else:
            loss = fmicl_loss(encoder(views[0]), encoder(views[1]), **LOSS)
        parameters = list(encoder.parameters())
        grads = torch.autograd.grad(loss, parameters)
        return torch.cat([grad.flatten() for grad in grads]).numpy()

    return step


def jax_step(way: str, n: int, size: int) -> Step:
    """A step of JAX, compiled."""
    import jax
    from flax import nnx
    from jax.flatten_util import ravel_pytree

    from fmicl_flax.vit import ViT
    from fmicl_jax import cached_loss, fmicl_loss

    graph, params, rest = nnx.split(ViT(3, WIDTH, DEPTH, PATCH, rngs=nnx.Rngs(0)), nnx.Param, ...)
    views = jax.numpy.asarray(images(n).transpose(0, 1, 3, 4, 2))
    if way == "mini_batch":
        views = views[:, : size // 2]

    def encode(params: Any, x: Any) -> Any:
        return nnx.merge(graph, params, rest)(x)

    def of(params: Any, x: Any, y: Any) -> Any:
        if way == "cached":
            return cached_loss(fmicl_loss, encode, params, x, y, mini_batch_size=size, **LOSS)
        return fmicl_loss(encode(params, x), encode(params, y), **LOSS)

    gradient = jax.jit(jax.grad(of))
    return lambda: np.asarray(ravel_pytree(gradient(params, *views))[0])


STEPS = {"torch": torch_step, "jax": jax_step}


def measure(framework: str, n: int, size: int, repeats: int) -> Row:
    """Times, memory, and how far the gradient by caching is from that of one pass."""
    steps = {way: STEPS[framework](way, n, size) for way in WAYS}
    whole, cached = (steps[way]().astype(np.float64) for way in WAYS[:2])
    error = np.linalg.norm(cached - whole) / np.linalg.norm(whole)
    times: dict[str, list[float]] = {way: [] for way in WAYS[:2]}
    for way in WAYS[:2] * repeats:
        times[way].append(_cpu_seconds(steps[way]))
    row: Row = {"framework": framework, "n": n, "mini_batch": size}
    row |= {f"{way}_cpu_s": round(min(t), 3) for way, t in times.items()}
    row["time_ratio"] = median_ratio(times, "cached", "whole")
    row |= {f"{way}_mib": _mib(framework, way, n, size) for way in WAYS}
    return row | {"gradient_error": f"{error:.1e}"}


def _cpu_seconds(step: Step) -> float:
    """Time that a step takes of the processor, whoever else uses it."""
    start = time.process_time()
    step()
    return time.process_time() - start


def _mib(framework: str, way: str, n: int, size: int) -> float:
    """What a step takes at its peak, in MiB, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.caching", framework, "--probe", way]
    command += ["--n", str(n), "--mini-batch", str(size)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    output = subprocess.check_output(command, text=True, env=environment)
    return round(int(output.split()[-1]) / 2**20, 1)


def main() -> None:
    """Measure, print, and write benchmarks/results/caching_cpu.csv."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.caching", description=__doc__)
    parser.add_argument("frameworks", nargs="*", default=list(STEPS), help="default: all")
    parser.add_argument("--n", type=int, default=128, help="samples of the batch, of two views")
    parser.add_argument("--mini-batch", type=int, default=16, help="images embedded at a time")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions, timed in turn")
    parser.add_argument("--probe", choices=WAYS, help="print the bytes of one way, and end")
    options = parser.parse_args()
    size = options.n, options.mini_batch
    if options.probe:
        print(peak_of_second_run(STEPS[options.frameworks[0]](options.probe, *size))[0])
        return
    rows = [show(measure(name, *size, options.repeats)) for name in options.frameworks]
    write("caching_cpu.csv", rows, ("torch", "jax", "flax"))


if __name__ == "__main__":
    main()
