"""The history of a run: a row of numbers for every epoch, and the warning of a collapse."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from fmicl_core import FMICL, fmicl_reference
from fmicl_recipes import sphere
from fmicl_recipes.data import Images, StoredImages
from fmicl_recipes.data.stored import rows_of
from fmicl_recipes.sphere import Features
from fmicl_recipes.stopping import NonFiniteLossError
from fmicl_recipes.trainer import Trainer

#: Whole numbers (N,) that say which rows belong together.
Ids = NDArray[np.integer]
#: Number of epochs in a row with collapsed features that make a warning.
COLLAPSE_PATIENCE = 3


def epoch_row(
    epoch: int,
    step: int,
    loss: float,
    x: Features,
    y: Features,
    objective: FMICL | None = None,
    ids: Ids | None = None,
    **measured: float,
) -> dict[str, float]:
    """The row of an epoch.

    Args:
        epoch: number of the epoch that has just finished, from 1.
        step: number of steps so far.
        loss: mean over the epoch.
        x: (N, d) features of the last batch as the loss saw them: first view, or queries.
        y: (N, d) features of the last batch as the loss saw them: second view, or keys.
        objective: settings of the loss where it is f-MICL; with alpha = "auto" the row has the
            weight of the last batch, see `weight_found`.
        ids: (N,) labels of the last batch that the loss was told; None if none.
        measured: "images_per_second", and "knn_accuracy" where it was measured.

    Raises:
        NonFiniteLossError: the features are not finite.
    """
    check_finite_features(x, y)
    found = weight_found(objective, x, y, ids)
    return {"epoch": epoch, "step": step, "loss": loss, **sphere.spread(x, y), **found, **measured}


def weight_found(
    objective: FMICL | None, x: Features, y: Features, ids: Ids | None = None
) -> dict[str, float]:
    """The alpha that f-MICL with alpha = "auto" found for a batch, by its name in the history.

    It is that of the pairs of x and y alone: the keys of the batch stand for MoCo's queue, the
    first two views for all views of SimCLR, and the first loss for both of MoCo v3. Only the first
    `sphere.PAIR_ROWS` rows count.

    Args:
        objective: settings of the loss; of None, and where alpha is a number, nothing is found.
        x, y: (N, d) features of the batch as the loss saw them.
        ids: (N,) labels of the rows, if the loss was told any.
    """
    if objective is None or objective.strength is None:
        return {}
    some = slice(sphere.PAIR_ROWS)
    labels = None if ids is None else ids[some]
    return {"alpha": fmicl_reference(x[some], y[some], objective, ids=labels).alpha}


def knn(trainer: Trainer) -> dict[str, float]:
    """Accuracy in [0, 1] by kNN of the encoder as it is now, by its name in the history.

    There is none without labels.

    Raises:
        NonFiniteLossError: the features are not finite.
    """
    data = trainer.data
    if data.labels is None:
        return {}
    # scikit-learn, which is not for who builds a method.
    from fmicl_recipes.evaluation import knn_accuracy, knn_rows

    labels, test_labels = data.labels
    settings = trainer.settings
    images: Images | StoredImages = data.train_images
    rows = knn_rows(len(images), settings.knn_train, settings.seed)
    if rows is not None:
        images, labels = rows_of(images, rows), labels[rows]
    train, test = trainer.encode(images), trainer.encode(data.test_images)
    check_finite_features(train, test)
    k = settings.knn_k
    return {"knn_accuracy": knn_accuracy(train, labels, test, test_labels, k=k)}


def check_finite_features(*features: Features) -> None:
    """Check that training has not diverged, though every weight may be finite.

    A feature whose squared length overflows float32 counts as one that is not finite: the losses
    see no direction in it, and its row as zero after normalisation looks as if it were far from
    all others. Features of zero length are a collapse, which `sphere.collapsed` knows.

    Raises:
        NonFiniteLossError: features are not finite.
    """
    for rows in features:
        squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        if not (squares <= np.finfo(np.float32).max).all():  # nor where one is NaN
            raise NonFiniteLossError(
                "The features are not finite, or their squares are not: training has diverged."
                " Try a smaller --lr."
            )


def warn_of_collapse(history: Sequence[Mapping[str, float]]) -> None:
    """Warn at the epoch that makes `COLLAPSE_PATIENCE` collapsed ones in a row; once per collapse.

    Not at the first one: features of an untrained encoder can lie close together, too.
    """
    collapsed = [sphere.collapsed(row) for row in reversed(history)]
    if sum(1 for _ in takewhile(bool, collapsed)) != COLLAPSE_PATIENCE:
        return
    last = history[-1]
    warnings.warn(
        f"The features have collapsed by epoch {last['epoch']:.0f}: embedding rank"
        f" {last['embedding_rank']:.1f}, uniformity {last['uniformity']:.2f}. They hardly tell"
        " samples apart. reverse_kl and neyman do that by themselves; otherwise try another alpha"
        " or a smaller --lr.",
        UserWarning,
        stacklevel=2,
    )
