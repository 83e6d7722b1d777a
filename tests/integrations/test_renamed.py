"""Names of the recipes that moved work for one more version, and say where they are now."""

import sys

import pytest

pytest.importorskip("sklearn", reason="the recipes need scikit-learn")


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
