"""`fmicl train METHOD`: from options to a trained and evaluated run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from rich.text import Text

from fmicl_cli.console import console, resumable, say, show_run
from fmicl_cli.methods import KIND_OF, KINDS, MethodGroup
from fmicl_cli.options import with_settings
from fmicl_recipes.options import preset_options
from fmicl_recipes.run_folder import RunFolder


def list_presets(wanted: bool) -> None:
    """Print the presets for images and for texts, and end the command."""
    if wanted:
        for name, options in [item for kind in KINDS for item in kind.presets.items()]:
            shown = " ".join(f"{k}={v}" for k, v in options.items())
            console.print(Text.assemble((name, "bold"), f"  {shown}"))
        raise typer.Exit


Task = partial(typer.Option, rich_help_panel="Task")
Out = Annotated[
    Path | None,
    Task(help="Folder to write. [dim]\\[default: one in runs/, named after the run][/dim]"),
]
Resume = Annotated[
    bool,
    Task("--resume", help="Continue the run in --out with its own settings; options that are given "
         "must be the same."),
]  # fmt: skip
Preset = Annotated[str | None, Task(help="Preset to start from; see fmicl train --list-presets.")]
Baselines = Annotated[
    bool,
    Task("--baselines", help="Score the encoder before training, too; for images also raw pixels."),
]
ListPresets = Annotated[
    bool,
    typer.Option(
        "--list-presets", help="Show the presets and stop.", callback=list_presets, is_eager=True
    ),
]

app = typer.Typer(cls=MethodGroup, no_args_is_help=True, rich_markup_mode="rich")


@app.callback(
    subcommand_metavar="METHOD [OPTIONS]",
    epilog="fmicl train METHOD --help shows the options of a method.",
)
def train(presets: ListPresets = False) -> None:
    """Train an encoder without labels by one of the methods, then evaluate it."""


def command(method: str) -> Callable[..., None]:
    """The command that trains by a method."""
    kind = KIND_OF[method]

    def train(
        overrides: dict[str, Any], out: Out = None, resume: Resume = False, preset: Preset = None,
        presets: ListPresets = False, baselines: Baselines = False,
    ) -> None:  # fmt: skip
        given = {"method": method, **overrides}
        if out is None or not resume:
            settings = kind.resolve(preset, given)
            out = out or Path("runs") / kind.name(settings)
        if resume:
            folder = RunFolder(out, kind.settings)
            settings = folder.continued(given, preset_options(preset, kind.presets))
        elif not kind.follows(settings):
            RunFolder(out).check_free()
        kind.check(settings)
        with resumable(out, f"fmicl train {method} --out {quote(str(out))} --resume"):
            metrics = kind.train(settings, out, resume=resume, baselines=baselines)
        if not metrics:  # the first of several processes prints them
            return
        epochs = f"{settings.epochs} epoch{'s' * (settings.epochs > 1)}"
        show_run(metrics, f"{Path(settings.data).name}, {epochs}")
        say(f"written to {out}: {kind.files}")

    return with_settings(train, method)


for method, kind in KIND_OF.items():
    examples = [f"fmicl train {method} {options}" for options in kind.examples[method]]
    app.command(
        method,
        help=f"{kind.methods[method]}\n\n{kind.about}",
        short_help=kind.methods[method],
        epilog="\n\n".join(["Examples:", *examples]),
        rich_help_panel="Methods",
    )(command(method))
