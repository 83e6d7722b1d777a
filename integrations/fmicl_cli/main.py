"""The `fmicl` command: train, evaluate, compare, divergences, demo."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from fmicl_cli import simcse, sweep
from fmicl_cli.check import EPILOG, check
from fmicl_cli.compare import compare
from fmicl_cli.console import complain, console, errors, print_table, say, show
from fmicl_cli.options import EVERY_METHOD, with_settings
from fmicl_core.checks import InvalidArgument, check_choice, invalid
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.text import METHODS as TEXT_METHODS

if TYPE_CHECKING:
    from fmicl_recipes.runs import Trainer

#: The package that trains in each framework.
TRAINERS = {"torch": "fmicl_lightning", "jax": "fmicl_flax", "tensorflow": "fmicl_keras"}
PICTURES = (".png", ".pdf", ".svg")

app = typer.Typer(
    name="fmicl",
    help="Contrastive learning with any f-divergence: train, evaluate and compare encoders.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(sweep.app, name="sweep")

Out = Annotated[Path | None, typer.Option(help="Folder to write.", rich_help_panel="Task")]


@app.command(
    cls=simcse.by_method(simcse.app),
    epilog="Examples:\n\n"
    "fmicl train simclr --data digits --divergence js --out runs/js\n\n"
    "fmicl train simclr --data cifar10 --loss info-nce --temperature 0.5 --epochs 200\n\n"
    "fmicl train simclr --data PATH/TO/IMAGES --image-size 64 --preset paper-cifar10\n\n"
    "fmicl train simclr --out runs/js --resume\n\n"
    "fmicl train simcse --help   # sentence embeddings, with options of their own",
)
@with_settings
def train(
    method: Annotated[
        str, typer.Argument(help=f"Training method: {', '.join(EVERY_METHOD)}.")
    ],
    overrides: dict[str, Any],
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out.", rich_help_panel="Task")
    ] = False,
    preset: Annotated[
        str | None,
        typer.Option(help="Recipe to start from; see --list-presets.", rich_help_panel="Task"),
    ] = None,
    list_presets: Annotated[
        bool,
        typer.Option("--list-presets", help="Show the recipes and stop.", rich_help_panel="Task"),
    ] = False,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines", help="Score raw pixels and the random encoder, too.",
            rich_help_panel="Task",
        ),
    ] = False,
) -> None:  # fmt: skip
    """Train an encoder without labels, then evaluate it by kNN and linear probe."""
    from fmicl_recipes.options import recipe
    from fmicl_recipes.presets import PRESETS, resolve
    from fmicl_recipes.run_folder import RunFolder

    if list_presets:
        for name, options in PRESETS.items():
            shown = " ".join(f"{k}={v}" for k, v in options.items())
            console.print(Text.assemble((name, "bold"), f"  {shown}"))
        return
    given = {"method": check_choice("method", method, EVERY_METHOD), **overrides}
    if out is None or not resume:
        settings = resolve(preset, given)
        out = out or Path("runs") / (
            f"{Path(settings.data).name}-{settings.method}-{settings.framework}-{settings.title}"
            f"-seed{settings.seed}"
        )
    if resume:
        settings = RunFolder(out).continued(given, recipe(preset, PRESETS))
    trainer = trainer_of(settings)
    from fmicl_recipes.runs import train_run

    metrics = train_run(trainer, settings, out, resume=resume, baselines=baselines)
    title = f"{Path(settings.data).name}, {settings.epochs} epochs"
    show({**metrics["baselines"], metrics["title"]: metrics}, title)
    say(f"written to {out}: metrics.json, history.csv, checkpoint, plots/")


@app.command()
def evaluate(run: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Evaluate a run's last checkpoint again and rewrite its metrics.json."""
    from fmicl_recipes.run_folder import RunFolder

    folder = RunFolder(run)
    if folder.read_json("settings.json").get("method") in TEXT_METHODS:
        simcse.evaluate(run)
        return
    trainer = trainer_of(folder.settings())
    from fmicl_recipes.runs import evaluate_run

    metrics = evaluate_run(trainer, folder)
    show({**metrics["baselines"], metrics["title"]: metrics}, str(run))


app.command()(compare)


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
        from fmicl_recipes.plots import divergence_curves
        from fmicl_recipes.run_folder import make_folder

        make_folder(plot.parent, "plot")
        say(f"written: {divergence_curves(plot)}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder; its last demo is replaced.")] = Path("demo"),
) -> None:
    """Train InfoNCE, KL-MICL and JS-MICL on handwritten digits and compare them; CPU, 3 minutes."""
    from fmicl_lightning.demo import run_demo

    rows, files = run_demo(out)
    show(rows, "handwritten digits, same encoder, weights, batches and budget for every loss")
    for file in files:
        say(f"written: {file}")


app.command(epilog=EPILOG)(check)


def trainer_of(settings: TrainSettings) -> type[Trainer]:
    """The trainer of the settings' framework, imported only when a command needs it."""
    if settings.framework == "tensorflow":
        os.environ["KERAS_BACKEND"] = settings.keras_backend  # read when Keras is imported
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it has a lot to say that helps nobody
    trainer: type[Trainer] = import_module(TRAINERS[settings.framework]).MethodTrainer
    return trainer


def main() -> None:
    """Run the command; a mistake of the user ends in one line and exit code 2."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorBoard may import TensorFlow
    try:
        app()
    except InvalidArgument as error:  # of any other ValueError the traceback says more
        complain("error", error)
        sys.exit(2)
    except ModuleNotFoundError as error:
        install = "Install it with: pip install 'fmicl[demo]', for texts 'fmicl[text,cli]'"
        complain("error", f"{error}. {install}")
        sys.exit(2)
    except RuntimeError as error:
        if type(error).__name__ != "NonFiniteLossError":
            raise
        complain("stopped", error)
        sys.exit(1)
    except SystemExit as leaving:
        if not isinstance(leaving.__context__, KeyboardInterrupt):
            raise
        say("stopped; continue with the same command and --resume", errors)
        sys.exit(130)
