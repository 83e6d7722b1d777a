"""Batch norm over parts of a batch, each with statistics of its own, at the cost of one pass."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def has_batch_norm(method: nnx.Module) -> bool:
    """Whether a batch norm is among a method's modules."""
    return any(isinstance(module, nnx.BatchNorm) for _, module in nnx.iter_modules(method))


def in_parts(
    encoder: nnx.Module, head: nnx.Module, images: jax.Array, parts: int, dtype: Any = jnp.float32
) -> jax.Array:
    """head(encoder(images)), part by part; running statistics move by one part after the other.

    Equal parts are one `jax.vmap`, in which convolutions see the whole batch and batch norms a
    part. Where N is no multiple of `parts`, the first parts are longer by one.

    Args:
        encoder: module from images (N, H, W, C) to features (N, F).
        head: module from features in `dtype` to projections (N, d).
        images: images of all parts, in order.
        parts: number of parts, at most N.
        dtype: dtype of the head.
    """
    if parts == 1:
        return head(encoder(images).astype(dtype))
    networks = (encoder, head)
    graph, *states = nnx.split(networks, nnx.Param, ...)

    def one(part: jax.Array) -> tuple[jax.Array, nnx.State]:
        encoder, head = nnx.merge(graph, *states, copy=True)
        out = head(encoder(part).astype(dtype))
        return out, nnx.state((encoder, head), nnx.Not(nnx.Param))

    short, longer = divmod(len(images), parts)
    cut = longer * (short + 1)
    outputs, moved = [], []
    for group, count in ((images[:cut], longer), (images[cut:], parts - longer)):
        if count:
            out, state = jax.vmap(one)(group.reshape(count, -1, *images.shape[1:]))
            outputs.append(out.reshape(len(group), -1))
            moved.append(state)
    every = jax.tree.map(lambda *s: jnp.concatenate(s), *moved)
    nnx.update(networks, _one_after_the_other(networks, every, parts))
    return jnp.concatenate(outputs)


def _one_after_the_other(networks: Any, moved: nnx.State, parts: int) -> nnx.State:
    """The state after all parts, of the states that every part alone moved it to.

    A running statistic r that a part alone moves from r0 to m r0 + (1 - m) s moves from r to
    m r + (1 - m) s. Of any other variable the last part's value stays.
    """
    momenta = {
        path: module.momentum
        for path, module in nnx.iter_modules(networks)
        if isinstance(module, nnx.BatchNorm)
    }
    every = dict(nnx.to_flat_state(moved))
    state = nnx.state(networks, nnx.Not(nnx.Param))
    for path, variable in nnx.to_flat_state(state):
        start, each = variable.get_value(), every[path].get_value()
        value, momentum = each[-1], momenta.get(path[:-1])
        if momentum is not None:
            value = start
            for part in range(parts):
                value = each[part] + momentum * (value - start)
        variable.set_value(value.astype(start.dtype))
    return state
