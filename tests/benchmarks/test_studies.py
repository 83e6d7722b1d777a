"""The plans of the studies that findings rest on can be read, and their rows belong to them."""

from pathlib import Path

import pytest

from fmicl_recipes.study import Results, Study
from fmicl_recipes.study.summary import markdown

FOLDERS = sorted(Path(__file__).parents[2].glob("benchmarks/results/studies/*"))


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
def test_a_plan_and_its_rows_make_tables(folder):
    study, results = Study.read(folder / "study.toml"), Results(folder)
    jobs = [job for entry in study.entries.values() for job in study.tuning_jobs(entry)]
    for entry in study.entries.values():
        for choice in study.entry(entry.like or entry.name).candidates:
            jobs += study.final_jobs(entry, choice)
    assert results.keys() <= {job.key for job in jobs}
    assert study.title in markdown(study, results)
