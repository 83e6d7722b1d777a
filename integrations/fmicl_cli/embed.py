"""The command `fmicl embed`: features of images by the encoder of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fmicl_cli.console import say
from fmicl_cli.frameworks import load_package

EPILOG = (
    "Examples:\n\n"
    "fmicl embed runs/js --out js.npz   # the images that it was trained and evaluated on\n\n"
    "fmicl embed runs/js --data PATH/TO/IMAGES --out features.parquet\n\n"
    "fmicl embed runs/js --data my.parquet --image-column photo --label-column none --out my.npz"
)


def embed(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.")],
    out: Annotated[
        Path,
        typer.Option(
            help="File to write: .npz (arrays features, name, split, labels, class_names) or"
            " .parquet (columns name, split, label, feature)."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Images: all that fmicl train takes. [dim]\\[default: the run's own][/dim]"
        ),
    ] = None,
    image_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the images. [dim]\\[default: the first that holds images][/dim]"
        ),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the labels, or none. [dim]\\[default: one with a usual name][/dim]"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Encode images with the encoder of a run, and write their features into a file.

    Images of another size or colour are brought to those that the run was trained on.
    """
    from fmicl_recipes import embed as recipe

    features = recipe.embed(
        run, out, _features, data, image_column=image_column, label_column=label_column,
        overwrite=overwrite,
    )  # fmt: skip
    say(f"written: {out}, {features.shape[1]} features each of {features.shape[0]} images")


def _features(run: Path, images: Any) -> Any:
    """The features of images by the encoder of a run, in the framework that trained it."""
    from fmicl_recipes.run_folder import RunFolder

    return load_package(RunFolder(run).settings()).features(run, images)
