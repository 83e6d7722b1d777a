"""How an array of a network lies in each framework, beside the canonical layout, PyTorch's.

A linear layer's weight is (outputs, inputs) in the canonical layout, a convolution's (outputs,
inputs, height, width). Flax and Keras have inputs before outputs, and Flax's attention divides
outputs into heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmicl_core.checks import invalid
from fmicl_recipes.vit import HEADS

#: Arrays by their canonical names.
Weights = dict[str, NDArray[Any]]
Shape = tuple[int, ...]
#: From an array to what takes its place elsewhere, one array or several.
Change = Callable[[NDArray[Any]], list[NDArray[Any]]]


class Layout(NamedTuple):
    """What becomes of a canonical array in a framework, and back.

    Args:
        to: function from the canonical array to the framework's arrays.
        back: function from the framework's arrays, put one beside the other along a new first axis,
            and the canonical shape to the canonical array.
    """

    to: Change
    back: Callable[[NDArray[Any], Shape], NDArray[Any]]


def _same(array: NDArray[Any]) -> list[NDArray[Any]]:
    return [array]


SAME = Layout(_same, lambda found, shape: found[0])
#: (outputs, inputs) as (inputs, outputs).
LINEAR = Layout(lambda array: [array.T], lambda found, shape: found[0].T)
#: (outputs, inputs, height, width) as (height, width, inputs, outputs).
CONV = Layout(
    lambda array: [array.transpose(2, 3, 1, 0)], lambda found, shape: found[0].transpose(3, 2, 0, 1)
)
#: A token (1, 1, dim) as (dim,).
TOKEN = Layout(lambda array: [array[0, 0]], lambda found, shape: found[0][None, None])
#: Query, key and value (3 dim, dim) as three arrays (dim, heads, dim / heads).
QKV_HEADS = Layout(
    lambda array: [
        part.T.reshape(len(part), HEADS, -1) for part in array.reshape(3, -1, array.shape[1])
    ],
    lambda found, shape: found.reshape(3, shape[1], -1).transpose(0, 2, 1).reshape(shape),
)
#: Their biases (3 dim,) as three arrays (heads, dim / heads).
QKV_BIAS_HEADS = Layout(
    lambda array: list(array.reshape(3, HEADS, -1)), lambda found, shape: found.reshape(shape)
)
#: The projection after attention (dim, dim) as (heads, dim / heads, dim).
FROM_HEADS = Layout(
    lambda array: [array.T.reshape(HEADS, -1, len(array))],
    lambda found, shape: found[0].reshape(shape[1], shape[0]).T,
)

_QKV = ("query", "key", "value")


class Entry(NamedTuple):
    """An array of a network: what it is called, and how it lies, in each framework.

    Args:
        name: canonical name.
        shape: canonical shape.
        names: names of the arrays that stand for it, by framework.
        layouts: layouts by framework.
    """

    name: str
    shape: Shape
    names: Mapping[str, tuple[str, ...]]
    layouts: Mapping[str, Layout]

    def within(self, canonical: str, native: str | None = None) -> Entry:
        """The same array in a network that is a part of a larger one, by the part's names."""
        own = canonical if native is None else native
        names = {
            framework: tuple(f"{own}.{name}" for name in found)
            for framework, found in self.names.items()
        }
        return self._replace(name=f"{canonical}.{self.name}", names=names)


def _entry(
    name: str,
    shape: Shape,
    torch: str,
    jax: str | tuple[str, ...],
    keras: str,
    layouts: tuple[Layout, Layout] = (SAME, SAME),
) -> Entry:
    return Entry(
        name, shape,
        {"torch": (torch,), "jax": (jax,) if isinstance(jax, str) else jax, "tensorflow": (keras,)},
        {"torch": TOKEN if layouts[0] is TOKEN else SAME, "jax": layouts[0],
         "tensorflow": layouts[1]},
    )  # fmt: skip


def keras_name(name: str) -> str:
    """The name of a Keras layer: the canonical one, without dots, which PyTorch forbids there."""
    return name.replace(".", "_")


def linear(name: str, torch: str, jax: str, shape: Shape, *, bias: bool = True) -> list[Entry]:
    """The arrays of a linear layer, or of a convolution if the shape has four numbers.

    Args:
        name: canonical name of the layer.
        torch: its name in our PyTorch networks.
        jax: its name in our Flax networks.
        shape: canonical shape of the weight.
        bias: whether it has a bias.
    """
    layout, keras = CONV if len(shape) == 4 else LINEAR, keras_name(name)
    weight = _entry(f"{name}.weight", shape, f"{torch}.weight", f"{jax}.kernel", f"{keras}.kernel",
                    (layout, layout))  # fmt: skip
    own = _entry(f"{name}.bias", shape[:1], f"{torch}.bias", f"{jax}.bias", f"{keras}.bias")
    return [weight, own] if bias else [weight]


