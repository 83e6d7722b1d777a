"""The pictures of a study: scores, what was tried, alignment and uniformity, score and budget."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from fmicl_recipes.archives import read_arrays
from fmicl_recipes.files import make_folder
from fmicl_recipes.plots.canvas import CYCLE, caption, panels_in_a_row, save, without_frame
from fmicl_recipes.plots.draw import draw_each, draw_runs
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.study.course import SCORE_TITLES, chosen, tuned
from fmicl_recipes.study.plan import Entry, Study
from fmicl_recipes.study.rows import RUNS, Results
from fmicl_recipes.study.summary import LEVEL, SHOWN, estimate, measures, shown_title

#: Points of a line by number of its values: scores by seed, by the entry's name.
Scores = Mapping[str, list[float]]
#: Mean of a column over seeds, epoch by epoch, of two columns.
Course = tuple[list[float], list[float]]


def draw_study(study: Study, results: Results, folder: Path) -> list[Path]:
    """Draw every picture for which there are numbers; the files."""
    pictures = {}
    key, title = SHOWN[study.on_texts], shown_title(study)
    for name in study.groups:
        scores = {
            entry.name: [run[key] for run in measures(study, entry, results).values() if key in run]
            for entry in study.members(name)
        }
        if any(scores.values()):
            pictures[f"scores-{name}.png"] = partial(scores_by_seed, scores, title)
        courses = {entry.name: course for entry in study.members(name)
                   if (course := course_of(study, entry, results))}  # fmt: skip
        if courses:
            pictures[f"alignment-uniformity-{name}.png"] = partial(alignment_uniformity, courses)
        tries = {entry.name: found for entry in study.members(name)
                 if entry.tune and (found := tuned(study, entry, results))}  # fmt: skip
        if tries:
            pictures[f"tried-{name}.png"] = partial(tried, tries, SCORE_TITLES[study.on_texts])
    budgets = by_budget(study, results)
    if budgets:
        pictures["budget.png"] = partial(budget, budgets, title)
    return draw_each(folder, pictures)


def draw_gallery(study: Study, results: Results, folder: Path) -> list[Path]:
    """Embeddings, distances and losses of the first seed's runs whose folders are there.

    Args:
        study: the study.
        results: its rows.
        folder: folder of the study, whose pictures go into its folder "gallery", by group.
    """
    written = []
    for name in study.groups:
        metrics, features = {}, {}
        for entry in study.members(name):
            choice = chosen(study, entry, results)
            jobs = [] if choice is None else study.final_jobs(entry, choice)
            run = RunFolder(folder / RUNS / jobs[0].key) if jobs else None
            if run is not None and (run.path / "metrics.json").exists():
                metrics[entry.name] = run.read_json("metrics.json")
                features[entry.name] = read_arrays(run.path / "embeddings.npz")
        if metrics:
            target = make_folder(folder / "gallery" / name)
            written += draw_runs(target, metrics, features)
    return written


def scores_by_seed(scores: Scores, title: str, path: Path) -> Path:
    """A point for every seed, and the mean with its interval, an entry a line."""
    names = [name for name, values in scores.items() if values]
    figure, (axes,) = panels_in_a_row(1, width=6.0, height=1.0 + 0.32 * len(names))
    for place, name in enumerate(reversed(names)):
        values = 100.0 * np.array(scores[name])
        found = estimate(values.tolist())
        reach = 0.0 if math.isnan(found.reach) else found.reach
        axes.errorbar(found.mean, place, xerr=reach, fmt="o", color=CYCLE[0], capsize=3)
        axes.plot(values, np.full(len(values), place), ".", color=CYCLE[1], alpha=0.7)
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_xlabel(f"{title}, percent")
    axes.grid(axis="x", alpha=0.3)
    without_frame(axes)
    caption(figure, f"Small points: seeds. Lines: {LEVEL:.0%} interval of the mean by Student's t.")
    return save(figure, path)


def alignment_uniformity(courses: Mapping[str, Course], path: Path) -> Path:
    """Alignment against uniformity of training batches, an epoch a point; lower is better."""
    figure, (axes,) = panels_in_a_row(1, width=6.4, height=4.6)
    for index, (name, (uniformity, alignment)) in enumerate(courses.items()):
        line = "-" if index < len(set(CYCLE)) else "--"
        axes.plot(uniformity, alignment, line, color=CYCLE[index], marker=".", label=name)
        axes.plot(uniformity[-1:], alignment[-1:], "o", color=CYCLE[index])
    axes.set(xlabel="uniformity", ylabel="alignment")
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    without_frame(axes)
    caption(figure, "A point an epoch, the last one large; means over seeds. Of the projections of "
                    "training batches, by Wang and Isola (2020); lower is better.")  # fmt: skip
    return save(figure, path)


def tried(
    tries: Mapping[str, list[tuple[Mapping[str, object], float]]], title: str, path: Path
) -> Path:
    """Held-out score against the values that were tried, a panel for each option."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, found in tries.items():
        options = {option for choice, _ in found for option in choice}
        if len(options) == 1:
            option = options.pop()
            points = [(float(str(choice[option])), 100.0 * score) for choice, score in found]
            panels.setdefault(option, {})[name] = sorted(points)
    figure, axes_of = panels_in_a_row(max(1, len(panels)), width=4.6, height=3.8)
    for axes, (option, lines) in zip(axes_of, panels.items(), strict=False):
        for index, (name, points) in enumerate(lines.items()):
            axes.plot(*zip(*points, strict=True), marker=".", color=CYCLE[index], label=name)
        axes.set(xlabel=option, xscale="log")
        _ticks(axes, {value for points in lines.values() for value, _ in points})
        axes.legend(fontsize=7, frameon=False)
        without_frame(axes)
    axes_of[0].set_ylabel(f"{title}, percent")
    return save(figure, path)


