"""A hook of the site: formulas become MathML, which browsers draw without a script."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml import converter

#: What the extension arithmatex makes of $...$ and of $$...$$, the same in pages and notebooks.
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\(?P<open>[(\[])(?P<tex>.*?)\\[)\]]</\1>', re.DOTALL
)
#: Names of functions: the converter writes letters beside them, with no space between.
FUNCTION = re.compile(
    r"<(m[io])>(?P<name>[A-Za-z]{2,})</\1>(?P<bracket>(?=(?:<mrow>)?<mo[^>]*>(?:&#x00028;|\()))?"
)


def mathml(tex: str, display: bool = False) -> str:
    """A formula in LaTeX as MathML.

    Raises:
        ValueError: the formula cannot be read.
    """
    try:
        text = converter.convert(tex, display="block" if display else "inline")
    except Exception as error:
        raise ValueError(f"The formula {tex!r} cannot be read: {error!r}") from error
    return FUNCTION.sub(spaced, text)


def spaced(name: re.Match[str]) -> str:
    """The name of a function as an operator, with a space behind it unless a bracket follows."""
    after = "0" if name["bracket"] is not None else "0.17em"
    return f'<mo form="prefix" lspace="0.17em" rspace="{after}">{name["name"]}</mo>'


def on_page_content(content: str, **_: Any) -> str:
    """Every formula of a page as MathML."""
    return FORMULA.sub(lambda f: mathml(html.unescape(f["tex"]), f["open"] == "["), content)
