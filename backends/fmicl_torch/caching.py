"""Gradient caching: the loss of a batch whose activations would not fit in memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from fmicl_core.caching import batch_norms, check_encoded, each_encoder, samples_of
from fmicl_core.checks import check_at_least
from fmicl_torch.gradients import checked_scalar

#: Inputs of one view to features (n, D).
Encoder = Callable[[Any], torch.Tensor]


def cached_loss(
    loss: Callable[..., torch.Tensor],
    encode: Encoder | Sequence[Encoder],
    *inputs: Any,
    mini_batch_size: int,
    **options: Any,
) -> torch.Tensor:
    """The loss of a batch that is embedded in mini-batches, of which one is in memory at a time.

    It is `loss(*(encode(part) for part in inputs), **options)` with its gradients, in the memory of
    a mini-batch: embedding keeps features alone, and `backward()` embeds every mini-batch again to
    carry its gradient on. That second forward pass is the price, a third of a step's time. The
    loss is of the whole batch, unlike that of accumulated gradients:

        loss = cached_loss(fmicl_loss, encoder, x, y, mini_batch_size=64, divergence="js")
        loss.backward()

    Dropout draws the same numbers again, autocast is as it was, and all that learns has its
    gradient, the parameters of the loss included. Under DistributedDataParallel gradients are
    synchronised once, whether it wraps the encoder or the module that calls this.

    Args:
        loss: function or object that returns a scalar: a loss of this package, or one's own.
        encode: encoder, a module or a function from the inputs of a view to features (n, D); or a
            tuple of one encoder for each input, as for two towers.
        inputs: inputs of each view: a tensor, or a dictionary, tuple or list that holds tensors, in
            all of which samples are along the first axis. A single one goes with `ids`. They are on
            the device of the encoder, whose random state is kept.
        mini_batch_size: number of samples of one input that are embedded at a time.
        options: options of the loss by name, such as `divergence`, `bank`, `ids`, `distributed`.

    Returns:
        Scalar to minimise.

    Dtypes:
        Features have the dtype that the encoder returns, the loss has the one that `loss` gives it.
        A gradient has the dtype of its argument.

    Derivatives:
        By autograd, in reverse mode: of the orders that `loss` has, in the inputs and in all that
        the encoders and the loss learn.

    Raises:
        ValueError: an encoder has batch norm in training mode, whose statistics would be those of
            a mini-batch; it returns something else than features; inputs are not alike.

    Examples:
        >>> import torch
        >>> from fmicl_torch import cached_loss, fmicl_loss
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = torch.tensor([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> params = torch.tensor([[1.0, 0.5], [-0.5, 1.0]], requires_grad=True)
        >>> encode = lambda inputs: torch.tanh(inputs @ params)
        >>> round(cached_loss(fmicl_loss, encode, x, y, mini_batch_size=2).item(), 4)
        3.0792
        >>> round(fmicl_loss(encode(x), encode(y)).item(), 4)
        3.0792

    Source: Gao et al. (2021), GradCache; mini-batches are checkpoints of Chen et al. (2016).
    """
    size = check_at_least("mini_batch_size", mini_batch_size, 1)
    encoders = each_encoder(encode, len(inputs))
    for encoder in {id(each): each for each in encoders}.values():
        _refuse_batch_norm(encoder)
    given = zip(encoders, inputs, strict=True)
    features = (_features(encoder, part, size) for encoder, part in given)
    return checked_scalar(loss(*features, **options))


def _features(encode: Encoder, inputs: Any, size: int) -> torch.Tensor:
    """The features (N, D) of a view, whose backward pass embeds it again."""
    samples = samples_of([tuple(tensor.shape) for tensor in _tensors(inputs)])
    # Its other kind would run a backward pass of its own for each mini-batch, which
    # DistributedDataParallel would take for the end. It keeps the random state of the devices that
    # it finds in its arguments.
    embed = partial(checkpoint, _embed, encode, use_reentrant=False)
    spans = ((start, min(start + size, samples)) for start in range(0, samples, size))
    return torch.cat([embed(_cut(inputs, *span), span[1] - span[0]) for span in spans])


def _embed(encode: Encoder, inputs: Any, samples: int) -> torch.Tensor:
    """The features of some samples."""
    features = encode(inputs)
    shape = tuple(features.shape) if isinstance(features, torch.Tensor) else None
    check_encoded(shape, type(features).__name__, samples)
    return features


def _tensors(inputs: Any) -> Iterator[torch.Tensor]:
    """The tensors that inputs hold."""
    if isinstance(inputs, torch.Tensor):
        yield inputs
    elif isinstance(inputs, Mapping | tuple | list):
        for part in inputs.values() if isinstance(inputs, Mapping) else inputs:
            yield from _tensors(part)


def _cut(inputs: Any, start: int, end: int) -> Any:
    """The inputs with some of the samples alone; what is no tensor stays."""
    if isinstance(inputs, torch.Tensor):
        return inputs[start:end]
    if isinstance(inputs, Mapping):
        return {name: _cut(part, start, end) for name, part in inputs.items()}
    if isinstance(inputs, tuple | list):
        parts = (_cut(part, start, end) for part in inputs)
        return type(inputs)(*parts) if hasattr(inputs, "_fields") else type(inputs)(parts)
    return inputs


def _refuse_batch_norm(encode: Encoder) -> None:
    """Raise where a module of the encoder takes the statistics of the batch that it is given."""
    names = [
        f"`{name}` ({type(part).__name__})" if name else type(part).__name__
        for module in _modules(encode)
        for name, part in module.named_modules()
        if isinstance(part, _BatchNorm) and (part.training or part.running_mean is None)
    ]
    if names:
        raise batch_norms("encode", names)


def _modules(encode: Any) -> Iterator[torch.nn.Module]:
    """The modules that an encoder is, is bound to or reads by name."""
    if isinstance(encode, torch.nn.Module):
        yield encode
    elif isinstance(encode, partial):
        for part in (encode.func, *encode.args, *encode.keywords.values()):
            yield from _modules(part)
    elif inspect.ismethod(encode):
        yield from _modules(encode.__self__)
    elif inspect.isfunction(encode):
        found = inspect.getclosurevars(encode)
        for value in (*found.nonlocals.values(), *found.globals.values()):
            if isinstance(value, torch.nn.Module):
                yield value
