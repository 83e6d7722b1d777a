"""`fmicl study`: a grid of runs, tuned alike, with several seeds, and one table of them all."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fmicl_cli.console import complain, print_table, say
from fmicl_cli.methods import KIND_OF
from fmicl_core.checks import check_at_least, check_positive, invalid
from fmicl_recipes.files import check_folder, make_folder, write_atomically
from fmicl_recipes.stopping import Preempted
from fmicl_recipes.study import Job, Results, Study, due
from fmicl_recipes.study.course import left, planned

#: What to do where runs are left.
GOES_ON = "The same command goes on."
#: The file that the folder of a study keeps of its plan, and the file of its tables.
PLAN, TABLE = "study.toml", "table.md"

Search = partial(typer.Option, rich_help_panel="Study")
File = Annotated[
    Path | None, typer.Argument(help="TOML file of the study; by default that in OUT.")
]
Out = Annotated[Path, Search(help="Folder of the study; finished runs in it are kept.")]
At = Annotated[
    list[str] | None,
    Search(help="Where data, or a model, of the file's settings lie here, as in data=PATH.",
           metavar="NAME=PATH"),
]  # fmt: skip
Jobs = Annotated[int, Search(help="Runs at a time, which share the cores.")]
Gpus = Annotated[int, Search(help="GPUs that the runs share in turn; 0: what the framework sees.")]
Minutes = Annotated[
    float, Search(help="Stop after that many; the same command goes on where it stopped.")
]
Show = Annotated[bool, Search("--show", help="Train nothing: print what is there.")]
Gallery = Annotated[
    bool,
    Search("--gallery", help="Draw embeddings and distances, too, of the first seed's runs whose "
           "folders are there; a minute for each."),
]  # fmt: skip


def study(
    file: File = None, out: Out = Path("study"), at: At = None, jobs: Jobs = 1,
    gpus: Gpus = 0, minutes: Minutes = math.inf, show: Show = False, gallery: Gallery = False,
) -> None:  # fmt: skip
    """Train a grid of runs: tune every loss alike, then several seeds of each; one table.

    Options are chosen by held-out training data, with as many tries for every entry, and test data
    is looked at once. OUT holds a row for every finished run, which is never trained again, and the
    tables and pictures, which can be made of OUT alone.
    """
    check_at_least("jobs", jobs, 1)
    check_at_least("gpus", gpus, 0)
    if minutes != math.inf:
        check_positive("minutes", minutes)
    check_folder(out)
    source = file or out / PLAN
    plan = Study.read(source, dict(map(_place, at or [])))
    results = Results(out)
    if not show:
        make_folder(out)
        if source != out / PLAN:
            text = source.read_bytes()
            write_atomically(out / PLAN, lambda kept: kept.write(text))
        _train(plan, results, out, jobs, gpus, minutes)
    _show(plan, results, out, gallery)


def _place(text: str) -> tuple[str, str]:
    """Name and path of NAME=PATH."""
    name, _, path = text.partition("=")
    if not path:
        raise invalid("at", "NAME=PATH", text)
    return name, path


def _train(plan: Study, results: Results, out: Path, jobs: int, gpus: int, minutes: float) -> None:
    """Train what is due, with a bar; what fails is said at once, and again in the table."""
    from tqdm.auto import tqdm

    from fmicl_cli.study_pool import Pool

    pool, given_up = Pool(out, results, jobs, gpus), set[str]()
    for job in due(plan, results)[:1]:  # before any process is started
        KIND_OF[job.settings.method].check(job.settings)
    total = planned(plan)
    bar = tqdm(total=total, initial=total - left(plan, results), desc="runs", unit="run")

    def next_job() -> Job | None:
        busy = {job.key for job in pool.under_way} | given_up
        job = next((job for job in due(plan, results) if job.key not in busy), None)
        if job is not None:
            bar.set_postfix_str(f"{job.stage} {job.entry} seed {job.seed}")
        return job

    def ended(job: Job, error: str) -> None:
        if error:
            given_up.add(job.key)
            complain("failed", f"{job.stage} {job.entry}, seed {job.seed}: {error}")
        bar.n = total - left(plan, results)
        bar.refresh()

    try:
        stopped = pool.train(next_job, ended, time.monotonic() + 60.0 * minutes)
    finally:
        bar.close()
    if stopped:
        raise Preempted(f"SIGTERM came, and the runs wrote checkpoints. {GOES_ON}")


def _show(plan: Study, results: Results, out: Path, gallery: bool) -> None:
    """Print the tables, and write them and the pictures."""
    from fmicl_recipes.study import pictures, summary

    for name, group in plan.groups.items():
        if plan.members(name):
            print_table(*summary.group_table(plan, name, results), group.title)
            if noise := summary.pooled(plan, name, results):
                say(noise)
    if more := left(plan, results):
        say(f"{more} of {planned(plan)} runs are still to be trained. {GOES_ON}")
    text = summary.markdown(plan, results).encode()
    files: list[Any] = [write_atomically(out / TABLE, lambda kept: kept.write(text))]
    files += pictures.draw_study(plan, results, out)
    if gallery:
        files += pictures.draw_gallery(plan, results, out)
    for path in files:
        say(f"written: {path}")
