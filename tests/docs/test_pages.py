"""Every Python example that a reader sees has been run, as it is written."""

import os
import re
import subprocess
import sys

import pytest
import run_page

PAGES = {str(path.relative_to(run_page.ROOT)): path for path in run_page.all_pages()}
#: Pages whose examples another test runs, beside libraries that have an environment of their own.
ELSEWHERE = {"docs/coming-from.md": "tests/peers/test_coming_from.py"}
WITH_EXAMPLES = [
    name for name, path in PAGES.items() if run_page.examples_of(path) and name not in ELSEWHERE
]
#: Keras takes one backend a process, when it is imported.
KERAS = [name for name in WITH_EXAMPLES if "keras" in run_page.modules_of(PAGES[name])]


@pytest.mark.parametrize("name", [name for name in WITH_EXAMPLES if name not in KERAS])
def test_the_examples_of_a_page_run(require, tmp_path, monkeypatch, name):
    for module in run_page.modules_of(PAGES[name]):
        require(module)
    monkeypatch.chdir(tmp_path)
    run_page.run_page(PAGES[name])


@pytest.mark.long
@pytest.mark.parametrize("name", KERAS)
@pytest.mark.parametrize(
    "backend",
    ["torch", *(pytest.param(other, marks=pytest.mark.slow) for other in ("tensorflow", "jax"))],
)  # fmt: skip
def test_the_examples_of_a_page_with_keras_run(require, tmp_path, name, backend):
    for module in (*run_page.modules_of(PAGES[name]), backend):
        require(module)
    few = {"KERAS_MAX_EPOCHS": "2"}  # however many a page asks for
    variables = os.environ | few | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, run_page.__file__, PAGES[name]]
    result = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", PAGES)
def test_no_python_on_a_page_escapes(name):
    """Fences that are spelt otherwise would look like Python, and not be run."""
    text = PAGES[name].read_text(encoding="utf-8")
    spelt = re.findall(r"^[ >]*(?:```+|~~~+) *(\{? *\.?py.*|\{.*py.*)$", text, re.MULTILINE | re.I)
    assert set(spelt) <= {"python"}
    invisible = text.count("invisible-code")
    assert len(run_page.examples_of(PAGES[name])) == len(spelt) + invisible


@pytest.mark.parametrize(("page", "test"), ELSEWHERE.items())
def test_what_is_run_elsewhere_is_read_there(page, test):
    assert PAGES[page].name in (run_page.ROOT / test).read_text(encoding="utf-8")


def test_examples_in_tabs_and_comments_share_a_namespace_and_name_the_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!--- invisible-code-block: python\nx = 1\n--->\n\n"
        '=== "PyTorch"\n\n    ```python\n    if x:\n        y = 2\n    ```\n\n'
        "```python\nimport fmicl_core.checks\nfrom os.path import join\n\n1 / (y - 2)\n```\n"
    )
    assert run_page.modules_of(page) == ["fmicl_core", "os"]
    with pytest.raises(ZeroDivisionError) as error:
        run_page.run_page(page)
    assert error.traceback[-1].path == page
    assert error.traceback[-1].lineno + 1 == 16
