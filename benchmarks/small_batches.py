"""`python -m benchmarks.small_batches`: small batches beside losses of the same pairs by hand.

Loss and gradient, float32, of two views of N rows. A plain loss is what one writes by hand: masked
scores and a cross entropy. PyTorch's are eager, since most of its code is, and compiled;
JAX's and TensorFlow's are compiled as ours are. All are timed in turn, and ratios are medians over
the turns: below 1 ours is faster. Written to benchmarks/results/xeon/small_batches.csv.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

from benchmarks.__main__ import show, write
from benchmarks.steps import STEPS, STEPS_OF
from benchmarks.timing import Row, interleaved, median_ratio, medians
from fmicl_core.family import FAMILY_DEFAULTS
from fmicl_core.pairs import NEGATIVES

TEMPERATURE, CLIP, SIGLIP = 0.5, FAMILY_DEFAULTS.clip_scale, FAMILY_DEFAULTS.siglip_scale
Loss = Callable[[Any, Any], Any]


def plain_torch(name: str) -> Loss:
    """A loss written by hand in PyTorch: "clip", "siglip", or InfoNCE by its negatives."""
    import torch
    import torch.nn.functional as F

    def every(x: Any, y: Any) -> Any:
        z = F.normalize(torch.cat([x, y]))
        s = (z @ z.T / TEMPERATURE).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
        return F.cross_entropy(s, (torch.arange(len(z)) + len(x)) % len(z))

    def cross(x: Any, y: Any, scale: float = 1.0 / TEMPERATURE) -> Any:
        return F.cross_entropy(F.normalize(x) @ F.normalize(y).T * scale, torch.arange(len(x)))

    def anchor(x: Any, y: Any) -> Any:
        x, y = F.normalize(x), F.normalize(y)
        s = (x @ x.T).masked_fill(torch.eye(len(x), dtype=torch.bool), -torch.inf)
        s = torch.cat([(x * y).sum(dim=1, keepdim=True), s], dim=1) / TEMPERATURE
        return F.cross_entropy(s, torch.zeros(len(x), dtype=torch.long))

    def clip(x: Any, y: Any) -> Any:
        s, own = CLIP * F.normalize(x) @ F.normalize(y).T, torch.arange(len(x))
        return (F.cross_entropy(s, own) + F.cross_entropy(s.T, own)) / 2

    def siglip(x: Any, y: Any) -> Any:
        s = SIGLIP * F.normalize(x) @ F.normalize(y).T - 10.0
        return -F.logsigmoid((2 * torch.eye(len(x)) - 1) * s).sum() / len(x)

    within = lambda x, y: (anchor(x, y) + anchor(y, x)) / 2  # noqa: E731
    return {"all": every, "cross": cross, "anchor": anchor, "within": within, "clip": clip,
            "siglip": siglip}[name]  # fmt: skip


def functions_of(framework: str) -> SimpleNamespace:
    """What `plain_compiled` is written in, of JAX or TensorFlow."""
    if framework == "jax":
        import jax
        import jax.numpy as jnp

        return SimpleNamespace(
            unit=lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True), eye=jnp.eye,
            concat=partial(jnp.concatenate, axis=0), lse=partial(jax.nn.logsumexp, axis=1),
            softplus=jax.nn.softplus, sum=jnp.sum, diagonal=jnp.diagonal, shift=jnp.roll,
            transpose=jnp.transpose,
        )  # fmt: skip
    import tensorflow as tf

    return SimpleNamespace(
        unit=partial(tf.math.l2_normalize, axis=1), eye=tf.eye, concat=partial(tf.concat, axis=0),
        lse=partial(tf.reduce_logsumexp, axis=1), softplus=tf.nn.softplus, sum=tf.reduce_sum,
        diagonal=tf.linalg.diag_part, transpose=tf.transpose,
        shift=lambda z, n: tf.roll(z, n, axis=0),
    )  # fmt: skip


def plain_compiled(framework: str, name: str) -> Loss:
    """The same by hand in JAX or TensorFlow, to be compiled."""
    f = functions_of(framework)

    def softmax(s: Any, positive: Any) -> Any:
        return f.sum(f.lse(s) - positive) / len(s)

    def square(z: Any, partners: Any) -> Any:
        s = z @ f.transpose(z) / TEMPERATURE - 1e9 * f.eye(len(z))
        positive = f.sum(z * partners, 1) / TEMPERATURE
        return s, positive

    def loss(x: Any, y: Any) -> Any:
        x, y = f.unit(x), f.unit(y)
        if name == "all":
            z = f.concat([x, y])
            return softmax(*square(z, f.concat([y, x])))
        if name in ("anchor", "within"):
            found = []
            for a, b in ((x, y), (y, x))[: 1 + (name == "within")]:
                s, positive = square(a, b)
                found.append(f.sum(f.softplus(f.lse(s) - positive)) / len(a))
            return sum(found) / len(found)
        s = x @ f.transpose(y)
        if name == "siglip":
            return f.sum(f.softplus((1 - 2 * f.eye(len(x))) * (SIGLIP * s - 10.0))) / len(x)
        s = s * (CLIP if name == "clip" else 1.0 / TEMPERATURE)
        one = softmax(s, f.diagonal(s))
        return one if name == "cross" else (one + softmax(f.transpose(s), f.diagonal(s))) / 2

    return loss


def ours(name: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Names of our losses of these pairs, and how each is called."""
    if name not in NEGATIVES:
        return {name: (f"{name}_loss", {})}
    options: dict[str, dict[str, Any]] = {"info_nce": {"temperature": TEMPERATURE}}
    options |= {divergence: {"divergence": divergence} for divergence in ("kl", "js")}
    return {
        k: ("info_nce_loss" if k == "info_nce" else "fmicl_loss", {"negatives": name} | v)
        for k, v in options.items()
    }


