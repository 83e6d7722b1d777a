"""A hook of the site: in notebooks, links between pages and formulas, which their plugin leaves."""

from __future__ import annotations

import html
import logging
import posixpath
import re
from typing import Any

from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from site_math import mathml

LOG = logging.getLogger("mkdocs.hooks.tutorials")
FOLDER = "tutorials/"
#: What is no text: scripts, styles, code, and single tags.
NO_TEXT = re.compile(
    r"(<(?:script|style|pre|code)\b.*?</(?:script|style|pre|code)>|<[^>]*>)", re.DOTALL
)
FORMULA = re.compile(r"\$\$(?P<display>.+?)\$\$|\$(?P<inline>[^$]+?)\$", re.DOTALL)
LINK = re.compile(r'href="(?P<path>(?![a-z]+:)[^"#]+\.(?:md|py))(?P<place>#[^"]*)?"')


def on_page_content(content: str, page: Page, files: Files, **_: Any) -> str:
    """The page of a notebook, with its links and formulas."""
    if not page.file.src_uri.startswith(FOLDER):
        return content

    def linked(link: re.Match[str]) -> str:
        path = posixpath.normpath(FOLDER + link["path"])
        if (file := files.get_file_from_path(path)) is None:
            LOG.warning("%s links to %s, which is no page", page.file.src_uri, link["path"])
            return link[0]
        return f'href="{file.url_relative_to(page.file)}{link["place"] or ""}"'

    parts = NO_TEXT.split(LINK.sub(linked, content))
    return "".join(part if i % 2 else FORMULA.sub(drawn, part) for i, part in enumerate(parts))


def drawn(formula: re.Match[str]) -> str:
    """A formula between dollars as MathML."""
    tex = formula["display"] or formula["inline"]
    return mathml(html.unescape(tex), display=formula["display"] is not None)
