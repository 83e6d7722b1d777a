"""The hooks of the site: names without a docstring, formulas and links of notebooks."""

import re
from types import SimpleNamespace

import pytest

PACKAGE = '''"""A package."""
__all__ = ["Good", "bad", "fine"]
def bad(): pass
def fine():
    """Do it."""
class Good:
    """A class."""
    def method(self): pass
    def _private(self): pass
    def __len__(self): return 0
'''


@pytest.fixture
def reference(require):
    require("griffe")
    import site_reference

    return site_reference


def test_public_names_and_methods_without_a_docstring_are_found(reference, tmp_path, monkeypatch):
    """They end the build; private names and Python's own do not count."""
    import griffe

    (tmp_path / "sample_package.py").write_text(PACKAGE)
    package = griffe.load("sample_package", search_paths=[tmp_path])
    monkeypatch.setattr(reference, "load", lambda name: package)
    found = list(reference.undocumented("sample_package"))
    assert found == ["sample_package.Good.method", "sample_package.bad"]


def test_defaults_are_shown_by_their_values(reference):
    """`DEFAULTS.divergence` says nothing to a reader."""
    import griffe

    package = griffe.load(
        "fmicl_torch",
        search_paths=[reference.ROOT / "backends"],
        extensions=griffe.load_extensions(str(reference.ROOT / "tools" / "site_defaults.py")),
    )
    shown = {each.name: str(each.default) for each in package["loss.fmicl_loss"].parameters}
    assert (shown["divergence"], shown["alpha"], shown["y"]) == ('"kl"', "40.0", "None")


def test_formulas_and_links_of_notebooks(require):
    """Code keeps its dollars; a link to no page is said, and stays."""
    require("mkdocs")
    import site_tutorials

    address = SimpleNamespace(url_relative_to=lambda _: "../../pairs/")
    files = SimpleNamespace(get_file_from_path={"pairs.md": address}.get)
    page = SimpleNamespace(file=SimpleNamespace(src_uri="tutorials/a.py"))
    text = '<a href="../pairs.md#labels">p</a> $x_i$ <code>$HOME $PATH</code> <a href="no.md">n</a>'
    made = site_tutorials.on_page_content(text, page=page, files=files)
    assert 'href="../../pairs/#labels"' in made
    assert len(re.findall("<math", made)) == 1
    assert "<code>$HOME $PATH</code>" in made
    assert 'href="no.md"' in made