def norm(
    name: str, torch: str, jax: str, width: int, *, affine: bool = True, batch: bool = True
) -> list[Entry]:
    """The arrays of a batch norm or a layer norm.

    Args:
        name: canonical name of the layer.
        torch: its name in our PyTorch networks.
        jax: its name in our Flax networks.
        width: number of its channels.
        affine: whether it has a scale and a shift.
        batch: whether it has running statistics, as a batch norm has.
    """
    kinds = [("weight", "scale", "gamma"), ("bias", "bias", "beta")] * affine
    kinds += [
        ("running_mean", "mean", "moving_mean"),
        ("running_var", "var", "moving_variance"),
    ] * batch
    keras = keras_name(name)
    return [
        _entry(f"{name}.{own}", (width,), f"{torch}.{own}", f"{jax}.{flax}", f"{keras}.{variable}")
        for own, flax, variable in kinds
    ]


def attention(name: str, torch: str, jax: str, dim: int) -> list[Entry]:
    """The arrays of self-attention: query, key and value in one layer, `qkv`, and `proj`."""
    qkv, keras = f"{name}.qkv", keras_name(f"{name}.qkv")
    return [
        _entry(f"{qkv}.weight", (3 * dim, dim), f"{torch}.in_proj_weight",
               tuple(f"{jax}.{part}.kernel" for part in _QKV), f"{keras}.kernel",
               (QKV_HEADS, LINEAR)),
        _entry(f"{qkv}.bias", (3 * dim,), f"{torch}.in_proj_bias",
               tuple(f"{jax}.{part}.bias" for part in _QKV), f"{keras}.bias",
               (QKV_BIAS_HEADS, SAME)),
        _entry(f"{name}.proj.weight", (dim, dim), f"{torch}.out_proj.weight", f"{jax}.out.kernel",
               f"{keras_name(name)}_proj.kernel", (FROM_HEADS, LINEAR)),
        _entry(f"{name}.proj.bias", (dim,), f"{torch}.out_proj.bias", f"{jax}.out.bias",
               f"{keras_name(name)}_proj.bias"),
    ]  # fmt: skip


def token(name: str, torch: str, jax: str, dim: int) -> list[Entry]:
    """A token (1, 1, dim) that is learned; in the frameworks (dim,)."""
    return [_entry(name, (1, 1, dim), torch, jax, f"{keras_name(name)}.token", (TOKEN, TOKEN))]


def plain(name: str, shape: Shape, jax: str | None = None) -> Entry:
    """An array that lies alike everywhere, under one name, but perhaps in Flax."""
    return _entry(name, shape, name, name if jax is None else jax, name)


def to_native(weights: Mapping[str, Any], entries: Iterable[Entry], framework: str) -> Weights:
    """A framework's arrays, by its own names, of canonical weights.

    Args:
        weights: arrays by canonical name, of which there may be more than the entries name.
        entries: arrays of the network.
        framework: "torch", "jax" or "tensorflow".
    """
    native: Weights = {}
    for entry in entries:
        parts = entry.layouts[framework].to(np.asarray(weights[entry.name]))
        native |= dict(zip(entry.names[framework], parts, strict=True))
    return native


def from_native(native: Mapping[str, Any], entries: Iterable[Entry], framework: str) -> Weights:
    """The canonical weights, contiguous, of a framework's arrays, which may be more.

    Args:
        native: arrays by the framework's names.
        entries: arrays of the network.
        framework: "torch", "jax" or "tensorflow".
    """
    weights: Weights = {}
    for entry in entries:
        found = np.stack([np.asarray(native[name]) for name in entry.names[framework]])
        array = entry.layouts[framework].back(found, entry.shape)
        weights[entry.name] = np.ascontiguousarray(array).reshape(entry.shape)
    return weights


def check_known(arrays: Weights, own: Mapping[str, Any]) -> None:
    """Check that arrays are some of a network's own, with their shapes.

    Args:
        arrays: arrays by the framework's names.
        own: the network's, of which each has a shape.

    Raises:
        ValueError: one is not known, or of another shape.
    """
    for name, array in arrays.items():
        shape = tuple(own[name].shape) if name in own else "none of that name"
        if shape != array.shape:
            raise invalid("weights", str(shape), array.shape, what=f"shape of {name}")
