"""`fmicl train simcse`: options and output of the text trainer, beside those for images."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from fmicl_cli.options import with_settings
from fmicl_recipes.text import METHODS, TEXT_PRESETS, TextSettings, resolve_text

Panel = partial(typer.Option, rich_help_panel="Task")
with_text_settings = partial(with_settings, kind=TextSettings)


def by_method(app: typer.Typer) -> type[TyperCommand]:
    """A command `NAME METHOD ...` that hands over to `app` when METHOD is one for texts."""

    class ByMethod(TyperCommand):
        def make_context(
            self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
        ) -> Any:
            if args and args[0] in METHODS:
                command = typer.main.get_command(app)
                return command.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
            return super().make_context(info_name, args, parent, **extra)

    return ByMethod


app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog="Examples:\n\n"
    "fmicl train simcse --model bert-base-uncased --data wiki1m --preset paper-wikipedia\n\n"
    "fmicl train simcse --model PATH/TO/ENCODER --data texts.txt --sts sts.csv --out runs/kl\n\n"
    "fmicl train simcse --model PATH/TO/ENCODER --data pairs.csv --pairs given --divergence js\n\n"
    "fmicl train simcse --out runs/kl --resume"
)
@with_text_settings
def train(
    overrides: dict[str, Any],
    out: Annotated[Path | None, Panel(help="Folder to write.")] = None,
    resume: Annotated[bool, Panel("--resume", help="Continue the run in --out.")] = False,
    preset: Annotated[
        str | None, Panel(help=f"Recipe to start from: {', '.join(TEXT_PRESETS)}.")
    ] = None,
    baselines: Annotated[
        bool, Panel("--baselines", help="Score the encoder before training, too.")
    ] = False,
) -> None:
    """Train a sentence encoder, then evaluate it by Spearman correlation on STS12-16 and STS-B.

    With single sentences each is its own positive under another dropout mask (unsupervised
    SimCSE); with pairs, the second column is, and further columns are hard negatives. The encoder
    in OUT/model loads with SentenceTransformer(path). The defaults are the paper's text setting.
    """
    from fmicl_cli.main import console
    from fmicl_recipes.run_folder import RunFolder

    if resume and out is not None and not overrides and preset is None:
        settings = RunFolder(out, TextSettings).settings()
    else:
        settings = resolve_text(preset, overrides)
    name = f"{Path(settings.data).stem}-{settings.title}-seed{settings.seed}"
    folder = out or Path("runs") / name
    quiet()
    from fmicl_sentence_transformers.train import train_simcse

    metrics = train_simcse(settings, folder, resume=resume, baselines=baselines)
    show(metrics, f"{Path(settings.data).name}, {settings.epochs} epochs")
    console.print(f"written to {folder}: model/, metrics.json, history.csv, checkpoints/, plots/")


def evaluate(run: Path) -> None:
    """Evaluate a run's encoder again and rewrite its metrics.json."""
    from fmicl_recipes.run_folder import RunFolder

    folder = RunFolder(run, TextSettings)
    folder.settings()
    quiet()
    from fmicl_sentence_transformers.train import evaluate_run

    show(evaluate_run(folder), str(run))


def show(metrics: dict[str, Any], title: str) -> None:
    """Print the metrics of a run, with those before training if there are any."""
    show_rows({**metrics["baselines"], metrics["title"]: metrics}, title)


def show_rows(rows: dict[str, dict[str, Any]], title: str) -> None:
    """Print metrics of text runs as one table."""
    from fmicl_cli.main import console, print_table
    from fmicl_recipes import report

    print_table(*report.text_table(rows), title)
    console.print(report.TEXT_LEGEND, style="dim", highlight=False)


def quiet() -> None:
    """Leave the libraries' advice out."""
    import os

    for name in ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
