"""Tables of runs and baselines, with a legend that says what the columns mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fmicl_core.checks import invalid
from fmicl_recipes.checks import is_number

#: Contents of metrics.json, by name.
Rows = Mapping[str, Mapping[str, Any]]
#: Most characters of a title.
LONGEST = 100
#: A column: key in metrics.json, heading, format.
Column = tuple[str, str, str]

#: Columns of the tables of runs on images; a column that no row has is left out.
COLUMNS: tuple[Column, ...] = (
    ("knn_accuracy", "kNN", "{:.1%}"),
    ("linear10_accuracy", "linear, 10", "{:.1%}"),
    ("linear_accuracy", "linear, all", "{:.1%}"),
    ("contrastive_accuracy", "top-1", "{:.1%}"),
    ("alignment", "align", "{:.3f}"),
    ("uniformity", "uniform", "{:.3f}"),
    ("embedding_rank", "rank", "{:.1f}"),
    ("seconds", "s", "{:.0f}"),
)
#: Columns of the tables of runs on texts; correlations in percent.
TEXT_COLUMNS: tuple[Column, ...] = (
    *((task, label, "{:.1%}") for task, label in (
        ("sts12", "STS12"), ("sts13", "STS13"), ("sts14", "STS14"), ("sts15", "STS15"),
        ("sts16", "STS16"), ("stsb", "STS-B"))),
    ("sts_mean", "mean", "{:.1%}"),
    ("sts_unseen_mean", "mean, unseen", "{:.1%}"),
    ("alignment", "align", "{:.3f}"),
    ("uniformity", "uniform", "{:.3f}"),
    ("seconds", "s", "{:.0f}"),
)  # fmt: skip

#: What columns mean, in sentences to print below a table where one of the keys is there.
LEGEND = (
    (("knn_accuracy", "linear10_accuracy", "linear_accuracy"),
     "kNN, linear: test accuracy of the encoder's features in percent; linear probe with 10 labels "
     "a class, and with all."),
    (("contrastive_accuracy",),
     "top-1: percent of the views of test images whose nearest other view is of the same image."),
    (("alignment", "uniformity", "embedding_rank"),
     "align, uniform: Wang and Isola's alignment and uniformity of the projections; lower is "
     "better. rank: their effective rank."),
    (("seconds",), "s: seconds of training."),
)  # fmt: skip
TEXT_LEGEND = (
    (("sts12", "sts13", "sts14", "sts15", "sts16", "stsb", "sts_mean"),
     "STS, mean: Spearman correlation of cosine and human score, in percent."),
    (("sts_unseen_mean",),
     "unseen: over the pairs none of whose sentences was in the training data."),
    (("alignment", "uniformity"),
     "align, uniform: Wang and Isola's alignment of STS-B's development pairs with a score of 4 or "
     "more, and uniformity of its sentences; lower is better."),
    (("seconds",), "s: seconds of training."),
)  # fmt: skip
COLLAPSED = (
    "collapsed: what the loss sees (of images the projections) lies nearly on a line or on a point "
    "and hardly tells samples apart."
)
#: Why a loss may be negative, and what does not follow from it.
NEGATIVE_LOSSES = {
    "fmicl": "The f-MICL loss is minus an estimate of an f-mutual information, with the term of "
    "the negative pairs weighted by alpha, so it may be below 0.",
    "alignment-uniformity": "The alignment-uniformity loss has the logarithm of a mean of numbers "
    "below 1, so it may be below 0.",
    "dcl": "The decoupled contrastive loss has the logarithm of a sum without the positive pair, "
    "so it may be below 0.",
    "spectral": "The spectral loss is a squared distance without its constant, so it may be "
    "below 0.",
}  # fmt: skip
LOWER_IS_BETTER = "Lower is better; values of different losses or divergences do not compare."


def check_rows(rows: Any) -> None:
    """Check metrics by name, whosever metrics.json they are of: that tables can show them.

    Raises:
        ValueError: there are no such, or names are no plain text, or scores no numbers.
    """
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise invalid("run", "a metrics.json with metrics by name", rows, what="baselines")
    for name, row in rows.items():
        if not is_title(name):
            raise invalid("run", f"a title of at most {LONGEST} letters without signs of Markdown",
                          name, what="title")  # fmt: skip
        tasks, pairs = row.get("sts", {}), row.get("sts_pairs", {})
        if not isinstance(tasks, dict) or not isinstance(pairs, dict):
            raise invalid("run", "a metrics.json with scores by task", tasks, what="sts")
        scores = {key: row.get(key) for key, _, _ in (*COLUMNS, *TEXT_COLUMNS)}
        for key, value in (*scores.items(), *tasks.items(), *pairs.items()):
            if value is not None and not is_number(value):
                raise invalid("run", "a metrics.json with numbers as scores", value, what=key)


def is_title(value: Any) -> bool:
    """Whether a value can be the title of a run: a short text without signs of Markdown."""
    return isinstance(value, str) and len(value) <= LONGEST and not set(value) & set("|<>[]$\\`")


def is_text(rows: Rows) -> bool:
    """Whether metrics are those of texts."""
    return any("sts" in row for row in rows.values())


def _flat(rows: Rows) -> Rows:
    """Rows with the scores of single tasks beside the others."""
    return {name: {**row, **row.get("sts", {})} for name, row in rows.items()}


def _has(rows: Rows, key: str) -> bool:
    return any(row.get(key) is not None for row in rows.values())


def table(rows: Rows) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of runs on images or on texts; accuracies and correlations in percent.

    A column that no row has is left out, and a row without a value has a dash. The name of a row
    whose features have collapsed says so.
    """
    columns = TEXT_COLUMNS if is_text(rows) else COLUMNS
    rows = _flat(rows)
    columns = tuple(column for column in columns if _has(rows, column[0]))
    headings = ["features", *(heading for _, heading, _ in columns)]
    cells = [
        [
            f"{name} (collapsed)" if row.get("collapsed") else name,
            *(_cell(row, key, form) for key, _, form in columns),
        ]
        for name, row in rows.items()
    ]
    return headings, cells


def _cell(row: Mapping[str, Any], key: str, form: str) -> str:
    return form.format(row[key]).removesuffix("%") if row.get(key) is not None else "-"


def legend(rows: Rows) -> list[str]:
    """Sentences that say what the columns of `table` mean, and its marks, and losses below 0."""
    parts = TEXT_LEGEND if is_text(rows) else LEGEND
    rows = _flat(rows)
    lines = [text for keys, text in parts if any(_has(rows, key) for key in keys)]
    if any(row.get("collapsed") for row in rows.values()):
        lines.append(COLLAPSED)
    return [*lines, *negative_losses(rows)]


def negative_losses(rows: Rows) -> list[str]:
    """Why the losses of these runs may be negative; nothing for InfoNCE, which is never below 0."""
    used = {row["loss"] for row in rows.values() if row.get("loss") in NEGATIVE_LOSSES}
    lines = [text for loss, text in NEGATIVE_LOSSES.items() if loss in used]
    return [" ".join([*lines, LOWER_IS_BETTER])] if lines else []


def markdown(rows: Rows, remarks: Sequence[str] = ()) -> str:
    """The table in Markdown, with remarks and legend below it."""
    text = pipes(*table(rows)) + "\n"
    return "\n".join([text, *(f"- {line}" for line in (*remarks, *legend(rows)))]) + "\n"


def pipes(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
