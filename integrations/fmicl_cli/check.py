"""`fmicl check`: are the numbers of the frameworks installed here right, and the same?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column, Table
from rich.text import Text

from fmicl_cli.console import console, errors, quiet, say
from fmicl_core.checks import invalid

if TYPE_CHECKING:
    from rich.console import Console

    from fmicl_check.adapters import Adapter
    from fmicl_check.frameworks import Absent
    from fmicl_check.parity import Group
    from fmicl_check.report import Row

EPILOG = (
    "Examples:\n\n"
    "fmicl check\n\n"
    "fmicl check --framework jax --framework torch --device gpu\n\n"
    "fmicl check --json > check.json\n\n"
    "fmicl check --train --method simclr --out check"
)
Names = list[str] | None
TRAINING = "With --train"
STEPS, OUT = 100, Path("check")
LEGEND = (
    "loss: worst error relative to |score| + alpha |penalty|. gradient: worst error of an\n"
    "entry, relative to the largest entry. tolerance: of loss, of gradient. cases: a choice in\n"
    "which every option occurs, dense and tiled; --full takes every combination."
)
TRAINING_LEGEND = (
    "losses: largest |a - b| / |b| of a step's loss; b is by {reference}; in float32 of the first\n"
    "{steps} steps. weights: largest |a - b| / max |b| of an array at the end. Rounding parts\n"
    "float32 runs of one framework as well: the picture shows how far."
)
PASS, FAIL = Text("pass", "green"), Text("FAIL", "red")
STYLE: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": 0, "show_edge": False}


def check(
    framework: Annotated[
        Names, typer.Option(help="torch, jax or tensorflow; may be repeated; all unless given.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or gpu.")] = "cpu",
    dtype: Annotated[
        Names, typer.Option(help="float64, float32 or bfloat16; may be repeated; all unless given.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="All combinations of options; takes far longer.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")
    ] = False,
    train: Annotated[
        bool,
        typer.Option(
            "--train", help="Let each trainer train the same, and compare, instead.",
            rich_help_panel=TRAINING,
        ),
    ] = False,
    method: Annotated[
        Names,
        typer.Option(
            help="simclr, moco or moco-v3; may be repeated; all unless given.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help=f"Steps of training; {STEPS}.", rich_help_panel=TRAINING)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help=f"Folder for train.png, train.json; {OUT}.", rich_help_panel=TRAINING),
    ] = None,
) -> None:  # fmt: skip
    """Compare the losses of every framework installed here with the float64 reference.

    Exit code 0: all is as it should be. 1: a number is wrong, a framework is broken, one named by
    --framework is missing, or there was nothing to check. 2: a mistake in the command.
    """
    for name, value in (("method", method), ("steps", steps), ("out", out)):
        if value is not None and not train:
            raise invalid(name, "--train beside it", value)
    if full and train:
        raise invalid("full", "no --train beside it", full)
    names = framework or []
    with quiet({"tensorflow": None}):  # so many functions puzzle it
        if train:
            passed = _train(names, device, method, dtype, steps, out, as_json)
        else:
            passed = _compute(names, device, dtype, full, as_json)
    raise typer.Exit(0 if passed else 1)


def _open(names: list[str], device: str) -> tuple[list[Adapter], list[Absent], bool]:
    """The frameworks that work, the others, and whether the others fail the check."""
    from fmicl_check.frameworks import is_failure, open_frameworks

    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # they share one GPU
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    if not errors.is_terminal:
        say("importing frameworks", errors)
    with errors.status("importing frameworks"):
        adapters, absent = open_frameworks(names, device)
    return adapters, absent, is_failure(absent, adapters, names)


def _compute(names: list[str], device: str, dtypes: Names, full: bool, as_json: bool) -> bool:
    """Run the battery and print its table; whether it passed."""
    from fmicl_check.battery import cases, has_fused
    from fmicl_check.case import DTYPES
    from fmicl_check.processes import run_batteries
    from fmicl_check.report import as_text, losses_report, rows_of

    begun = time.perf_counter()
    cases(dtypes or DTYPES)  # a dtype that is unknown is named before anything is imported
    adapters, absent, failed = _open(names, device)
    batteries = [cases(dtypes or DTYPES, full, has_fused(adapter)) for adapter in adapters]
    with _announcing(sum(map(len, batteries)), "cases") as announce:
        announce_case = lambda name, case: announce(f"{name}, {case.name}")  # noqa: E731
        outcomes = run_batteries(adapters, batteries, announce_case)
    rows: list[Row] = []
    for adapter, found in zip(adapters, outcomes, strict=True):
        rows += rows_of(adapter, found)
    passed = not failed and all(row.passed for row in rows)
    if as_json:
        print(as_text(losses_report(rows, absent, passed)))
        return passed
    console.print(_losses_table(rows, absent))
    say(_timing(rows, time.perf_counter() - begun))
    say(LEGEND)
    _explain(absent)
    _name_worst(rows)
    return passed


def _losses_table(rows: Sequence[Row], absent: Sequence[Absent]) -> Table:
    cells = [
        (
            row.framework, row.version, row.device, row.dtype, str(row.cases),
            f"{row.loss_error:.1e}", f"{row.gradient_error:.1e}",
            "{:.0e} {:.0e}".format(*row.tolerance), PASS if row.passed else FAIL + f" {row.failed}",
        )
        for row in rows
    ]  # fmt: skip
    title = "losses and gradients against the float64 reference"
    words, numbers = ("version", "device", "dtype"), ("cases", "loss", "gradient", "tolerance")
    return _table(title, words, numbers, cells, absent)


def _timing(rows: Sequence[Row], seconds: float) -> str:
    """How long the check took, and each framework in it; frameworks run side by side."""
    each = [
        f"{name} {sum(row.seconds for row in rows if row.framework == name):.0f} s"
        for name in dict.fromkeys(row.framework for row in rows)
    ]
    total = f"{sum(row.cases for row in rows)} cases took {seconds:.0f} s, imports included"
    return "; ".join([total, ", ".join(each)]) + "."


def _name_worst(rows: Sequence[Row]) -> None:
    """Name the worst case of every row that fails, so that it can be computed again."""
    for row in (row for row in rows if not row.passed):
        o = row.worst
        why = o.problem or f"loss {o.loss_error:.1e}, gradient {o.gradient_error:.1e}"
        say(f"\n{row.framework} {row.dtype}: {row.failed} of {row.cases} fail; the worst: {why}")
        say(f"    {o.command}")
    if rows and all(row.passed for row in rows):
        closest = max((row.worst for row in rows), key=lambda o: o.severity)
        say(f"\nclosest to its tolerance:\n    {closest.command}")


def _train(
    names: list[str], device: str, methods: Names, dtypes: Names, steps: int | None,
    out: Path | None, as_json: bool,
) -> bool:  # fmt: skip
    """Train in every framework and print how the losses differ; whether it passed."""
    from fmicl_check.columns import find_columns
    from fmicl_check.parity import FIRST_STEPS, planned, runs_of, train_everywhere
    from fmicl_check.plot import plot_training
    from fmicl_check.report import as_text, training_report
    from fmicl_check.training import DTYPES
    from fmicl_recipes.choices import METHODS
    from fmicl_recipes.files import check_folder, make_folder

    folder, begun = out or OUT, time.perf_counter()
    check_folder(folder)
    columns, missing = find_columns(names)
    plan = planned(methods or METHODS, STEPS if steps is None else steps, dtypes or DTYPES)
    if len(columns) < 2:
        _explain(missing, errors)
    with _announcing(runs_of(columns, plan), "training") as announce:
        findings = train_everywhere(columns, plan, device, announce)
    findings.absent = missing + findings.absent
    passed = findings.passed(names)
    report = training_report(findings, passed)
    (make_folder(folder) / "train.json").write_text(as_text(report), encoding="utf-8")
    plot = plot_training(findings.groups, folder / "train.png")
    if as_json:
        print(as_text(report))
        return passed
    console.print(_training_table(findings.groups, findings.absent))
    say(f"{runs_of(columns, plan)} runs took {time.perf_counter() - begun:.0f} s.")
    say(TRAINING_LEGEND.format(reference=columns[0].name, steps=FIRST_STEPS))
    _explain(findings.absent)
    for c in (c for g in findings.groups for c in g.comparisons if not c.passed):
        what = c.problem or f"{c.array} differs most; losses at step {c.step}"
        say(f"{c.framework}, {c.training.method}, {c.training.title}, {c.training.dtype}: {what}")
    say(f"written: {plot}, {folder / 'train.json'}")
    return passed


def _training_table(groups: Sequence[Group], absent: Sequence[Absent]) -> Table:
    cells = [
        (
            c.framework, c.training.method, c.training.title, c.training.dtype,
            f"{c.difference:.1e}", f"{c.tolerance:.0e}",
            f"{c.weights:.1e}",
            "-" if c.weights_tolerance is None else f"{c.weights_tolerance:.0e}",
            PASS if c.passed else FAIL,
        )
        for group in groups for c in group.comparisons
    ]  # fmt: skip
    title = "the same training by every trainer"
    words, numbers = ("method", "loss", "dtype"), ("losses", "limit", "weights", "limit")
    return _table(title, words, numbers, cells, absent, verdict="")


def _table(
    title: str, words: Sequence[str], numbers: Sequence[str],
    cells: Sequence[Sequence[str | Text]], absent: Sequence[Absent], verdict: str = "verdict",
) -> Table:  # fmt: skip
    """A table in 80 columns; a framework that is absent has a row with a verdict alone."""
    table = Table("framework", *words, title=title, **STYLE)
    for heading in numbers:
        table.add_column(heading, justify="right")
    table.add_column(verdict)
    for row in cells:
        table.add_row(*row)
    for entry in absent:
        state = Text(entry.state, "red" if entry.state == "broken" else "yellow")
        table.add_row(entry.framework, *["-"] * len([*words, *numbers]), state)
    return table


def _explain(absent: Sequence[Absent], to: Console = console) -> None:
    for entry in absent:
        say(f"{entry.framework}, {entry.state}: {entry.detail}", to)


@contextmanager
def _announcing(total: int, what: str) -> Iterator[Callable[[str], None]]:
    """Show a bar on standard error; yields a function to call with the name of the next item.

    Where standard error is no terminal, lines take the place of the bar, about ten in all.
    """
    begun = 0
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[item]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        console=errors, transient=True, disable=not errors.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task(what, total=total, item="")

        def announce(item: str) -> None:
            nonlocal begun
            bar.update(task, completed=begun, item=item)
            if not errors.is_terminal and begun % max(1, total // 10) == 0:
                say(f"{what}: {begun + 1} of {total}, {item}", errors)
            begun += 1

        yield announce
