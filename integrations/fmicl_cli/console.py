"""What the commands print: texts as they are, since names and messages may hold brackets."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

console = Console(markup=False, emoji=False)
errors = Console(stderr=True, markup=False, emoji=False)


def say(text: str, to: Console = console) -> None:
    """Print a text with no line break that would spoil a path or a command."""
    to.print(text, highlight=False, soft_wrap=True)


def complain(kind: str, message: object) -> None:
    """Print why a command ended, in one line on standard error, where the message has one."""
    line = Text.assemble((f"{kind}:", "red"), f" {message}")
    errors.print(line, highlight=False, soft_wrap=True)


def print_table(headings: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> None:
    """Print a table."""
    grid = Table(title=title)
    for index, heading in enumerate(headings):
        number = index > 0 and cells and cells[-1][index].replace(".", "").lstrip("-").isdigit()
        grid.add_column(heading, justify="right" if number else "left", no_wrap=index == 0)
    for row in cells:
        grid.add_row(*row)
    console.print(grid)


@contextmanager
def quiet(libraries: Mapping[str, str | None]) -> Iterator[None]:
    """Leave the advice of libraries out meanwhile.

    Args:
        libraries: names of their loggers, and the variable from which each takes its level when it
            is imported, if there is one. What the user has set there is a wish, and stays.
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
