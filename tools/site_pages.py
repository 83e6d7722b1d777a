"""A hook of the site: the pages that nobody writes.

The reference of every public name, of the `fmicl` command, the changelog, and files of the
repository outside of `docs/` to which a page links.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from site_reference import PACKAGES, command_page, index_page, package_page, undocumented

ROOT = Path(__file__).resolve().parents[1]
#: Documents of the repository's root that are pages of the site.
DOCUMENTS = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
#: A link of Markdown: its target, and the place on the page.
LINK = re.compile(r"\]\((?![a-z]+:|#)(?P<path>[^)\s#]+)(?P<place>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the pages.

    Raises:
        PluginError: a public name has no docstring.
    """
    if missing := [name for package in PACKAGES for name in undocumented(package)]:
        raise PluginError(f"Public names without a docstring: {', '.join(missing)}")
    pages = {"reference/index.md": index_page(), "reference/command.md": command_page()}
    pages |= {f"reference/{package}.md": package_page(package) for package in PACKAGES}
    pages |= {page: (ROOT / name).read_text("utf-8") for name, page in DOCUMENTS.items()}
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    texts = [file.content_string for file in files.documentation_pages()]
    for path in sorted({path for text in texts for path in outside(text)}):
        files.append(shown(config, path))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links to files outside of `docs/` lead to their pages on the site."""
    return LINK.sub(lambda link: f"]({moved(link['path'], page)}{link['place'] or ''})", markdown)


def outside(text: str) -> Iterator[str]:
    """Files of the repository, outside of `docs/`, to which a text links."""
    paths = (behind(link["path"]) for link in LINK.finditer(text))
    yield from (path for path in paths if path and path not in DOCUMENTS)


def behind(link: str) -> str | None:
    """The file of the repository, outside of `docs/`, to which a link leads, if it does."""
    path = re.sub(r"^(\.\./)+", "", link)
    return path if path != link and (ROOT / path).is_file() else None


def moved(link: str, page: Page) -> str:
    """Where a link of a page leads on the site."""
    up = "../" * page.file.src_uri.count("/")
    if page.file.src_uri in DOCUMENTS.values():  # written for the root of the repository
        return link.removeprefix("docs/") if link.startswith("docs/") else link
    path = behind(link)
    return up + DOCUMENTS.get(path, address(path)) if path else link


def address(path: str) -> str:
    """Where the site has a file of the repository: a program has a page, other files are as is."""
    suffix = ".md" if path.endswith(".py") else ""
    return f"repository/{path}{suffix}"


def shown(config: MkDocsConfig, path: str) -> File:
    """A file of the repository as one of the site."""
    if not path.endswith(".py"):
        return File.generated(config, address(path), abs_src_path=str(ROOT / path))
    code = (ROOT / path).read_text("utf-8")
    name = PurePosixPath(path).name
    text = f"---\nsearch: {{exclude: true}}\n---\n# {name}\n\n`{path}`\n\n````python\n{code}````\n"
    return File.generated(config, address(path), content=text)
