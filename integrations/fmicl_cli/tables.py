"""The tables of runs that commands print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fmicl_cli.console import console, print_table


def show(rows: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Print metrics as one table, with what its columns mean."""
    from fmicl_recipes.report import LEGEND, table

    print_table(*table(rows), title)
    console.print(LEGEND, style="dim", highlight=False)
