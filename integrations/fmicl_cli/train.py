"""`fmicl train`: from options to a trained and evaluated run."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from rich.text import Text

from fmicl_cli import simcse
from fmicl_cli.console import console, resumable, say, show
from fmicl_cli.frameworks import check_early, trainer_of
from fmicl_cli.options import EVERY_METHOD, with_settings
from fmicl_core.checks import check_name

HELP: dict[str, Any] = {
    "cls": simcse.by_method(simcse.app),
    "epilog": "Examples:\n\n"
    "fmicl train simclr --data digits --divergence js --out runs/js\n\n"
    "fmicl train simclr --data PATH/TO/IMAGES --image-size 64 --epochs 100   # labels or not\n\n"
    "fmicl train moco --data cifar10 --loss info-nce --temperature 0.2 --framework jax\n\n"
    "fmicl train simclr --out runs/js --resume\n\n"
    "fmicl train simcse --help   # sentence embeddings, with options of their own",
}


def list_presets(wanted: bool) -> None:
    """Print the recipes for images and for texts, and end the command."""
    from fmicl_recipes.presets import PRESETS
    from fmicl_recipes.text import TEXT_PRESETS

    if wanted:
        for name, options in {**PRESETS, **TEXT_PRESETS}.items():
            shown = " ".join(f"{k}={v}" for k, v in options.items())
            console.print(Text.assemble((name, "bold"), f"  {shown}"))
        raise typer.Exit


@with_settings
def train(
    method: Annotated[
        str, typer.Argument(help=f"Training method: {', '.join(EVERY_METHOD)}.")
    ],
    overrides: dict[str, Any],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write. [dim]\\[default: runs/DATA-METHOD-FRAMEWORK-LOSS-seedN][/dim]",
            rich_help_panel="Task",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the run in --out with its own settings; options that are given must "
            "be the same.",
            rich_help_panel="Task",
        ),
    ] = False,
    preset: Annotated[
        str | None,
        typer.Option(help="Recipe to start from; see --list-presets.", rich_help_panel="Task"),
    ] = None,
    presets: Annotated[
        bool,
        typer.Option(
            "--list-presets", help="Show the recipes and stop.", rich_help_panel="Task",
            callback=list_presets, is_eager=True,
        ),
    ] = False,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines", help="Score raw pixels and the random encoder, too.",
            rich_help_panel="Task",
        ),
    ] = False,
) -> None:  # fmt: skip
    """Train an encoder without labels, then evaluate it.

    Where the images have labels, they serve to score the encoder by kNN and linear probe.
    """
    from fmicl_recipes.options import recipe
    from fmicl_recipes.presets import PRESETS, resolve
    from fmicl_recipes.run_folder import RunFolder

    method = check_name("method", method, EVERY_METHOD)
    given = {"method": method, **overrides}
    if out is None or not resume:
        settings = resolve(preset, given)
        out = out or Path("runs") / (
            f"{Path(settings.data).name}-{settings.method}-{settings.framework}"
            f"-{settings.loss_title}-seed{settings.seed}"
        )
    if resume:
        settings = RunFolder(out).continued(given, recipe(preset, PRESETS))
    else:
        RunFolder(out).check_free()
    check_early(settings)
    with resumable(out, f"fmicl train {method} --out {quote(str(out))} --resume"):
        trainer = trainer_of(settings)
        from fmicl_recipes.run import train_run

        metrics = train_run(trainer, settings, out, resume=resume, baselines=baselines)
    epochs = f"{settings.epochs} epoch{'s' * (settings.epochs > 1)}"
    title = f"{Path(settings.data).name}, {epochs}"
    show({**metrics["baselines"], metrics["title"]: metrics}, title)
    say(f"written to {out}: metrics.json, history.csv, checkpoint, plots/")
