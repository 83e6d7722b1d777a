"""A batch in parts, each with batch statistics of its own, at the cost of one pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


def has_batch_norm(network: nnx.Module) -> bool:
    """Whether a batch norm is among a network's modules."""
    return any(isinstance(module, nnx.BatchNorm) for _, module in nnx.iter_modules(network))


def in_parts(network: nnx.Module, images: jax.Array, parts: int) -> jax.Array:
    """network(images) in float32, part by part; running statistics move by the parts' mean.

    Equal parts are one `jax.vmap`, in which convolutions see the whole batch and batch norms a
    part. Where N is no multiple of `parts`, the first ones are longer by one.

    Args:
        network: from images (N, H, W, C) to features (N, F).
        images: of all parts, in order.
        parts: number of parts, at most N.
    """
    if parts == 1:
        return network(images).astype(jnp.float32)
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)

    def one(part: jax.Array) -> tuple[jax.Array, nnx.State]:
        copy = nnx.merge(graphdef, params, rest, copy=True)
        return copy(part).astype(jnp.float32), nnx.state(copy, nnx.Not(nnx.Param))

    short, longer = divmod(len(images), parts)
    cut = longer * (short + 1)
    outputs, moved = [], []
    for group, count in ((images[:cut], longer), (images[cut:], parts - longer)):
        if count:
            out, state = jax.vmap(one)(group.reshape(count, -1, *images.shape[1:]))
            outputs.append(out.reshape(len(group), -1))
            moved.append(state)
    mean = jax.tree.map(lambda *s: jnp.concatenate(s).mean(axis=0).astype(s[0].dtype), *moved)
    nnx.update(network, mean)
    return jnp.concatenate(outputs)