def compare(framework: str, name: str, n: int, d: int, repeats: int) -> list[Row]:
    """A row for each of our losses of these pairs."""
    step = partial(STEPS_OF[framework], n=n, d=d)
    if framework == "torch":
        import torch

        plain = plain_torch(name)
        compiled = torch.compile(plain_torch(name), dynamic=False)
        calls = {"plain": step(plain), "compiled": step(compiled)}
    else:
        calls = {"plain": step(plain_compiled(framework, name))}
    for own, (loss, options) in ours(name).items():
        calls[own] = STEPS[framework](n, d, loss, **options)
    times = interleaved(calls, repeats, row=0.005)
    found = medians({k: [1e6 * t for t in v] for k, v in times.items()})
    rows: list[Row] = []
    for own in ours(name):
        row: Row = {"framework": framework, "pairs": name, "n": n, "d": d, "loss": own}
        row |= {f"{k}_us": round(float(found[f"{v}_s"])) for k, v in
                (("ours", own), ("plain", "plain"))}  # fmt: skip
        row["over_plain"] = median_ratio(times, own, "plain")
        timed = "compiled" in times
        row["compiled_us"] = round(float(found["compiled_s"])) if timed else ""
        row["over_compiled"] = median_ratio(times, own, "compiled") if timed else ""
        rows.append(show(row))
    return rows


def main() -> None:
    """Measure, print and write the table."""
    installed = [name for name in STEPS if importlib.util.find_spec(name)]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_batches", description=__doc__)
    parser.add_argument("frameworks", nargs="*", help=f"default: {' '.join(installed)}")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--pairs", nargs="+", default=[*NEGATIVES, "clip", "siglip"])
    parser.add_argument("--d", type=int, default=128, help="width of the features")
    parser.add_argument("--repeats", type=int, default=31, help="turns")
    parser.add_argument("--dry", action="store_true", help="write no file")
    options = parser.parse_args()
    rows = [
        row
        for framework in options.frameworks or installed
        for name in options.pairs
        for n in options.sizes
        for row in compare(framework, name, n, options.d, options.repeats)
    ]
    if not options.dry:
        write(os.path.join("xeon", "small_batches.csv"), rows, ("torch", "jax", "tensorflow"))


if __name__ == "__main__":
    main()