def budget(lines: Mapping[str, Mapping[int, list[float]]], title: str, path: Path) -> Path:
    """Score against the number of epochs, with intervals, a line a loss."""
    figure, (axes,) = panels_in_a_row(1, width=5.2, height=3.8)
    for index, (name, points) in enumerate(lines.items()):
        found = {epochs: estimate(values) for epochs, values in sorted(points.items())}
        means = [100.0 * one.mean for one in found.values()]
        reach = [100.0 * (0.0 if math.isnan(one.reach) else one.reach) for one in found.values()]
        places = [epochs * 1.015**index for epochs in found]  # intervals beside each other
        axes.errorbar(places, means, yerr=reach, color=CYCLE[index], marker="o", capsize=3,
                      label=name)  # fmt: skip
    axes.set(xlabel="epochs", ylabel=f"{title}, percent", xscale="log")
    _ticks(axes, {epochs for points in lines.values() for epochs in points})
    axes.legend(fontsize=8, frameon=False)
    without_frame(axes)
    caption(figure, f"Lines: {LEVEL:.0%} interval of the mean by Student's t.")
    return save(figure, path)


def _ticks(axes: Axes, values: Collection[float]) -> None:
    """Ticks of a logarithmic axis at these values, unless their labels would overlap."""
    if max(values) < 1e3 * min(values):
        axes.set_xticks(sorted(values), [f"{value:g}" for value in sorted(values)], fontsize=8)
        axes.set_xticks([], minor=True)


def course_of(study: Study, entry: Entry, results: Results) -> Course | None:
    """Uniformity and alignment, epoch by epoch, means over the seeds that are there."""
    choice = chosen(study, entry, results)
    jobs = [] if choice is None else study.final_jobs(entry, choice)
    histories = [h for job in jobs if (h := results.history(job)) and "uniformity" in h[0]]
    if not histories:
        return None
    epochs = min(map(len, histories))
    means = [
        [float(np.mean([history[epoch][column] for history in histories]))
         for epoch in range(epochs)]
        for column in ("uniformity", "alignment")
    ]  # fmt: skip
    return means[0], means[1]


def by_budget(study: Study, results: Results) -> dict[str, dict[int, list[float]]]:
    """Scores by epochs of each entry that another one is like with other epochs."""
    key, lines = SHOWN[study.on_texts], dict[str, dict[int, dict[int, float]]]()
    for entry in study.entries.values():
        if not entry.like:
            continue
        first = study.entry(entry.like)
        for one in (first, entry):
            choice = chosen(study, one, results)
            runs = measures(study, one, results)
            if choice is None or not runs:
                continue
            epochs = study.final_jobs(one, choice)[0].settings.epochs
            scores = lines.setdefault(first.name, {}).setdefault(epochs, {})
            scores |= {seed: run[key] for seed, run in runs.items() if key in run}
    return {
        name: {epochs: list(scores.values()) for epochs, scores in line.items()}
        for name, line in lines.items()
        if len(line) > 1
    }
