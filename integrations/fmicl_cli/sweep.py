"""`fmicl sweep alpha METHOD`: the doubling search, for images and for texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fmicl_cli.console import print_table, say
from fmicl_cli.methods import KIND_OF, MethodGroup
from fmicl_cli.options import with_settings
from fmicl_cli.train import Preset, Task

Search = partial(typer.Option, rich_help_panel="Search")
Start = Annotated[float, Search(help="First alpha.")]
Factor = Annotated[float, Search(help="Ratio of neighbouring values.")]
Patience = Annotated[int, Search(help="Values without improvement that end the search.")]
Out = Annotated[Path, Task(help="Folder of the runs; finished ones are kept.")]

app = typer.Typer(
    help="Search for an option by the score on held-out data.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
of_alpha = typer.Typer(cls=MethodGroup, no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(of_alpha, name="alpha")


@of_alpha.callback(
    subcommand_metavar="METHOD [OPTIONS]",
    epilog="fmicl sweep alpha METHOD --help shows the options of a method.",
)
def alpha() -> None:
    """Double alpha while the score on held-out data improves."""


def command(method: str) -> Callable[..., None]:
    """The command that searches for the alpha of a method."""
    kind = KIND_OF[method]

    def alpha(
        overrides: dict[str, Any], out: Out = Path("sweep"), preset: Preset = None,
        start: Start = kind.start, factor: Factor = 2.0, patience: Patience = 2,
    ) -> None:  # fmt: skip
        settings = kind.resolve(preset, {"method": method, **overrides})
        kind.check(settings)
        from fmicl_recipes.sweep import check_sweep, sweep_alpha

        check_sweep(settings, out, start, factor, patience)
        trial = kind.trials(settings)
        scores, files = sweep_alpha(
            settings, trial, kind.measure, out, label=kind.score,
            start=start, factor=factor, patience=patience,
        )  # fmt: skip
        best = max(scores, key=lambda alpha: scores[alpha])
        cells = [[f"{alpha:g}", f"{100.0 * value:.2f}"] for alpha, value in scores.items()]
        print_table(["alpha", "score"], cells, "held-out score in percent")
        say(f"best: --alpha {best:g}")
        if best in (min(scores), max(scores)):
            say("The best is at the end of the range: start elsewhere to be sure.")
        for file in files:
            say(f"written: {file}")

    return with_settings(alpha, method)


for method, kind in KIND_OF.items():
    of_alpha.command(
        method,
        help=f"{kind.searching}\n\nEvery alpha is a training run of its own in OUT, with all other "
        "options equal; the same command goes on where a search stopped. OUT/alpha.png shows the "
        "curve.",
        short_help=kind.methods[method],
        epilog=f"Example:\n\nfmicl sweep alpha {method} {kind.search_example}",
        rich_help_panel="Methods",
    )(command(method))
