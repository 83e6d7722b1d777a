"""What the commands print: texts as they are, since names and messages may hold brackets."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from fmicl_recipes.stopping import NonFiniteLossError, RunStopped

#: Exit code after Ctrl-C, as shells have it.
INTERRUPTED = 130

console = Console(markup=False, emoji=False)
errors = Console(stderr=True, markup=False, emoji=False)


def say(text: str, to: Console = console) -> None:
    """Print a text with no line break that would spoil a path or a command."""
    to.print(text, highlight=False, soft_wrap=True)


def complain(kind: str, message: object) -> None:
    """Print a message of some kind, such as an error, in one line on standard error."""
    line = Text.assemble((f"{kind}:", "red"), f" {message}")
    errors.print(line, highlight=False, soft_wrap=True)


class Stopped(SystemExit):
    """The command ends before its end, of which the user has been told."""


@contextmanager
def resumable(out: Path, command: str) -> Iterator[None]:
    """Where a run stops, say that `command` continues it in `out`.

    After Ctrl-C the exit code is 130; else it is that of the `RunStopped`.
    """
    try:
        yield
    except (KeyboardInterrupt, RunStopped) as error:
        how = "there was no checkpoint yet to go on from"
        if (out / "settings.json").exists():
            how = f"go on with: {command}"
        if isinstance(error, KeyboardInterrupt):
            say(f"stopped; {how}", errors)
            raise Stopped(INTERRUPTED) from None
        if isinstance(error, NonFiniteLossError):  # going on would end in the same
            raise
        complain("stopped", f"{error} To {how}" if how.startswith("go") else error)
        raise Stopped(error.exit_code) from error


@contextmanager
def brief_warnings() -> Iterator[None]:
    """Print warnings of fmicl in one line, each once, without the place in our code."""
    usual, told = warnings.showwarning, set[str]()

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        ours = any(part in filename for part in ("fmicl_", "typer", "click"))
        if category is not UserWarning or not ours:
            usual(message, category, filename, lineno, file, line)
        elif str(message) not in told:
            told.add(str(message))
            complain("warning", message)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


def print_table(headings: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> None:
    """Print a table; where there is no terminal, in its full width, so that logs hold all of it.

    In a terminal that is too narrow, headings and texts are broken, but no number is.
    """
    grid = _grid(headings, cells, title)
    wide = Console(file=console.file, width=10_000, markup=False, emoji=False)
    width = Measurement.get(wide, wide.options, grid).maximum
    if console.is_terminal and width > console.width:
        grid = _grid([heading.replace(" ", "\n") for heading in headings], cells, title)
        grid.box, grid.pad_edge = SIMPLE_HEAD, False  # no lines, which leaves room
        width = max(console.width, Measurement.get(wide, wide.options, grid).minimum)
    wide.width = width
    wide.print(grid)


def _grid(headings: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> Table:
    grid = Table(title=title)
    for heading, *column in zip(headings, *cells, strict=True):
        number = bool(column) and all(_is_number(cell) for cell in column)
        grid.add_column(heading, justify="right" if number else "left", no_wrap=number)
    for row in cells:
        grid.add_row(*row)
    return grid


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(".", "").lstrip("-").isdigit()


def show(rows: Mapping[str, Mapping[str, Any]], title: str, remarks: Sequence[str] = ()) -> None:
    """Print metrics by name as one table, with remarks and the legend below it."""
    from fmicl_recipes.report import legend, table

    print_table(*table(rows), title)
    for remark in remarks:
        say(remark)
    for line in legend(rows):
        console.print(line, style="dim", highlight=False)


def show_run(metrics: Mapping[str, Any], title: str) -> None:
    """Print the metrics of a run, below those of its baselines."""
    show({**metrics["baselines"], metrics["title"]: metrics}, title)


@contextmanager
def quiet(libraries: Mapping[str, str | None]) -> Iterator[None]:
    """Keep libraries from printing advice while the block runs.

    Args:
        libraries: name of each library's logger, with the environment variable from which it takes
            its level when it is imported, or None. A variable that the user has set stays.
    """
    wishes = {variable for variable in libraries.values() if variable and variable in os.environ}
    hushed = {name: variable for name, variable in libraries.items() if variable not in wishes}
    variables = [variable for variable in hushed.values() if variable]
    levels = {name: logging.getLogger(name).level for name in hushed}
    os.environ.update(dict.fromkeys(variables, "error"))
    for name in hushed:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for variable in variables:
            os.environ.pop(variable, None)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
