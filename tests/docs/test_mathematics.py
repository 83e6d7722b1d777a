"""docs/mathematics.md: its tables are the specification, and every formula can be shown."""

import re
from pathlib import Path

import formulas
import marked
import numpy as np
import pytest

from fmicl_core import DIVERGENCES, NUMPY, get_divergence, get_similarity
from fmicl_core.divergences import LOG2

DOCS = formulas.PAGE.parent
L = np.linspace(-4.0, 2.0, 61)
U = np.exp(L)
EVERY = pytest.mark.parametrize("name", formulas.DIVERGENCES)


def number(text):
    return float(formulas.expression(text).evalf())


def of(name, text, variable="u"):
    q = {"q": get_divergence(name).order} if name == "tsallis" else {}
    return lambda values: formulas.numbers(text, variable, **q)(values) + 0.0 * values


def test_the_page_shows_the_tables_as_the_formulas_are():
    text = formulas.PAGE.read_text(encoding="utf-8")
    assert formulas.written(text) == text, "python tools/formulas.py writes them anew"
    shown = [found["what"] for found in marked.tables_of("formulas").finditer(text)]
    assert sorted(shown) == sorted(formulas.TABLES)
    assert text.count("<!-- formulas") == text.count("<!-- end of formulas") == len(shown)


def test_every_divergence_is_on_the_page_in_the_order_of_the_registry():
    assert list(formulas.DIVERGENCES) == list(DIVERGENCES)


@EVERY
def test_the_formulas_are_the_divergence(name):
    row, divergence = formulas.DIVERGENCES[name], get_divergence(name)
    close = {"rtol": 1e-12, "atol": 1e-13}
    np.testing.assert_allclose(of(name, row.f)(U), divergence.f(U), **close)
    np.testing.assert_allclose(of(name, row.score)(U), divergence.score(L), **close)
    np.testing.assert_allclose(of(name, row.penalty)(U), divergence.penalty(L), **close)
    np.testing.assert_allclose(of(name, row.pull)(U), divergence.score_slope(L), **close)
    np.testing.assert_allclose(of(name, row.push)(U), divergence.penalty_slope(L), **close)


@EVERY
def test_the_conjugate_is_that_of_the_divergence_where_the_page_says(name):
    row, divergence = formulas.DIVERGENCES[name], get_divergence(name)
    low, high = number(row.low), number(row.high)
    assert high == divergence.conjugate_domain[1]
    t = np.linspace(max(low, -6.0), min(high - 1e-3, 3.0), 50)
    np.testing.assert_allclose(
        of(name, row.conjugate, "t")(t), divergence.conjugate(t), rtol=1e-10, atol=1e-12
    )
    if row.below:
        assert of(name, row.below, "t")(low) == pytest.approx(divergence.conjugate(low - 2.0))
        assert of(name, row.below, "t")(low) == pytest.approx(of(name, row.conjugate, "t")(low))
    else:  # the formula holds all the way down
        assert low == -np.inf


@pytest.mark.parametrize("name", formulas.KERNELS)
def test_the_kernels_are_those_of_the_similarities(name):
    call, text = formulas.KERNELS[name]
    assert call == f"{type(get_similarity(name)).__name__}({call.partition('(')[2]}"
    values = {"sigma2": 0.3, "scale": 0.7, "mu": 1.4, "softening": 0.2}
    names = re.findall(r"\w+", call)[1:]
    similarity = get_similarity(name, **{key: values[key] for key in names})
    letters = {"sigma": 0.3**0.5, "ell": 0.7, "mu": 1.4, "epsilon": 0.2}
    d2 = np.linspace(0.0, 4.0, 9)
    if name == "gaussian":
        a, b, c = similarity.coefficients()
        log_kernel = a * (1.0 - d2 / 2.0) + 2.0 * b + c  # of unit rows
    else:
        log_kernel = similarity.log_kernel(d2, NUMPY)
    got = formulas.numbers(text, "D", **letters)(d2)
    np.testing.assert_allclose(got, np.exp(log_kernel), rtol=1e-12)


def test_the_ends_of_the_cosines_domains_are_those_on_the_page():
    text = " ".join(formulas.PAGE.read_text(encoding="utf-8").split())
    assert rf"above $1 / \log 2 = {1 / LOG2:.2f}$" in text
    assert rf"above $\log 2 = {LOG2:.3f}$" in text


def texts():
    """Every text of the site that may hold formulas: pages, and the cells of the tutorials."""
    return [*sorted(DOCS.glob("*.md")), *sorted((DOCS / "tutorials").glob("*.py"))]


def markdown_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    cells = re.findall(r"^# %% \[markdown\].*\n((?:#.*\n?)+)", text, re.MULTILINE)
    return "\n\n".join(re.sub("^# ?", "", cell, flags=re.MULTILINE) for cell in cells)


@pytest.mark.parametrize("path", texts(), ids=lambda path: path.name)
def test_every_formula_can_be_shown(path, require):
    """As the site does it; a formula that cannot be read raises, and so does a lost dollar."""
    site_math, markdown = require("site_math"), require("markdown")
    require("pymdownx.arithmatex")
    options = {"pymdownx.arithmatex": {"generic": True}}
    extensions = ["tables", "pymdownx.superfences", "pymdownx.arithmatex"]
    page = markdown.markdown(markdown_of(path), extensions=extensions, extension_configs=options)
    found = site_math.FORMULA.findall(page)
    shown = site_math.on_page_content(page)
    assert "arithmatex" not in shown
    assert shown.count("<math") == len(found)
    if path == formulas.PAGE:
        assert len(found) > 100
        code = r"<pre.*?</pre>|<code.*?</code>"
        assert not re.search(r"\$|\\[a-z]", re.sub(code, "", shown, flags=re.DOTALL))
