"""The command `fmicl embed`: features of images by the encoder of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmicl_cli.console import say
from fmicl_cli.frameworks import NotInstalled, check_installed, load_package, missing
from fmicl_core.checks import check_choice, invalid
from fmicl_recipes.choices import FRAMEWORKS, KERAS_BACKENDS
from fmicl_recipes.settings import TrainSettings

if TYPE_CHECKING:
    from fmicl_recipes.weights import Model

EPILOG = (
    "Examples:\n\n"
    "fmicl embed runs/js --out js.npz   # the images that it was trained and evaluated on\n\n"
    "fmicl embed runs/js --data PATH/TO/IMAGES --out features.parquet\n\n"
    "fmicl embed runs/js --data my.parquet --image-column photo --label-column none --out my.npz"
    "\n\n"
    "fmicl embed runs/js --out js.npz --framework jax   # whichever framework trained it"
)


def embed(
    run: Annotated[
        str, typer.Argument(help="Folder of a trained run: model.json and encoder.safetensors.")
    ],
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
    framework: Annotated[
        str | None,
        typer.Option(
            help=f"Framework that computes: {', '.join(FRAMEWORKS)}."
            " [dim]\\[default: that which trained the run][/dim]"
        ),
    ] = None,
    keras_backend: Annotated[
        str | None,
        typer.Option(
            help="Backend of Keras, which --framework tensorflow chooses:"
            f" {', '.join(KERAS_BACKENDS)}."
            f" [dim]\\[default: the run's, or {TrainSettings.keras_backend}][/dim]"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Encode images with the encoder of a run, and write their features into a file.

    Images of another size or colour are brought to those that the run was trained on.
    """
    from fmicl_recipes.weights import open_model

    model = open_model(run)
    chosen = _framework(model, framework, keras_backend)
    from fmicl_recipes import embed as recipe

    def encode(model: Model, images: Any) -> Any:
        return load_package(*chosen).features(model, images, progress=True)

    features = recipe.embed(
        model, out, encode, data, image_column=image_column, label_column=label_column,
        overwrite=overwrite,
    )  # fmt: skip
    say(f"written: {out}, {features.shape[1]} features each of {features.shape[0]} images")


def _framework(model: Model, framework: str | None, keras_backend: str | None) -> tuple[str, str]:
    """The framework that computes, and Keras' backend if it is Keras: as asked for, or the run's.

    Raises:
        ValueError: the framework is unknown, or lacks the run's encoder.
        NotInstalled: the framework is not there.
    """
    own = model.framework if framework is None else (framework, TrainSettings.keras_backend)
    name = check_choice("framework", own[0], FRAMEWORKS)
    if keras_backend is not None and name != "tensorflow":
        raise invalid("keras_backend", "none unless --framework tensorflow", keras_backend)
    backend = check_choice("keras_backend", keras_backend or own[1], KERAS_BACKENDS)
    if name != "torch":
        model.check_ours()
    try:
        check_installed(name, backend)
    except NotInstalled as error:
        others = [other for other in FRAMEWORKS if not missing(other, backend)]
        if framework is not None or not others or not model.architecture.ours:
            raise
        raise NotInstalled(
            f"{error}, or let another compute the same features: --framework {others[0]}"
        ) from error
    return name, backend
