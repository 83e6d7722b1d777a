"""Sentences from files or the hub: columns to train on, and STS rows to evaluate on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmicl_core.checks import invalid
from fmicl_recipes.text.settings import TextSettings

Table = dict[str, list[Any]]

#: SimCSE's training sets: the hub's repository and the file in it.
HUB_TEXTS = {
    "wiki1m": ("princeton-nlp/datasets-for-simcse", "wiki1m_for_simcse.txt"),
    "nli": ("princeton-nlp/datasets-for-simcse", "nli_for_simcse.csv"),
}
#: The STS tasks and the hub's data sets of their rows.
STS_TASKS = {
    "sts12": "mteb/sts12-sts",
    "sts13": "mteb/sts13-sts",
    "sts14": "mteb/sts14-sts",
    "sts15": "mteb/sts15-sts",
    "sts16": "mteb/sts16-sts",
    "stsb": "mteb/stsbenchmark-sts",
}
STS_COLUMNS = ("task", "split", "sentence1", "sentence2", "score")
KINDS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}
#: Names of the columns of single sentences, and of anchor and positive.
SENTENCES = ("text", "sentence")
PAIRED = (("anchor", "positive"), ("sent0", "sent1"), ("sentence1", "sentence2"))
NEGATIVE_PREFIXES = ("negative", "hard_neg")


def training_columns(settings: TextSettings) -> dict[str, list[str]]:
    """The training texts by column: anchor, positive and, where there are some, negative_1, ...

    Of a file with a column `split` only the rows "train" are used. With pairs="dropout" both
    columns hold the distinct sentences; with "given", rows that score below min_score are dropped.

    Raises:
        ValueError: the source cannot be read, lacks the columns, or has fewer rows than a batch.
    """
    table = read_table(settings.data)
    if "split" in table:
        table = _where(table, [split == "train" for split in table["split"]])
    make = _sentences if settings.pairs == "dropout" else _given
    columns = make(table, settings)
    count = len(columns["anchor"])
    if settings.limit is not None and settings.limit < count:
        keep = np.random.default_rng(settings.seed).permutation(count)[: settings.limit]
        columns = {k: [v[i] for i in np.sort(keep)] for k, v in columns.items()}
        count = settings.limit
    if settings.batch_size > count:
        raise invalid("batch_size", f"at most the {count} training rows", settings.batch_size)
    return columns


def _sentences(table: Table, settings: TextSettings) -> dict[str, list[str]]:
    single = next(([name] for name in SENTENCES if name in table), None)
    paired = next((list(names) for names in PAIRED if set(names) <= set(table)), None)
    names = single or paired
    if names is None:
        raise _no_columns(settings, f"a column {' or '.join(SENTENCES)}, or two such as sentence1")
    table = {name: [text for text in table[name] if text is not None] for name in names}
    _check_values(table, "data", texts=names)
    every = [text for name in names for text in table[name] if text.strip()]
    distinct = list(dict.fromkeys(every))
    return {"anchor": distinct, "positive": distinct}


def _given(table: Table, settings: TextSettings) -> dict[str, list[str]]:
    names = next((names for names in PAIRED if set(names) <= set(table)), None)
    if names is None:
        raise _no_columns(settings, "columns anchor, positive, or sentence1, sentence2, score")
    hard = [name for name in table if name.startswith(NEGATIVE_PREFIXES)]
    scores = ["score"] if "score" in table else []
    _check_values(table, "data", texts=[*names, *hard], numbers=scores)
    if scores:
        table = _where(table, [score >= settings.min_score for score in table["score"]])
    columns = {"anchor": table[names[0]], "positive": table[names[1]]}
    return columns | {f"negative_{i}": table[name] for i, name in enumerate(hard, start=1)}


def _check_values(
    table: Table, argument: str, texts: Sequence[str], numbers: Sequence[str] = ()
) -> None:
    """Check that every row has a text in the columns `texts`, and a number in those `numbers`."""
    for names, kind, called in ((texts, str, "text"), (numbers, (int, float), "number")):
        for name in names:
            wrong = [value for value in table[name] if not isinstance(value, kind)]
            if wrong:
                raise invalid(argument, f"a {called} in every row of column {name!r}", wrong[0],
                              what=name)  # fmt: skip


def _no_columns(settings: TextSettings, expected: str) -> ValueError:
    return invalid("data", f"{expected}, with pairs={settings.pairs!r}", settings.data)


def _where(table: Table, keep: list[bool]) -> Table:
    return {k: [v for v, kept in zip(values, keep, strict=True) if kept]
            for k, values in table.items()}  # fmt: skip


def sts_rows(settings: TextSettings) -> Table:
    """Rows of the STS tasks, by the columns of `STS_COLUMNS`.

    Raises:
        ValueError: they cannot be read; the message says what to download or to give.
    """
    source = settings.sts
    if source is None and Path(settings.data).suffix in KINDS and Path(settings.data).is_file():
        table = read_table(settings.data)
        if set(STS_COLUMNS) <= set(table):
            _check_values(table, "data", STS_COLUMNS[:-1], STS_COLUMNS[-1:])
            return table
    if source is None:
        return _sts_of_hub()
    table = read_table(source, "sts")
    if not set(STS_COLUMNS) <= set(table):
        raise invalid("sts", f"columns {', '.join(STS_COLUMNS)}", sorted(table), what="columns")
    _check_values(table, "sts", STS_COLUMNS[:-1], STS_COLUMNS[-1:])
    return table


def _sts_of_hub() -> Table:
    rows: Table = {name: [] for name in STS_COLUMNS}
    for task, name in STS_TASKS.items():
        splits = {"test": "test"} | ({"validation": "dev"} if task == "stsb" else {})
        for split, ours in splits.items():
            part = _load(name, "sts", f"the rows of {', '.join(STS_TASKS.values())}", split=split)
            for column in ("sentence1", "sentence2", "score"):
                rows[column] += list(part[column])
            rows["task"] += [task] * len(part)
            rows["split"] += [ours] * len(part)
    return rows


def read_table(source: str, argument: str = "data") -> Table:
    """Columns of a file, or of one of `HUB_TEXTS`, by name.

    Raises:
        ValueError: it is missing or unreadable; the message says what to download or to give.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".txt":
        try:
            return {"text": path.read_text(encoding="utf-8").splitlines()}
        except UnicodeDecodeError as error:
            raise invalid(argument, "a text file in UTF-8", source, why=f"{error}.") from error
    if path.is_file() and path.suffix in KINDS:
        more = {"sep": "\t"} if path.suffix == ".tsv" else {}
        part = _load(KINDS[path.suffix], argument, str(path), data_files=str(path), split="train",
                     **more)  # fmt: skip
        return {name: list(part[name]) for name in part.column_names}
    if source not in HUB_TEXTS or argument != "data":
        known = f", or one of {', '.join(HUB_TEXTS)}" if argument == "data" else ""
        suffixes = ", ".join([".txt"] * (argument == "data") + [*KINDS])
        raise invalid(argument, f"a file that exists ({suffixes}){known}", source)
    repository, file = HUB_TEXTS[source]
    part = _load(repository, "data", f"the file {file} of {repository}", data_files=file,
                 split="train")  # fmt: skip
    return {name: list(part[name]) for name in part.column_names}


def _load(name: str, argument: str, what: str, **options: Any) -> Any:
    import datasets

    local = name in set(KINDS.values())
    try:
        return datasets.load_dataset(name, **options)
    except Exception as error:  # the library raises many kinds, and all mean the same to the user
        if local:
            raise invalid(argument, "a file that Hugging Face datasets can read", what,
                          why=f"It said: {error}.") from error  # fmt: skip
        raise invalid(
            argument, "data that can be reached", name,
            why=f"The hub could not be read ({type(error).__name__}). Download {what} where there "
            f"is access to the hub, and give its path here with --{argument}.",
        ) from error  # fmt: skip


def normalised(texts: Iterable[str]) -> list[str]:
    """The letters and digits of texts in lower case: equal for copies in any tokenisation."""
    return ["".join(re.findall(r"[^\W_]", text.lower())) for text in texts]
