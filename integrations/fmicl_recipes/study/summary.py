"""The tables of a study: means over seeds, and differences from the baseline by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fmicl_recipes import report
from fmicl_recipes.checks import is_number
from fmicl_recipes.study.course import SCORE_TITLES, chosen, tuned
from fmicl_recipes.study.plan import Entry, Study
from fmicl_recipes.study.rows import Results

#: Probability of the intervals.
LEVEL = 0.95
#: The score in tables and pictures, of runs on images and of runs on texts.
SHOWN = {False: "knn_accuracy", True: "sts_unseen_mean"}


class Estimate(NamedTuple):
    """A mean over seeds.

    Args:
        mean: the mean.
        deviation: standard deviation of a single run; NaN of fewer than two.
        reach: half of the interval of the mean at `LEVEL` by Student's t; NaN of fewer than two.
        seeds: number of seeds.
    """

    mean: float
    deviation: float
    reach: float
    seeds: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, standard deviation and interval of numbers that are taken to be normal."""
    count = len(values)
    if not count:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = statistics.fmean(values)
    if count == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    from scipy.stats import t  # slow to import

    deviation = statistics.stdev(values)
    reach = float(t.ppf(0.5 + LEVEL / 2.0, count - 1)) * deviation / math.sqrt(count)
    return Estimate(mean, deviation, reach, count)


def measures(study: Study, entry: Entry, results: Results) -> dict[int, dict[str, float]]:
    """The numbers of the runs on test data of an entry, by seed."""
    choice = chosen(study, entry, results)
    if choice is None:
        return {}
    jobs = [job for job in study.final_jobs(entry, choice) if job in results]
    return {job.seed: found for job in jobs if (found := results.measured(job))}


def failures(study: Study, entry: Entry, results: Results) -> int:
    """Number of runs on test data of an entry that failed, as by a loss that is not finite."""
    choice = chosen(study, entry, results)
    jobs = [] if choice is None else study.final_jobs(entry, choice)
    return sum(1 for job in jobs if job in results and results.error(job))


def differences(
    ours: Mapping[int, Mapping[str, float]], others: Mapping[int, Mapping[str, float]], key: str
) -> Estimate:
    """The difference of a number, ours less theirs, paired by seed."""
    seeds = sorted(ours.keys() & others.keys())
    pairs = [(ours[seed].get(key), others[seed].get(key)) for seed in seeds]
    return estimate([a - b for a, b in pairs if a is not None and b is not None])


def pooled_reach(runs: Sequence[Mapping[int, Mapping[str, float]]], key: str) -> float:
    """Half of the interval of a difference of two entries, the noise pooled over all of them.

    Analysis of variance of entries by seeds: score = entry + seed + noise, the noise taken to be
    alike in all entries. Of two entries it is the reach of `differences`; of more it is smaller, as
    t has (entries - 1) (seeds - 1) degrees of freedom.

    Args:
        runs: numbers of the runs of each entry, by seed.
        key: the number; runs of seeds that not all entries have are left out.

    Returns:
        Half of the interval at `LEVEL`; NaN of fewer than two entries or seeds.
    """
    scores = [{seed: run[key] for seed, run in of.items() if key in run} for of in runs]
    seeds = sorted(set.intersection(*map(set, scores))) if scores else []
    if len(scores) < 2 or len(seeds) < 2:
        return math.nan
    from scipy.stats import t  # slow to import

    table = np.array([[of[seed] for seed in seeds] for of in scores])
    noise = table - table.mean(0) - table.mean(1)[:, None] + table.mean()
    free = (len(scores) - 1) * (len(seeds) - 1)
    variance = float(np.square(noise).sum()) / free
    return float(t.ppf(0.5 + LEVEL / 2.0, free)) * math.sqrt(2.0 * variance / len(seeds))


def pooled(study: Study, name: str, results: Results) -> str:
    """What `pooled_reach` is of a group's entries with runs of all seeds; "" of fewer than two."""
    key = SHOWN[study.on_texts]
    found = [measures(study, entry, results) for entry in study.members(name)]
    found = [runs for runs in found if runs.keys() >= set(study.seeds)]
    reach = 100.0 * pooled_reach(found, key)
    if math.isnan(reach):
        return ""
    return (f"Noise pooled over {len(found)} rows: the difference of two is known to within"
            f" ± {reach:.1f} points ({LEVEL:.0%}).")  # fmt: skip


