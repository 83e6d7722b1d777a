"""`python tools/formulas.py`: the tables of formulas in docs/mathematics.md.

A formula is written once, as an expression: its LaTeX for the page and its numbers for the test,
which compares them with `fmicl_core`, are both made from it. The page says what stands there:

    <!-- formulas: generators -->
    (the table)
    <!-- end of formulas -->
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import sympy
from marked import filled
from sympy.parsing.sympy_parser import parse_expr

from fmicl_core.checks import check_choice
from fmicl_recipes.report import pipes

PAGE = Path(__file__).resolve().parents[1] / "docs" / "mathematics.md"


class Row(NamedTuple):
    """The formulas of a divergence in u, or in t, with q the order of Tsallis.

    Args:
        title: name for readers.
        f: generator f(u).
        score: f'(u).
        penalty: f*(f'(u)).
        conjugate: f*(t) for low <= t < high.
        pull: u f''(u), slope of the score in L = log u.
        push: u^2 f''(u), slope of the penalty in L.
        high: end of the domain of f*.
        low: where the formula of f* begins; below it f* is `below`.
        below: f* below `low`, -f(0).
    """

    title: str
    f: str
    score: str
    penalty: str
    conjugate: str
    pull: str
    push: str
    high: str = "oo"
    low: str = "-oo"
    below: str = ""


DIVERGENCES = {
    "kl": Row(
        "Kullback-Leibler", "u*log(u)", "log(u) + 1", "u", "exp(t - 1)", "1", "u",
    ),
    "js": Row(
        "Jensen-Shannon", "u*log(u) - (u + 1)*log((u + 1)/2)", "log(2*u/(u + 1))",
        "log((u + 1)/2)", "-log(2 - exp(t))", "1/(u + 1)", "u/(u + 1)", high="log(2)",
    ),
    "pearson": Row(
        "Pearson chi-square", "(u - 1)**2", "2*(u - 1)", "u**2 - 1", "t**2/4 + t",
        "2*u", "2*u**2", low="-2", below="-1",
    ),
    "squared_hellinger": Row(
        "squared Hellinger", "(sqrt(u) - 1)**2", "1 - 1/sqrt(u)", "sqrt(u) - 1", "t/(1 - t)",
        "1/(2*sqrt(u))", "sqrt(u)/2", high="1",
    ),
    "tsallis": Row(
        "Tsallis of order q", "(u**q - 1)/(q - 1)", "q*u**(q - 1)/(q - 1)", "u**q + 1/(q - 1)",
        "((q - 1)*t/q)**(q/(q - 1)) + 1/(q - 1)", "q*u**(q - 1)", "q*u**q",
        low="0", below="1/(q - 1)",
    ),
    "vlc": Row(
        "Vincze-Le Cam", "(u - 1)**2/(u + 1)", "1 - 4/(u + 1)**2",
        "4*u**2/(u + 1)**2 - 1", "4 - t - 4*sqrt(1 - t)", "8*u/(u + 1)**3",
        "8*u**2/(u + 1)**3", high="1", low="-3", below="-1",
    ),
    "jeffreys": Row(
        "Jeffreys", "(u - 1)*log(u)", "log(u) + 1 - 1/u", "u - 1 + log(u)", "w + 1/w + t - 2",
        "1 + 1/u", "u + 1",
    ),
    "reverse_kl": Row(
        "reverse KL", "-log(u)", "-1/u", "log(u) - 1", "-1 - log(-t)", "1/u", "1", high="0",
    ),
    "neyman": Row(
        "Neyman chi-square", "(1 - u)**2/u", "1 - 1/u**2", "2 - 2/u", "2 - 2*sqrt(1 - t)",
        "2/u**2", "2/u", high="1",
    ),
}  # fmt: skip
#: What letters in these formulas stand for.
WHERE = {"w": "LambertW(exp(1 - t))"}
#: Kernels G by the squared distance D, with the scale ell and the softening epsilon.
KERNELS = {
    "gaussian": ("Gaussian(sigma2, mu)", "mu*exp(-(D/(2*sigma**2)))"),
    "laplace": ("Laplace(scale, mu, softening)", "mu*exp(-(sqrt(D + epsilon**2)/ell))"),
    "cauchy": ("Cauchy(scale, mu)", "mu/(1 + D/ell**2)"),
}


def expression(text: str) -> sympy.Expr:
    """The expression as it is written, its terms in their order."""
    return parse_expr(text, evaluate=False)


def numbers(text: str, variable: str, **others: float) -> Callable[[Any], Any]:
    """The formula as a function of an array, with numbers for its other letters."""
    whole = expression(text).subs({k: expression(v) for k, v in WHERE.items()} | others)
    return sympy.lambdify(sympy.Symbol(variable), whole, ["scipy", "numpy"])


def latex(text: str) -> str:
    """The formula in LaTeX, between dollars."""
    tex = sympy.latex(expression(text), order="none", symbol_names={sympy.Symbol("D"): "d^2"})
    tex = tex.replace(r"1 \frac{1}", r"\frac{1}")  # how sympy writes 1/u after another term
    tex = re.sub(r"log{.left[(](\w) .right[)]}", r"log \1", tex)
    return f"${tex}$"


def domain(row: Row) -> str:
    """Where the formula of f* holds."""
    if (row.low, row.high) == ("-oo", "oo"):
        return "all $t$"
    left = "" if row.low == "-oo" else rf"{row.low} \le "
    right = "" if row.high == "oo" else f" < {latex(row.high)[1:-1]}"
    return f"${left}t{right}$" + (f"; below: {latex(row.below)}" if row.below else "")


def generators() -> str:
    """What the loss is made of: f, its slope, and its conjugate there."""
    heads = ["divergence", "$f(u)$", r"score $f'(u)$", r"penalty $f^\ast(f'(u))$"]
    return pipes(heads, [
        [f"{row.title}, `{name}`", latex(row.f), latex(row.score), latex(row.penalty)]
        for name, row in DIVERGENCES.items()
    ])  # fmt: skip


def conjugates() -> str:
    """The conjugate with its domain, and the two weights of the gradient."""
    heads = ["divergence", r"$f^\ast(t)$", "for", "pull $u f''(u)$", "push $u^2 f''(u)$"]
    return pipes(heads, [
        [f"`{name}`", latex(row.conjugate), domain(row), latex(row.pull), latex(row.push)]
        for name, row in DIVERGENCES.items()
    ])  # fmt: skip


def kernels() -> str:
    """The kernels, as they are called."""
    return pipes(["similarity", "call", "$G$"], [
        [f'`"{name}"`', f"`{call}`", latex(text)] for name, (call, text) in KERNELS.items()
    ])  # fmt: skip


TABLES = {"generators": generators, "conjugates": conjugates, "kernels": kernels}


def written(text: str) -> str:
    """The page with its tables as the formulas are now."""
    return filled(text, "formulas", lambda name: TABLES[check_choice("formulas", name, TABLES)]())


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
