"""The specification as Triton code: its formulas are run once on a symbol, which writes them down.

A divergence is written once, in `fmicl_core.divergences`. What it does with the symbol z (the
functions of `Ops` and arithmetic) becomes the body of a function of a tile. Formulas that do
anything else, as a divergence of a user's own may, cannot be written down, and say so.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from numbers import Real
from typing import Any, NoReturn

from fmicl_core import Pairwise
from fmicl_core.ops import Ops

#: Functions of `Ops` by the name that the generated code calls them; the rest are in
#: `fmicl_torch.fused_triton`. A tile is summed by the fused routine, so a sum is the entry itself.
CALLS = {
    "exp": "tl.exp({})",
    "expm1": "expm1({})",
    "log": "tl.log({})",
    "log1p": "log1p({})",
    "softplus": "softplus({})",
    "sigmoid": "sigmoid({})",
    "relu": "relu({})",
    "sum": "{}",
    "sum_log1p": "log1p({})",
}
#: Powers up to this are products.
PRODUCTS = 8


@lru_cache(maxsize=256)
def triton_source(pairwise: Pairwise, positive: bool = False) -> str:
    """Source of `evaluate(z)`, which returns a pair's value and its slope in z.

    Args:
        pairwise: the specification.
        positive: whether the value is the score of a positive pair, not the excess of a negative.

    Raises:
        TypeError: the formulas use something else than `Ops` and arithmetic; says what.
    """
    steps: dict[str, str] = {}
    calls = {name: partial(_call, steps, form) for name, form in CALLS.items()}
    try:
        z, ops = Symbol("z", steps), Ops(name="triton", **calls)
        if positive:
            results = pairwise.positive(z, ops), pairwise.positive_slope(z, ops)
        else:
            results = pairwise.excess_total_and_slope(z, ops)
        # Adding 0 z makes a tile of a result that is the same number for every pair.
        value, slope = (r if isinstance(r, Symbol) else 0.0 * Symbol("z", steps) + r
                          for r in results)  # fmt: skip
    except Exception as error:  # whatever a formula of a user's own raises on a symbol
        raise TypeError(f"{type(error).__name__}: {error}") from error
    lines = [f"    {name} = {text}" for text, name in steps.items()]
    return "\n".join(["def evaluate(z):", *lines, f"    return {value.name}, {slope.name}", ""])


def _call(steps: dict[str, str], form: str, x: Any) -> Symbol:
    if not isinstance(x, Symbol):
        raise TypeError(f"a function of `Ops` was called with {type(x).__name__}")
    return x if form == "{}" else _step(steps, form.format(x.name))


def _step(steps: dict[str, str], text: str) -> Symbol:
    """The symbol of an expression; equal expressions share one."""
    return Symbol(steps.setdefault(text, f"t{len(steps)}"), steps)


class Symbol:
    """One entry of a tile, known by the name it has in the generated code."""

    #: The shape of one entry, for formulas that count entries.
    shape = ()
    #: NumPy leaves arithmetic with a symbol to the symbol.
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str, steps: dict[str, str]) -> None:
        self.name, self._steps = name, steps

    def _binary(self, form: str, other: Any) -> Symbol:
        if isinstance(other, Symbol):
            return _step(self._steps, form.format(self.name, other.name))
        if isinstance(other, bool) or not isinstance(other, Real) or not math.isfinite(other):
            raise TypeError(f"arithmetic with {other!r}")
        return _step(self._steps, form.format(self.name, repr(float(other))))

    def __add__(self, other: Any) -> Symbol:
        return self._binary("{0} + {1}", other)

    def __radd__(self, other: Any) -> Symbol:
        return self._binary("{1} + {0}", other)

    def __sub__(self, other: Any) -> Symbol:
        return self._binary("{0} - {1}", other)

    def __rsub__(self, other: Any) -> Symbol:
        return self._binary("{1} - {0}", other)

    def __mul__(self, other: Any) -> Symbol:
        return self._binary("{0} * {1}", other)

    def __rmul__(self, other: Any) -> Symbol:
        return self._binary("{1} * {0}", other)

    def __truediv__(self, other: Any) -> Symbol:
        return self._binary("{0} / {1}", other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return self._binary("{1} / {0}", other)

    def __neg__(self) -> Symbol:
        return _step(self._steps, f"-{self.name}")

    def __pow__(self, power: Any) -> Symbol:
        if isinstance(power, bool) or not isinstance(power, Real) or not math.isfinite(power):
            raise TypeError(f"a power of {power!r}")
        power = float(power)
        if power < 0:
            return 1.0 / self**-power
        if power == 0.5:
            return _step(self._steps, f"tl.sqrt_rn({self.name})")
        if power == int(power) and 1 <= power <= PRODUCTS:
            return self if power == 1 else self ** (power - 1) * self
        # Of x >= 0, as any power that is no whole number is.
        return _step(self._steps, f"tl.exp({power!r} * tl.log({self.name}))")

    def _unknown(self, *_: Any) -> NoReturn:
        raise TypeError("a comparison, where the outcome differs between pairs")

    # Python would answer these without asking, and formulas would take one branch for all pairs.
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = _unknown
