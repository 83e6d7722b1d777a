"""What a person does not wait for who builds a method of their own, and names that moved."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="the recipes need scikit-learn")

INTEGRATIONS = Path(__file__).resolve().parents[2] / "integrations"
PACKAGES = ("fmicl_lightning", "fmicl_flax", "fmicl_keras")
HEAVY = {"sklearn", "matplotlib", "datasets"}


def imported(package):
    """Modules that a package of trainers imports, but for the demo, which trains and compares."""
    names = set()
    for path in (INTEGRATIONS / package).glob("*.py"):
        if path.stem == "demo":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names.add(node.module)
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
    return names


def test_a_method_is_built_without_what_only_evaluation_needs():
    """Neither trainers nor what they import of the recipes bring it.

    The recipes are imported without the frameworks, which takes a second; Lightning and Keras bring
    some of it themselves.
    """
    names = set().union(*map(imported, PACKAGES))
    assert not HEAVY & {name.partition(".")[0] for name in names}
    ours = sorted(name for name in names if name.startswith("fmicl_recipes"))
    code = f"import sys, {', '.join(ours)}; print({HEAVY!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_former_name_of_the_course_of_a_run_says_the_new_one():
    from fmicl_recipes.run import train_run

    sys.modules.pop("fmicl_recipes.runs", None)
    with pytest.warns(DeprecationWarning, match=r"recipes.runs` is called `fmicl_recipes.run` now"):
        from fmicl_recipes.runs import train_run as former
    assert former is train_run


def test_the_former_home_of_what_needs_no_labels_says_the_new_one():
    from fmicl_recipes import evaluation, sphere

    with pytest.warns(DeprecationWarning, match=r"is called `fmicl_recipes.sphere.alignment` now"):
        assert evaluation.alignment is sphere.alignment
    with pytest.raises(AttributeError, match="has no attribute 'aligment'"):
        evaluation.aligment  # noqa: B018
