"""`fmicl sweep alpha`: the doubling search, for images and for texts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from fmicl_cli.console import print_table, say
from fmicl_cli.frameworks import check_early, trainer_of
from fmicl_cli.options import EVERY_METHOD, with_settings
from fmicl_cli.simcse import by_method, quiet, with_text_settings
from fmicl_core.checks import check_name
from fmicl_recipes.text import resolve_text

Start = Annotated[float, typer.Option(help="First alpha.", rich_help_panel="Search")]
Factor = Annotated[float, typer.Option(help="Between neighbours.", rich_help_panel="Search")]
Patience = Annotated[
    int,
    typer.Option(help="Values without improvement that end the search.", rich_help_panel="Search"),
]
Folder = Annotated[
    Path, typer.Option(help="Folder of the runs; finished ones are kept.", rich_help_panel="Task")
]
Preset = Annotated[str | None, typer.Option(help="Recipe to start from.", rich_help_panel="Task")]

app = typer.Typer(
    help="Search for an option by the score on held-out data.", rich_markup_mode="rich"
)
texts = typer.Typer(rich_markup_mode="rich", add_completion=False)


@texts.command()
@with_text_settings
def alpha_of_texts(
    overrides: dict[str, Any],
    out: Folder = Path("sweep"),
    preset: Preset = None,
    start: Start = 1024.0,
    factor: Factor = 2.0,
    patience: Patience = 2,
) -> None:
    """Double alpha while the Spearman correlation on STS-B's development pairs improves.

    Every alpha is a training run of its own in OUT, with all other options equal; the same command
    goes on where a search stopped. OUT/alpha.png shows the curve.
    """
    from fmicl_recipes.sweep import sweep_alpha

    def train(settings: Any, folder: Path, resume: bool) -> dict[str, Any]:
        from fmicl_sentence_transformers.train import train_simcse

        metrics = train_simcse(settings, folder, resume=resume, splits=("dev",))
        for name in ("model", "checkpoints"):  # a search keeps scores, not encoders
            shutil.rmtree(folder / name)
        return metrics

    settings = resolve_text(preset, overrides)
    search = {"start": start, "factor": factor, "patience": patience}
    with quiet():
        found = sweep_alpha(settings, train, "stsb_dev", out, label="Spearman, STS-B dev", **search)
    _report(*found)


@app.command(
    "alpha",
    cls=by_method(texts),
    epilog="Examples:\n\n"
    "fmicl sweep alpha simclr --data digits --divergence js --out sweeps/digits-js\n\n"
    "fmicl sweep alpha simcse --model PATH/TO/ENCODER --data sts.parquet --out sweeps/sts-kl\n\n"
    "fmicl sweep alpha simcse --help   # the options for texts",
)
@with_settings
def alpha_of_images(
    method: Annotated[str, typer.Argument(help="Training method, as of `fmicl train`.")],
    overrides: dict[str, Any],
    out: Folder = Path("sweep"),
    preset: Preset = None,
    start: Start = 1.0,
    factor: Factor = 2.0,
    patience: Patience = 2,
) -> None:
    """Double alpha while the score on held-out data improves; `alpha simcse` for texts.

    For images the score is the kNN accuracy on held-out training images.

    A fifth of the training images is held out, and the test images are not looked at. Every alpha
    is a training run of its own in OUT, with all other options equal; the same command goes on
    where a search stopped. OUT/alpha.png shows the curve.
    """
    from fmicl_recipes.data import validation_split
    from fmicl_recipes.presets import resolve
    from fmicl_recipes.run import load_data, train_run
    from fmicl_recipes.sweep import check_labels, check_sweep, sweep_alpha

    method = check_name("method", method, EVERY_METHOD)
    settings = resolve(preset, {"method": method, **overrides})
    check_early(settings)
    check_sweep(settings, out, start, factor, patience)
    trainer = trainer_of(settings)
    data = validation_split(load_data(settings, progress=True))
    check_labels(data)

    def train(settings: Any, folder: Path, resume: bool) -> dict[str, Any]:
        return train_run(trainer, settings, folder, resume=resume, data=data)

    search = {"start": start, "factor": factor, "patience": patience}
    _report(*sweep_alpha(settings, train, "knn_accuracy", out,
                         label="kNN accuracy, held-out images", **search))  # fmt: skip


def _report(scores: dict[float, float], files: list[Path]) -> None:
    best = max(scores, key=lambda alpha: scores[alpha])
    cells = [[f"{alpha:g}", f"{100.0 * value:.2f}"] for alpha, value in scores.items()]
    print_table(["alpha", "score"], cells, "held-out score in percent")
    say(f"best: --alpha {best:g}")
    if best in (min(scores), max(scores)):
        say("The best is at the end of the range: start elsewhere to be sure.")
    for file in files:
        say(f"written: {file}")
