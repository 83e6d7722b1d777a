"""The tutorials: notebooks as scripts, which run, draw, and lead somewhere."""

import ast
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.py"))
MARKER = re.compile(r"^# %%(.*)$", re.MULTILINE)
every = pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)


def cells_of(path):
    """The header of a notebook, and (what its marker says, its text) of each cell."""
    header, *rest = MARKER.split(path.read_text(encoding="utf-8"))
    return header, list(zip(rest[::2], rest[1::2], strict=True))


def is_text(marker):
    return marker.split() == ["[markdown]"]


def text_of(path):
    """What a tutorial says between its code, as Markdown."""
    texts = [text for marker, text in cells_of(path)[1] if is_text(marker)]
    return "\n\n".join(re.sub(r"^# ?", "", text, flags=re.MULTILINE).strip() for text in texts)


def imported(path):
    """Names of the modules that a tutorial imports, without those of the standard library."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return sorted(name for name in found if name.partition(".")[0] not in sys.stdlib_module_names)


def test_there_are_tutorials():
    frameworks = ("pytorch", "jax", "tensorflow", "keras", "sentences")
    assert {f"start_{name}" for name in frameworks} <= {path.stem for path in TUTORIALS}


@every
def test_a_tutorial_is_a_notebook_with_a_title_and_a_picture(path):
    header, cells = cells_of(path)
    # Anything else above the title would become a cell.
    assert re.fullmatch(r"# ---\n# jupyter:\n(#   .*\n)+# ---\n\n", header), header
    first, title = cells[0]
    assert is_text(first)
    assert title.startswith("\n# # ")
    assert len(re.findall(r"^# ", text_of(path), re.MULTILINE)) == 1
    for marker, code in cells:
        if is_text(marker):
            assert all(line.startswith("#") for line in code.strip().splitlines()), code
        else:
            assert marker.strip() in ("", 'tags=["remove_cell"]')
            ast.parse(code)
    drawn = re.compile(r"\.(plot|scatter|imshow|bar|barh|hist)\(")
    assert any(drawn.search(code) for _, code in cells), "it draws nothing"


@every
def test_a_tutorial_does_not_hide_a_module(path):
    """Run as a script, its folder is the first place where Python looks for a module."""
    assert find_spec(path.stem) is None


@every
def test_links_of_a_tutorial_lead_to_pages(path):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", text_of(path))
    local = [link for link in links if "://" not in link]
    assert local, "it leads nowhere"
    for link in local:
        assert (path.parent / link).is_file(), link


@pytest.mark.slow
@pytest.mark.long
@every
def test_a_tutorial_runs(require, tmp_path, path):
    """As a script, from a folder of its own; a hidden last cell asserts what it was to show."""
    for module in imported(path):
        require(module)
    quiet = {"MPLBACKEND": "Agg", "TF_CPP_MIN_LOG_LEVEL": "2", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, env=os.environ | quiet, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
