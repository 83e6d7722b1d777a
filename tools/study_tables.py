"""`python tools/study_tables.py`: tables of studies in the documents that show them.

A document says what stands there, and this writes it:

    <!-- study: cifar10 main; rows InfoNCE | KL; without seeds, top-1, s -->
    (the table)
    <!-- end of study -->

NAME GROUP of benchmarks/results/studies; `rows` names entries, by default all; `without` names
columns. `cifar10 main tried` is the table of what was tried in the group.
"""

from __future__ import annotations

import functools
from pathlib import Path

from marked import filled

from fmicl_core.checks import check_choice
from fmicl_recipes.report import pipes
from fmicl_recipes.study import Results, Study, summary

ROOT = Path(__file__).resolve().parents[1]
STUDIES = ROOT / "benchmarks" / "results" / "studies"


def documents() -> list[Path]:
    """The documents that may show tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def written(text: str) -> str:
    """A document with its tables as the studies have them now.

    Raises:
        ValueError: a mark has no end, or an end no mark.
    """
    return filled(text, "study", table)


def table(what: str) -> str:
    """The table that a document asks for.

    Raises:
        ValueError: there is no such study, group, row or column.
    """
    where, *options = (part.strip() for part in what.split(";"))
    words = {key: rest for key, _, rest in (option.partition(" ") for option in options)}
    for key in words:
        check_choice("option", key, ("rows", "without"))
    name, group, *tried = where.split()
    study, results = read(name)
    check_choice("group", group, study.groups)
    if tried:
        heads, cells = summary.choices_table(study, study.members(group), results)
    else:
        heads, cells = summary.group_table(study, group, results)
    if "rows" in words:
        named, kept = {row[0]: row for row in cells}, words["rows"].split("|")
        for row in kept:
            check_choice("rows", row.strip(), named)
        cells = [named[row.strip()] for row in kept]
    dropped = [head.strip() for head in words.get("without", "").split(",") if head.strip()]
    known = dict.fromkeys([*heads, *(title for _, title, _ in summary.known_columns(study))])
    for head in dropped:
        check_choice("without", head, known)
    columns = [i for i, head in enumerate(heads) if head not in dropped]
    text = pipes([heads[i] for i in columns], [[row[i] for i in columns] for row in cells])
    noise = "" if tried else summary.pooled(study, group, results)
    return "\n\n".join(filter(None, [text, noise]))


@functools.cache
def read(name: str) -> tuple[Study, Results]:
    """A study and its rows."""
    return Study.read(STUDIES / name / "study.toml"), Results(STUDIES / name)


def main() -> None:
    """Write the tables of every document that is behind its studies."""
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if (new := written(text)) != text:
            path.write_text(new, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
