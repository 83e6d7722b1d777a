"""Run the Python examples of pages of the documentation, in order, as a reader would.

    python tools/run_page.py docs/pairs.md README.md

The examples of a page share one namespace. What an example needs and a reader does not have to see
stands before it in a comment of the page, which is run as well:

    <!--- invisible-code-block: python
    x, y = torch.randn(2, 64, 128)
    --->

`tests/docs/test_pages.py` runs every page in this way, in an empty folder.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from sybil import Document, Example
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).resolve().parents[1]


def all_pages() -> list[Path]:
    """The README and every page of the site."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def examples_of(page: Path) -> list[Example]:
    """The Python examples of a page, those in tabs and in comments included."""
    return list(Document.parse(str(page), PythonCodeBlockParser()).examples())


def modules_of(page: Path) -> list[str]:
    """Names of the packages that a page's examples import, wherever in them."""
    return sorted(set(_imported(page)))


def _imported(page: Path) -> Iterator[str]:
    for example in examples_of(page):
        for node in ast.walk(ast.parse(example.parsed)):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield (node.module or "").split(".")[0]


def run_page(page: Path) -> None:
    """Run the examples of a page; an error names the page and the line."""
    for example in examples_of(page):
        example.evaluate()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        run_page(Path(name).resolve())
