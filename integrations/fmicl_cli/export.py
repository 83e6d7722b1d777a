"""The command `fmicl export`: a trained encoder given away, with its model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmicl_cli.console import say

EPILOG = (
    "Examples:\n\n"
    "fmicl export runs/js shared/js --license cc-by-4.0   # a folder; look at its README.md\n\n"
    "fmicl export runs/js hf://OWNER/NAME --private       # with the token of: hf auth login"
)


def export(
    run: Annotated[Path, typer.Argument(help="Folder of an evaluated run.")],
    to: Annotated[str, typer.Argument(help="Folder to write, or hf://OWNER/NAME.")],
    license: Annotated[
        str | None, typer.Option(help="Licence of the weights, such as cc-by-4.0 or mit.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a repository of the hub private.")
    ] = False,
) -> None:
    """Give an encoder away: weights, how to build them, and a model card.

    Whoever has it loads it by load_encoder(...) in PyTorch, Flax or Keras.
    """
    from fmicl_core.checks import invalid
    from fmicl_recipes.weights import export_model, push_to_hub
    from fmicl_recipes.weights.hub import is_hub

    if is_hub(to):
        say(f"pushed: {push_to_hub(run, to, license=license, private=private)}")
        return
    if private:
        raise invalid("private", "hf://OWNER/NAME beside it", private)
    say(f"written: {export_model(run, to, license=license)}")
