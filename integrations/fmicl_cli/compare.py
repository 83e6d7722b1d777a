"""`fmicl compare`: finished runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmicl_cli.console import say, show


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    out: Annotated[Path, typer.Option(help="Folder for table and plots.")] = Path("comparison"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the comparison that is in --out.")
    ] = False,
) -> None:
    """Put runs side by side: one table, and plots of loss, distances, embeddings, accuracies.

    What the runs differ in beside the loss stands below the table.
    """
    from fmicl_recipes.compare import compare_runs

    found = compare_runs(runs, out, overwrite=overwrite)
    show(found.rows, "comparison", found.remarks)
    for file in found.files:
        say(f"written: {file}")
