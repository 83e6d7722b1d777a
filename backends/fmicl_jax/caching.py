"""Gradient caching: the loss of a batch whose activations would not fit in memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fmicl_core.caching import batch_norms, check_encoded, each_encoder, samples_of
from fmicl_core.checks import check_at_least
from fmicl_jax.gradients import checked_scalar

#: Parameters and the inputs of one view to features (n, D).
Encoder = Callable[[Any, Any], jax.Array]


def cached_loss(
    loss: Callable[..., jax.Array],
    encode: Encoder | Sequence[Encoder],
    params: Any,
    *inputs: Any,
    mini_batch_size: int,
    **options: Any,
) -> jax.Array:
    """The loss of a batch that is embedded in mini-batches, of which one is in memory at a time.

    It is `loss(*(encode(params, part) for part in inputs), **options)` with its gradients, in the
    memory of a mini-batch under `jax.jit`: embedding keeps features alone, and the backward pass
    embeds every mini-batch again to carry its gradient on. That second forward pass is the price, a
    third of a step's time. The loss is of the whole batch, unlike that of accumulated gradients:

        def of(params):  # Linen: encode = model.apply
            return cached_loss(fmicl_loss, encode, params, x, y, mini_batch_size=64)

        loss, grads = jax.jit(jax.value_and_grad(of))(params)

    A module of nnx is split once, and put together again by its encoder; random keys are part of
    the inputs, one for each sample, so that dropout draws the same again:

        graph, params, rest = nnx.split(model, nnx.Param, ...)
        encode = lambda params, x: nnx.merge(graph, params, rest)(x)

    Args:
        loss: function or object that returns a scalar: a loss of this package, or one's own.
        encode: encoder, a function of the parameters and the inputs of a view to features (n, D);
            or a tuple of one encoder for each input, as for two towers.
        params: parameters, a tree of arrays, which every encoder is given.
        inputs: inputs of each view: an array, or a tree of arrays, in all of which samples are
            along the first axis. A single one goes with `ids`.
        mini_batch_size: number of samples of one input that are embedded at a time; the last
            mini-batch may be smaller, and is compiled for itself.
        options: options of the loss by name, such as `divergence`, `bank`, `ids`, `axis_name`.

    Returns:
        Scalar to minimise.

    Dtypes:
        Features have the dtype that the encoder returns, the loss has the one that `loss` gives it.
        A gradient has the dtype of its argument.

    Derivatives:
        In reverse and forward mode, under `jax.jit` too: of the orders that `loss` has, in the
        parameters, the inputs and the options.

    Raises:
        ValueError: parameters, or what an encoder reads beside them, hold statistics of batch norm
            in training mode, which would be those of a mini-batch; an encoder returns something
            else than features; inputs are not alike.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fmicl_jax import cached_loss, fmicl_loss
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = jnp.array([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> encode = lambda params, inputs: jnp.tanh(inputs @ params)
        >>> params = jnp.array([[1.0, 0.5], [-0.5, 1.0]])
        >>> round(float(cached_loss(fmicl_loss, encode, params, x, y, mini_batch_size=2)), 4)
        3.0792
        >>> round(float(fmicl_loss(encode(params, x), encode(params, y))), 4)
        3.0792

    Source: Gao et al. (2021), GradCache; mini-batches are checkpoints of Chen et al. (2016).
    """
    size = check_at_least("mini_batch_size", mini_batch_size, 1)
    encoders = each_encoder(encode, len(inputs))
    for encoder in dict.fromkeys(encoders):
        _refuse_batch_norm(encoder, params)
    given = zip(encoders, inputs, strict=True)
    features = (_features(partial(encoder, params), part, size) for encoder, part in given)
    return checked_scalar(loss(*features, **options))


def _features(encode: Callable[[Any], jax.Array], inputs: Any, size: int) -> jax.Array:
    """The features (N, D) of a view, whose backward pass embeds it again."""
    samples = samples_of([jnp.shape(leaf) for leaf in jax.tree.leaves(inputs)])
    # Inside of the loop nothing is shared with the forward pass, whatever XLA would like.
    embed = jax.checkpoint(partial(_embed, encode), prevent_cse=False)
    parts, whole = [], samples - samples % size
    if whole:
        batches = jax.tree.map(lambda leaf: _folded(leaf[:whole], size), inputs)
        parts.append(jax.lax.map(embed, batches).reshape(whole, -1))
    if whole < samples:
        rest = jax.tree.map(lambda leaf: leaf[whole:], inputs)
        parts.append(jax.checkpoint(partial(_embed, encode))(rest))
    return jnp.concatenate(parts)


def _folded(rows: jax.Array, size: int) -> jax.Array:
    """Rows as mini-batches, (batches, size, ...)."""
    return rows.reshape(-1, size, *rows.shape[1:])


def _embed(encode: Callable[[Any], jax.Array], inputs: Any) -> jax.Array:
    """The features of some samples."""
    features = encode(inputs)
    shape = features.shape if isinstance(features, jax.Array) else None
    check_encoded(shape, type(features).__name__, len(jax.tree.leaves(inputs)[0]))
    return features


def _refuse_batch_norm(encode: Encoder, params: Any) -> None:
    """Raise where there are statistics of Flax's batch norms: Linen's collection, nnx's type."""
    read = _read_by(encode)
    flags = [flag for value in read.values() for flag in _use_running_average(value)]
    frozen = bool(flags) and all(flags)
    for argument, held in (("params", params), ("encode", None if frozen else read)):
        found = [
            f"`{jax.tree_util.keystr(path)}` ({type(leaf).__name__})"
            for path, leaf in jax.tree_util.tree_leaves_with_path(held, is_leaf=_is_statistic)
            if _is_statistic(leaf) or any(getattr(at, "key", "") == "batch_stats" for at in path)
        ]
        if found:
            raise batch_norms(argument, found)


def _read_by(encode: Any) -> dict[str, Any]:
    """What an encoder reads beside its arguments, by name."""
    if isinstance(encode, partial):
        given = {str(place): value for place, value in enumerate(encode.args)} | encode.keywords
        return _read_by(encode.func) | given
    if inspect.ismethod(encode):
        return {"self": encode.__self__}
    if not inspect.isfunction(encode):
        return {"": encode}
    found, arguments = inspect.getclosurevars(encode), inspect.signature(encode).parameters
    defaults = {k: a.default for k, a in arguments.items() if a.default is not a.empty}
    return {**found.globals, **found.nonlocals, **defaults}


def _use_running_average(value: Any) -> Iterator[bool]:
    """Whether the batch norms of an nnx module, or of its graph, take their running statistics."""
    for name, flag in getattr(value, "attributes", None) or ():
        if name == "use_running_average":
            yield bool(flag.value)
    for path, leaf in jax.tree_util.tree_leaves_with_path(value, is_leaf=_is_statistic):
        norm = value
        for at in path[:-1]:
            listed = isinstance(at, jax.tree_util.SequenceKey)
            norm = norm[at.idx] if listed else getattr(norm, getattr(at, "name", ""), None)
        if _is_statistic(leaf) and hasattr(norm, "use_running_average"):
            yield bool(norm.use_running_average)


def _is_statistic(leaf: Any) -> bool:
    """Whether it is a `flax.nnx.BatchStat`; Flax itself need not be there."""
    return any(kind.__name__ == "BatchStat" for kind in type(leaf).__mro__)
