"""Batch norm over parts of a batch, each with statistics of its own, at the cost of one pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


def has_batch_norm(method: nnx.Module) -> bool:
    """Whether a batch norm is among a method's modules."""
    return any(isinstance(module, nnx.BatchNorm) for _, module in nnx.iter_modules(method))


def in_parts(encoder: nnx.Module, head: nnx.Module, images: jax.Array, parts: int) -> jax.Array:
    """head(encoder(images)), part by part; running statistics move once, by the mean of the parts.

    Equal parts are one `jax.vmap`, in which convolutions see the whole batch and batch norms a
    part. Where N is no multiple of `parts`, the first parts are longer by one.

    Args:
        encoder: module from images (N, H, W, C) to features (N, F).
        head: module from features in float32 to projections (N, d).
        images: images of all parts, in order.
        parts: number of parts, at most N.
    """
    if parts == 1:
        return head(encoder(images).astype(jnp.float32))
    networks = (encoder, head)
    graph, *states = nnx.split(networks, nnx.Param, ...)

    def one(part: jax.Array) -> tuple[jax.Array, nnx.State]:
        encoder, head = nnx.merge(graph, *states, copy=True)
        out = head(encoder(part).astype(jnp.float32))
        return out, nnx.state((encoder, head), nnx.Not(nnx.Param))

    short, longer = divmod(len(images), parts)
    cut = longer * (short + 1)
    outputs, moved = [], []
    for group, count in ((images[:cut], longer), (images[cut:], parts - longer)):
        if count:
            out, state = jax.vmap(one)(group.reshape(count, -1, *images.shape[1:]))
            outputs.append(out.reshape(len(group), -1))
            moved.append(state)
    mean = jax.tree.map(lambda *s: jnp.concatenate(s).mean(axis=0).astype(s[0].dtype), *moved)
    nnx.update(networks, mean)
    return jnp.concatenate(outputs)
