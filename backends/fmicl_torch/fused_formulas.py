"""The specification as Triton code: its formulas are run once on a symbol, which writes them down.

A divergence is written once, in `fmicl_core.divergences`. What it does with the symbol z (the
functions of `Ops` and arithmetic) becomes the body of a function of a tile. Formulas that do
anything else, as a divergence of a user's own may, cannot be written down, and say so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache, partial
from numbers import Real
from typing import Any, NamedTuple, NoReturn

import numpy as np

from fmicl_core import Pairwise
from fmicl_core.fused import LOG2_E
from fmicl_core.ops import Ops

#: Functions of `Ops` that the generated code calls as they are; most are in `fused_functions`.
CALLS = {
    "expm1": "expm1({})",
    "log": "tl.log({})",
    "log1p": "log1p({})",
    "relu": "relu({})",
}
#: Powers up to this are products.
PRODUCTS = 8
#: Names in the generated code, and a power of 2 that z is the exponent of.
NAME = re.compile(r"\b(?:t\d+|z)\b")
POWER_OF_Z = re.compile(r"tl\.exp2\((-?)(\S+) \* z\)")


class Formulas(NamedTuple):
    """The specification as Triton code.

    Args:
        source: source of `evaluate(z)`, which returns a pair's addend, its factor less 1, and its
            slope in z; one of the first two is no more than the other where `sums` leaves it out.
        unit: number > 0 that z is multiplied by beforehand.
        sums: how a pair's value comes about: "addends", or "factors", whose logarithm it is, or
            "both", their sum. A product of 16 factors stays in the range of float32.
        vanishes: whether all three are 0 at z = -infinity, which may stand for pairs left out.
    """

    source: str
    unit: float
    sums: str
    vanishes: bool


@lru_cache(maxsize=256)
def triton_formulas(pairwise: Pairwise, positive: bool = False) -> Formulas:
    """The value of a pair and its slope in z, for `fmicl_torch.fused_triton`.

    Args:
        pairwise: the specification.
        positive: whether the value is the score of a positive pair, not the excess of a negative.

    Raises:
        TypeError: the formulas use something else than `Ops` and arithmetic; says what.
    """
    trace = Trace()
    z = Symbol("z", trace)
    try:
        if positive:
            results = pairwise.positive(z, trace.ops), pairwise.positive_slope(z, trace.ops)
        else:
            results = pairwise.excess_total_and_slope(z, trace.ops)
        # Adding 0 z makes a tile of a result that is the same number for every pair.
        value, slope = (r if isinstance(r, Symbol) else 0.0 * z + r for r in results)
        addend, factor = trace.parts.get(value.entry(), (value.entry(), ""))
        returned = addend or factor, factor or addend, slope.entry()
    except Exception as error:  # whatever a formula of a user's own raises on a symbol
        raise TypeError(f"{type(error).__name__}: {error}") from error
    sums = "addends" if not factor else "both" if addend else "factors"
    return Formulas(*trace.written(returned), sums, _vanishes(pairwise, positive))


def _vanishes(pairwise: Pairwise, positive: bool) -> bool:
    """Whether a pair adds nothing at z = -infinity; a mask of z takes fewer registers than one of
    all that is made of it.
    """
    if positive:
        return False
    with np.errstate(all="ignore"):
        return all(number == 0.0 for number in pairwise.excess_and_slope(np.float64(-np.inf)))


class Trace:
    """The steps of formulas that are run on a symbol, and the functions that write them down."""

    def __init__(self) -> None:
        #: Name of every expression; equal expressions share one.
        self.steps: dict[str, str] = {}
        #: Addend or "", and factor less 1, of values that have the logarithm of one.
        self.parts: dict[str, tuple[str, str]] = {}
        functions: dict[str, Callable[[Symbol], Symbol]]
        functions = {name: partial(self._call, form) for name, form in CALLS.items()}
        functions |= {"exp": self._exp, "softplus": self._softplus, "sigmoid": self._sigmoid,
                      "sum": lambda x: x, "sum_log1p": self._sum_log1p}  # fmt: skip
        checked = {name: partial(_of_symbol, function) for name, function in functions.items()}
        self.ops = Ops(name="triton", **checked)

    def step(self, text: str) -> Symbol:
        """The symbol of an expression."""
        return Symbol(self.steps.setdefault(text, f"t{len(self.steps)}"), self)

    def written(self, returned: tuple[str, ...]) -> tuple[str, float]:
        """The source of what is needed of the steps, and what z is multiplied by beforehand."""
        needed, lines = set(returned), []
        for text, name in reversed(self.steps.items()):
            if name in needed:
                needed |= set(NAME.findall(text))
                lines.append((name, text))
        of_z, unit = [text for _, text in lines if "z" in NAME.findall(text)], 1.0
        if "z" not in returned and len(of_z) == 1 and (power := POWER_OF_Z.fullmatch(of_z[0])):
            sign, unit = power[1], float(power[2])  # z keeps its sign
            lines = [(n, f"tl.exp2({sign}z)" if t == of_z[0] else t) for n, t in lines]
        body = [f"    {name} = {text}" for name, text in reversed(lines)]
        return "\n".join(["def evaluate(z):", *body, f"    return {', '.join(returned)}", ""]), unit

    def _call(self, form: str, x: Symbol) -> Symbol:
        return self.step(form.format(x.entry()))

    def _exp(self, x: Symbol) -> Symbol:
        return self.step(f"tl.exp2({x.factor * LOG2_E!r} * {x.name})")

    def _sum_log1p(self, x: Symbol) -> Symbol:
        value = self.step(f"log1p({x.entry()})")
        self.parts[value.name] = "", x.entry()
        return value

    def _softplus(self, x: Symbol) -> Symbol:
        # log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), whose last factor is at most 2.
        above, rest = self.step(f"relu({x.entry()})"), self._decay(x)
        value = above + self.step(f"log1p({rest.name})")
        self.parts[value.name] = above.name, rest.name
        return value

    def _sigmoid(self, x: Symbol) -> Symbol:
        if self._decay_text(x) in self.steps:  # one exponential is enough for both
            rest = self._decay(x)
            return self.step(f"tl.where({x.entry()} > 0.0, 1.0, {rest.name})") / (1.0 + rest)
        return 1.0 / (1.0 + self._exp(-x))  # where e^-x overflows, the quotient is 0

    def _decay(self, x: Symbol) -> Symbol:
        """e^-|x|."""
        return self.step(self._decay_text(x))

    def _decay_text(self, x: Symbol) -> str:
        return f"tl.exp2({-abs(x.factor) * LOG2_E!r} * tl.abs({x.name}))"


class Symbol:
    """One entry of a tile: a constant times what has a name in the generated code.

    The constant waits for its use: that of an exponent takes up log2 e as well.
    """

    #: The shape of one entry, for formulas that count entries.
    shape = ()
    #: NumPy leaves arithmetic with a symbol to the symbol.
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str, trace: Trace, factor: float = 1.0) -> None:
        self.name, self.factor, self._trace = name, factor, trace

    def entry(self) -> str:
        """Name of the entry, its constant included."""
        if self.factor == 1.0:
            return self.name
        return self._trace.step(f"{self.factor!r} * {self.name}").name

    def _binary(self, form: str, other: Any) -> Symbol:
        other = other.entry() if isinstance(other, Symbol) else repr(_constant(other))
        return self._trace.step(form.format(self.entry(), other))

    def __add__(self, other: Any) -> Symbol:
        return self._binary("{0} + {1}", other)

    def __radd__(self, other: Any) -> Symbol:
        return self._binary("{1} + {0}", other)

    def __sub__(self, other: Any) -> Symbol:
        return self._binary("{0} - {1}", other)

    def __rsub__(self, other: Any) -> Symbol:
        return self._binary("{1} - {0}", other)

    def __mul__(self, other: Any) -> Symbol:
        if isinstance(other, Symbol):
            product = self._trace.step(f"{self.name} * {other.name}")
            return product * self.factor * other.factor
        return Symbol(self.name, self._trace, _constant(self.factor * _constant(other)))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Symbol:
        if not isinstance(other, Symbol):
            return self * (1.0 / _constant(other))
        return self._binary("divide({0}, {1})", other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return self._binary("divide({1}, {0})", other)

    def __neg__(self) -> Symbol:
        return self * -1.0

    def __pow__(self, power: Any) -> Symbol:
        power = _constant(power, "a power of")
        if power < 0:
            return 1.0 / self**-power
        if power == 0.5:
            return self._trace.step(f"tl.sqrt({self.entry()})")
        if power == int(power) and 1 <= power <= PRODUCTS:
            return self if power == 1 else self ** (power - 1) * self
        # Of x >= 0, as any power that is no whole number is.
        logarithm = self._trace.step(f"tl.log({self.entry()})")
        return self._trace.ops.exp(power * logarithm)

    def _unknown(self, *_: Any) -> NoReturn:
        raise TypeError("a comparison, where the outcome differs between pairs")

    # Python would answer these without asking, and formulas would take one branch for all pairs.
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = _unknown


def _of_symbol(function: Callable[[Symbol], Symbol], x: Any) -> Symbol:
    if not isinstance(x, Symbol):
        raise TypeError(f"a function of `Ops` was called with {type(x).__name__}")
    return function(x)


def _constant(x: Any, what: str = "arithmetic with") -> float:
    if isinstance(x, bool) or not isinstance(x, Real) or not math.isfinite(x):
        raise TypeError(f"{what} {x!r}")
    return float(x)
