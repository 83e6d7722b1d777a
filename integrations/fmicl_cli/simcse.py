"""`fmicl train simcse`: options and output of the text trainer, beside those for images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from fmicl_cli import console
from fmicl_cli.options import with_settings
from fmicl_recipes.text import METHODS, TEXT_PRESETS, TextSettings, resolve_text

Panel = partial(typer.Option, rich_help_panel="Task")
with_text_settings = partial(with_settings, kind=TextSettings)


#: Loggers of libraries, and the variables that set their levels.
LIBRARIES = {"transformers": "TRANSFORMERS_VERBOSITY", "datasets": "DATASETS_VERBOSITY"}


def by_method(app: typer.Typer) -> type[TyperCommand]:
    """A command `NAME METHOD ...` that hands over to `app` when METHOD is one for texts."""

    class ByMethod(TyperCommand):
        def make_context(
            self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
        ) -> Any:
            command = typer.main.get_command(app)
            every = (*self.params, *command.params)
            flags = {name for p in every if getattr(p, "is_flag", False) for name in p.opts}
            place = _first_word(args, flags | {"--help"})
            if place is not None and args[place] in METHODS:
                method, rest = args[place], args[:place] + args[place + 1 :]
                return command.make_context(f"{info_name} {method}", rest, parent, **extra)
            return super().make_context(info_name, args, parent, **extra)

    return ByMethod


def _first_word(args: list[str], flags: set[str]) -> int | None:
    """Where the first of `args` stands that is no option and no value of one."""
    value = False
    for place, word in enumerate(args):
        if not value and not word.startswith("-"):
            return place
        value = not value and "=" not in word and word not in flags
    return None


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
    from fmicl_recipes.options import recipe
    from fmicl_recipes.run_folder import RunFolder

    given = {"method": "simcse", **overrides}
    if out is None or not resume:
        settings = resolve_text(preset, given)
        name = f"{Path(settings.data).stem}-{settings.loss_title}-seed{settings.seed}"
        out = out or Path("runs") / name
    if resume:
        settings = RunFolder(out, TextSettings).continued(given, recipe(preset, TEXT_PRESETS))
    else:
        RunFolder(out).check_free()
    with quiet(), console.resumable(out, f"fmicl train simcse --out {quote(str(out))} --resume"):
        from fmicl_sentence_transformers.train import train_simcse

        metrics = train_simcse(settings, out, resume=resume, baselines=baselines)
    show(metrics, f"{Path(settings.data).name}, {settings.epochs} epochs")
    console.say(f"written to {out}: model/, metrics.json, history.csv, checkpoints/, plots/")


def evaluate(run: Path) -> None:
    """Evaluate a run's encoder again and rewrite its metrics.json."""
    from fmicl_recipes.run_folder import RunFolder

    folder = RunFolder(run, TextSettings)
    folder.settings()
    with quiet():
        from fmicl_sentence_transformers.train import evaluate_run

        metrics = evaluate_run(folder)
    show(metrics, str(run))


def show(metrics: dict[str, Any], title: str) -> None:
    """Print the metrics of a run, with those before training if there are any."""
    console.show({**metrics["baselines"], metrics["title"]: metrics}, title)


@contextmanager
def quiet() -> Iterator[None]:
    """Leave advice and progress bars of the libraries out meanwhile."""
    with console.quiet(LIBRARIES):
        import datasets

        wish = datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS  # the user's, or None
        if wish is not None or datasets.are_progress_bars_disabled():
            yield
            return
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            datasets.enable_progress_bars()