def group_table(study: Study, name: str, results: Results) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of a group: an entry a row; accuracies and correlations in percent."""
    entries = study.members(name)
    found = {entry.name: measures(study, entry, results) for entry in entries}
    columns = [c for c in known_columns(study) if any(c[0] in r for f in found.values()
                                                      for r in f.values())]  # fmt: skip
    key, base = SHOWN[study.on_texts], study.baseline(name)
    heads = ["", "chosen", "seeds", *(c[1] for c in columns), f"{shown_title(study)}: less {base}"]
    rows = []
    if name == next(iter(study.groups)):
        for title, numbers in results.baselines().items():
            cells = [spread([numbers[k]] if k in numbers else [], form) for k, _, form in columns]
            rows.append([title, "", "", *cells, ""])
    for entry in entries:
        runs, failed = found[entry.name], failures(study, entry, results)
        seeds = f"{len(runs)}" + (f", {failed} failed" if failed else "")
        cells = [spread([run[k] for run in runs.values() if k in run], form)
                 for k, _, form in columns]  # fmt: skip
        apart = "" if entry.name == base else interval(differences(runs, found[base], key))
        rows.append([entry.name, named(chosen(study, entry, results)), seeds, *cells, apart])
    return heads, rows


def choices_table(
    study: Study, entries: Iterable[Entry], results: Results
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of what entries tried: held-out scores in percent."""
    rows = []
    for entry in entries:
        if entry.tune:
            tried = tuned(study, entry, results)
            scores = [f"{_values(choice)}: " + ("failed" if math.isnan(score)
                                                else f"{100.0 * score:.1f}")
                      for choice, score in tried]  # fmt: skip
            best = chosen(study, entry, results)
            rows.append([entry.name, ", ".join(entry.tune), "; ".join(scores),
                         "" if best is None else _values(best)])  # fmt: skip
    return ["", "option", f"tried: {SCORE_TITLES[study.on_texts]}", "chosen"], rows


def markdown(study: Study, results: Results) -> str:
    """All tables, with what they mean."""
    parts = [f"# {study.title}"]
    for name, group in study.groups.items():
        if study.members(name):
            parts += [f"## {group.title}"] * (group.title != study.title)
            parts.append(report.pipes(*group_table(study, name, results)))
            parts += filter(None, [pooled(study, name, results)])
    tried = choices_table(study, study.entries.values(), results)
    parts += [legend(study), *(["## What was tried", report.pipes(*tried)] if tried[1] else [])]
    return "\n\n".join(parts) + "\n"


def legend(study: Study) -> str:
    """What the columns mean."""
    known = report.TEXT_LEGEND if study.on_texts else report.LEGEND
    texts = [
        f"Mean and standard deviation over seeds ({', '.join(map(str, study.seeds))}).",
        f"less: difference from the baseline, paired by seed, with its {LEVEL:.0%} interval by"
        " Student's t; one that contains 0 says nothing.",
        "pooled: the same with one noise for all entries of the table, that of score = entry + seed"
        " + noise; narrower, and right where the noise is alike.",
        f"chosen: the best of {study.tries} tries on held-out data, for every entry; test data was"
        " looked at by none of them.",
        *(text for _, text in known),
    ]
    return "\n".join(f"- {text}" for text in texts)


def named(choice: Mapping[str, Any] | None) -> str:
    """A choice in words."""
    return ", ".join(f"{name} {_values({name: value})}" for name, value in (choice or {}).items())


def _values(choice: Mapping[str, Any]) -> str:
    """The values of a choice."""
    return ", ".join(f"{v:{'g' if v < 1e6 else '.2g'}}" if is_number(v) else str(v)
                     for v in choice.values())  # fmt: skip


def spread(values: Sequence[float], form: str) -> str:
    """Mean and standard deviation in a column's format."""
    found = estimate(values)
    if not found.seeds:
        return ""
    mean = form.format(found.mean).rstrip("%")
    more = form.format(found.deviation).rstrip("%")
    return mean if math.isnan(found.deviation) else f"{mean} ± {more}"


def interval(found: Estimate) -> str:
    """A difference of accuracies with its interval, in points of a percent."""
    if not found.seeds:
        return ""
    mean, reach = 100.0 * found.mean, 100.0 * found.reach
    if math.isnan(reach):
        return f"{mean:+.1f}"
    return f"{mean:+.1f} ({mean - reach:+.1f} to {mean + reach:+.1f})"


def shown_title(study: Study) -> str:
    """Heading of the score in tables and pictures."""
    return next(title for key, title, _ in known_columns(study) if key == SHOWN[study.on_texts])


def known_columns(study: Study) -> tuple[report.Column, ...]:
    """The columns that runs of a study may have."""
    return report.TEXT_COLUMNS if study.on_texts else report.COLUMNS
