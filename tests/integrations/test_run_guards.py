"""What all trainers share: diverged training is told from collapse, and neither looks finished."""

import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the recipes need scikit-learn")

from fmicl_core import FMICL, fmicl_reference
from fmicl_recipes import sphere
from fmicl_recipes.history import epoch_row
from fmicl_recipes.progress import Progress
from fmicl_recipes.trainer import NonFiniteLossError

GOOD = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def no_warnings():
    """Nothing of NumPy reaches the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.3e38, 2e19, -2e19])
@pytest.mark.parametrize("side", [0, 1])
def test_features_that_are_not_finite_or_whose_squares_are_not_stop_a_run(value, side):
    views = [GOOD.copy(), GOOD.copy()]
    views[side][3, 2] = value
    with pytest.raises(NonFiniteLossError, match="training has diverged"):
        epoch_row(1, 4, 0.5, *views)


def test_large_features_that_the_losses_can_take_do_not():
    """All is as for features of usual size, since only directions count."""
    row, large = (epoch_row(1, 4, 0.5, x, x) for x in (GOOD, GOOD * np.float32(1e18)))
    assert large == pytest.approx(row, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("negatives", ["all", "cross"])
def test_alpha_that_is_found_has_a_column_and_is_the_loss_own(negatives):
    """Whether labels join rows or not; a number alpha, and another loss, have none."""
    objective, ids = FMICL("js", alpha="auto", strength=3.0, negatives=negatives), np.arange(20) % 6
    other = GOOD + np.float32(0.1)
    for labels in (None, ids):
        truth = fmicl_reference(GOOD, other, objective, ids=labels)
        row = epoch_row(1, 4, 0.5, GOOD, other, objective, labels)
        assert row["alpha"] == pytest.approx(truth.alpha)
        assert truth.loss == pytest.approx(truth.alpha * truth.penalty - truth.score)
    for known in (None, FMICL()):
        assert "alpha" not in epoch_row(1, 4, 0.5, GOOD, other, known)


@pytest.mark.parametrize("point", [0.0, 1.0])
def test_features_on_one_point_are_collapsed_where_that_point_is_the_origin_too(point):
    x = np.full((20, 4), point, np.float32)
    row = epoch_row(1, 4, 0.5, x, x)
    assert sphere.collapsed(row)
    assert row["uniformity"] == pytest.approx(0.0, abs=1e-5)
    assert row["contrastive_accuracy"] == 0.0


def test_the_bar_says_what_it_waits_for_and_how_views_are_told_apart(capsys):
    bar = Progress("simclr", 2, 4, 0, shown=True)
    bar.advance(1, 0.5)
    bar.say("evaluating")
    bar.end_epoch({"epoch": 1, "loss": 0.5, "contrastive_accuracy": 0.623, "knn_accuracy": 0.4})
    bar.advance(2, 0.25)
    bar.say("evaluating")
    bar.end_epoch({"epoch": 2, "loss": 0.25, "contrastive_accuracy": 0.871})
    bar.close()
    shown = capsys.readouterr().err
    for words in ("compiling", "evaluating", "epoch=1/2, loss=0.5000, batch top-1=62%, knn=40%"):
        assert words in shown
    assert shown.strip().endswith("epoch=2/2, loss=0.2500, batch top-1=87%, knn=40%]")
    Progress("simclr", 2, 4, 0, shown=False).close()
    assert capsys.readouterr().err == ""
