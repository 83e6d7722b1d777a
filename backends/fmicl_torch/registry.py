"""Specifications of a pair by their text, because a compiled graph holds a text but no object.

The text says what it means. What the library offers is built of it again, so that a program that
`torch.export` wrote is the same loss in any process. What a user wrote is looked up by it.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from fmicl_core import DIVERGENCES, FMICL, SIMILARITIES, Divergence, Pairwise, Similarity
from fmicl_core.checks import invalid
from fmicl_core.divergences import Ratio
from fmicl_core.family import KernelContrast, Sigmoid
from fmicl_core.objective import DEFAULTS
from fmicl_core.similarities import Logit

#: Specifications that this process has met, by their text. Entries are never changed or removed.
KNOWN: dict[str, Pairwise] = {}
_adding = threading.Lock()
#: Whether `torch.compile` hands objects to what is assumed to be constant.
TAKES_OBJECTS = torch.__version__ >= (2, 13)  # type: ignore[operator]
#: Their texts, by options that are names: what a step of training asks for again and again.
_NAMED: dict[tuple[Any, ...], str] = {}
#: What a text may name.
_LIBRARY: dict[str, Callable[..., Any]] = {
    kind.__name__: kind
    for kind in (*DIVERGENCES.values(), Sigmoid, KernelContrast, Ratio, *SIMILARITIES.values(),
                 Logit, Pairwise)
}  # fmt: skip


def register(pairwise: Pairwise) -> str:
    """The text of a specification, under which `KNOWN` holds it; equal specifications share one."""
    text = _text(pairwise)
    with _adding:
        name, count = text, 1
        # Only what a user wrote can differ under one text, as a class does that is defined anew.
        while KNOWN.setdefault(name, pairwise) != pairwise:
            count += 1
            name = f"{text} #{count}"
    return name


def register_options(
    divergence: Divergence | str, similarity: Similarity | str, negatives: str, normalize: bool
) -> str:
    """The text of the specification with these options, found once while compiling.

    Raises:
        ValueError: an option is unknown or out of range.
    """
    named = isinstance(divergence, str) and isinstance(similarity, str)
    register = _register_options if named or TAKES_OBJECTS else _register_apart
    return register(divergence, similarity, negatives, normalize)


@torch.compiler.assume_constant_result
def _register_options(
    divergence: Divergence | str, similarity: Similarity | str, negatives: str, normalize: bool
) -> str:
    key = divergence, similarity, negatives, normalize
    named = all(type(part) is str for part in key[:3]) and type(normalize) is bool
    if named and key in _NAMED:
        return _NAMED[key]
    pairwise = FMICL(divergence, similarity, DEFAULTS.alpha, negatives, normalize).pairwise
    text = register(pairwise)
    if named and pairwise.divergence.suitable:  # another warns every time
        _NAMED[key] = text
    return text


#: The same outside of the graph, which breaks here, as older versions need it for objects.
_register_apart = torch.compiler.disable(_register_options)


@torch.compiler.assume_constant_result
def learned(text: str) -> str:
    """The text of what the specification becomes beside `logit_scale` and `logit_bias`.

    Raises:
        ValueError: its similarity takes neither.
    """
    return _learned(text)


@lru_cache(maxsize=256)
def _learned(text: str) -> str:
    known = KNOWN[text]
    similarity = known.similarity.learned(known.divergence)
    return register(Pairwise(known.divergence, similarity, known.normalize))


@torch.compiler.assume_constant_result
def ratio(text: str) -> str:
    """The text of the specification whose penalty of a pair is its u, `Pairwise.ratio`."""
    return _ratio(text)


@lru_cache(maxsize=256)
def _ratio(text: str) -> str:
    return register(KNOWN[text].ratio)


def pairwise_of(text: str) -> Pairwise:
    """The specification with that text, also where another process wrote it.

    Raises:
        ValueError: it names a divergence or a similarity that this process has not met.
    """
    known = KNOWN.get(text)
    return KNOWN.setdefault(text, _built(text)) if known is None else known


@lru_cache(maxsize=256)
def described(text: str) -> str:
    """The text, if any process understands it; "" where it names what a user wrote."""
    try:
        _built(text)
    except ValueError:
        return ""
    return text


def _text(pairwise: Pairwise) -> str:
    parts = [_named(part) for part in (pairwise.divergence, pairwise.similarity)]
    return f"Pairwise(divergence={parts[0]}, similarity={parts[1]}, normalize={pairwise.normalize})"


def _named(part: Divergence | Similarity) -> str:
    """A part of a specification; with its module where it is none of the library's."""
    if isinstance(part, Ratio):
        return f"Ratio(of={_named(part.of)})"
    if _LIBRARY.get(type(part).__name__) is type(part):
        return repr(part)
    return f"{type(part).__module__}.{part!r}"


def _built(text: str) -> Pairwise:
    try:
        made = _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, TypeError, KeyError, AttributeError):
        made = None
    if not isinstance(made, Pairwise):
        raise invalid(
            "divergence", "what this process knows", text, what="the program's specification",
            why="A program that torch.export wrote finds a divergence or a similarity of your own"
            " once a loss was made with it, as by fmicl_torch.FMICLLoss(divergence=...).",
        )  # fmt: skip
    return made


def _value(node: ast.expr) -> Any:
    """The value of a constant, or of a call of what the library offers; nothing else is run."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        return _LIBRARY[node.func.id](**{str(k.arg): _value(k.value) for k in node.keywords})
    return ast.literal_eval(node)
