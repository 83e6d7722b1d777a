"""Which runs of a study are due, by what was measured so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fmicl_recipes.study.plan import Entry, Job, Study
from fmicl_recipes.study.rows import Results

#: The score that chooses, where higher is better, of runs on images and of runs on texts.
SCORES = {False: "knn_accuracy", True: "stsb_dev"}
#: What tables and pictures call it.
SCORE_TITLES = {False: "held-out kNN", True: "STS-B, development pairs"}


def tuned(study: Study, entry: Entry, results: Results) -> list[tuple[Mapping[str, Any], float]]:
    """The candidates of an entry that were tried, with their scores; NaN of a run that failed."""
    source = study.entry(entry.like) if entry.like else entry
    score = SCORES[study.on_texts]
    return [
        (job.choice, results.measured(job).get(score, math.nan))
        for job in study.tuning_jobs(source) if job in results
    ]  # fmt: skip


def chosen(study: Study, entry: Entry, results: Results) -> Mapping[str, Any] | None:
    """The best candidate of an entry, the first of equal ones; None while some were not tried.

    Where every candidate failed it is the first one: the table then says that it fails.
    """
    source = study.entry(entry.like) if entry.like else entry
    if not source.tune:
        return {}
    tried = tuned(study, source, results)
    if len(tried) < len(source.candidates):
        return None
    return max(tried, key=lambda one: -math.inf if math.isnan(one[1]) else one[1])[0]


def due(study: Study, results: Results) -> list[Job]:
    """The runs that can be trained now and were not, in the order in which they are to be.

    Group by group; in each first those that choose, then seed by seed all entries, so that a table
    of what is there is a fair one at any time.
    """
    jobs: list[Job] = []
    for group in study.groups:
        finals: list[Job] = []
        for entry in study.members(group):
            if entry.tune:
                jobs += study.tuning_jobs(entry)
            choice = chosen(study, entry, results)
            if choice is not None:
                finals += study.final_jobs(entry, choice)
        jobs += sorted(finals, key=lambda job: job.seed)
    once: dict[str, Job] = {}
    for job in jobs:
        if job not in results:
            once.setdefault(job.key, job)
    return list(once.values())


def left(study: Study, results: Results) -> int:
    """The number of runs still to be trained, those included that wait for a choice."""
    waiting = [e for e in study.entries.values() if chosen(study, e, results) is None]
    return len(due(study, results)) + sum(len(study.seeds_of(entry)) for entry in waiting)


def planned(study: Study) -> int:
    """The number of all runs, those that choose and those on test data."""
    entries = study.entries.values()
    tuning = sum(len(entry.candidates) for entry in entries if entry.tune)
    return tuning + sum(len(study.seeds_of(entry)) for entry in entries)
