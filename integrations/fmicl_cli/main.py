"""The `fmicl` command: its sub-commands, and how it ends when one of them fails."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import fmicl_core
from fmicl_cli import check, embed, export, sweep, train
from fmicl_cli.compare import compare
from fmicl_cli.console import (
    INTERRUPTED,
    Stopped,
    brief_warnings,
    complain,
    errors,
    print_table,
    say,
    show,
    show_run,
)
from fmicl_cli.frameworks import NotInstalled
from fmicl_cli.methods import IMAGES, TEXTS
from fmicl_cli.study import study
from fmicl_core.checks import InvalidArgument, invalid
from fmicl_recipes.stopping import RunStopped

PICTURES = (".png", ".pdf", ".svg")

#: Commands in the order of the help; typer itself puts those with commands of their own last.
COMMANDS = (
    "train", "evaluate", "compare", "embed", "export", "divergences", "demo", "sweep", "study",
    "check",
)  # fmt: skip


class Commands(TyperGroup):
    """The commands of `fmicl`."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names in the order of the help."""
        return sorted(super().list_commands(ctx), key=COMMANDS.index)


app = typer.Typer(
    name="fmicl",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)


def show_version(wanted: bool) -> None:
    """Print the version and end the command."""
    if wanted:
        say(fmicl_core.__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and stop.",
                     callback=show_version, is_eager=True),
    ] = False,
) -> None:  # fmt: skip
    """Contrastive learning with any f-divergence: train, evaluate and compare encoders."""


app.add_typer(train.app, name="train")


@app.command()
def evaluate(run: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Evaluate a run's last checkpoint again and rewrite its metrics.json."""
    from fmicl_recipes.run_folder import RunFolder

    method = RunFolder(run).read_json("settings.json").get("method")
    kind = TEXTS if method in list(TEXTS.methods) else IMAGES
    show_run(kind.evaluate(run), str(run))
    say(f"written to {run}: {kind.rewritten}")


app.command()(compare)
app.command(epilog=embed.EPILOG)(embed.embed)
app.command(epilog=export.EPILOG)(export.export)


@app.command()
def divergences(
    plot: Annotated[
        Path | None, typer.Option(help=f"Picture of score and penalty: {', '.join(PICTURES)}.")
    ] = None,
) -> None:
    """List the divergences: name, formula, and whether they keep features apart."""
    from fmicl_core import DIVERGENCES

    if plot is not None and plot.suffix not in PICTURES:
        raise invalid("plot", f"a file name that ends in {', '.join(PICTURES)}", str(plot))
    rows = []
    for name, make in DIVERGENCES.items():
        formula = (make.__doc__ or "").splitlines()[0].partition(":")
        rows.append([name, formula[0].split(";")[0], formula[2].strip(" ."),
                     "yes" if make().suitable else "no: features collapse"])  # fmt: skip
    print_table(["name", "divergence", "generator and conjugate", "suitable"], rows, "divergences")
    if plot is not None:
        from fmicl_recipes.files import make_folder
        from fmicl_recipes.plots import divergence_curves

        make_folder(plot.parent, "plot")
        say(f"written: {divergence_curves(plot)}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder; its last demo is replaced.")] = Path("demo"),
) -> None:
    """Train InfoNCE, KL-MICL and JS-MICL on handwritten digits and compare them; on a CPU."""
    from fmicl_lightning.demo import run_demo

    rows, files = run_demo(out)
    show(rows, "handwritten digits, same encoder, weights, batches and budget for every loss")
    for file in files:
        say(f"written: {file}")


app.add_typer(sweep.app, name="sweep")
app.command()(study)
app.command(epilog=check.EPILOG)(check.check)


def main() -> None:
    """Run the command; a mistake of the user ends in one line and exit code 2."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorBoard may import TensorFlow
    try:
        with brief_warnings():
            app()
    except (InvalidArgument, NotInstalled) as error:  # of others the traceback says more
        complain("error", error)
        sys.exit(2)
    except ModuleNotFoundError as error:
        install = "Install it with: pip install 'fmicl[demo]', for texts 'fmicl[text,cli]'"
        complain("error", f"{error}. {install}")
        sys.exit(2)
    except RunStopped as error:
        complain("stopped", error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as leaving:  # the latter is what typer makes of it
        if isinstance(leaving, Stopped) or getattr(leaving, "code", INTERRUPTED) != INTERRUPTED:
            raise
        say("stopped", errors)
        sys.exit(INTERRUPTED)
