"""`fmicl study`: its plan, the order of its runs, its rows, its tables, and its processes."""

import itertools
import math
import os
import signal
import sys
import threading
import time
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fmicl_cli import study_pool
from fmicl_cli.study_pool import Pool
from fmicl_recipes.study import FINAL, TUNING, Results, Study, chosen, due
from fmicl_recipes.study.course import planned
from fmicl_recipes.study.pictures import by_budget, draw_study
from fmicl_recipes.study.summary import (
    differences,
    estimate,
    group_table,
    interval,
    markdown,
    pooled,
    pooled_reach,
)

PLAN = {
    "title": "Digits",
    "seeds": [0, 1, 2],
    "tries": 2,
    "settings": {"method": "simclr", "preset": "digits", "data": "digits", "epochs": 4},
    "tuning": {"epochs": 4, "limit": 256},
    "groups": {"long": {"title": "A longer budget", "baseline": "InfoNCE, long"}},
    "entries": {
        "InfoNCE": {"loss": "info-nce", "tune": {"temperature": [0.1, 0.5]}},
        "KL": {"divergence": "kl", "tune": {"alpha": [10, 40]}},
        "InfoNCE, long": {"like": "InfoNCE", "epochs": 8, "group": "long"},
        "KL, long": {"like": "KL", "epochs": 8, "group": "long"},
    },
}


def changed(**changes):
    """The plan with other values at its top."""
    return {**PLAN, **changes}


def with_entry(name, **values):
    return changed(entries={**PLAN["entries"], name: values})


def metrics(score, **more):
    return {
        "knn_accuracy": score,
        "alignment": 0.5,
        "seconds": 1.0,
        "title": "x",
        "seed": 0,
        "versions": {"fmicl": "0"},
        **more,
    }


BAD = [
    (changed(seed=3), r"`file`. Expected one of 'title', .* Received: file='seed'"),
    ({"settings": {}, "seeds": [0]}, r"`file`. Expected 'entries' in it"),
    (with_entry("JS", divergence="js", tune={"alpha": [1, 2, 3]}),
     r"`tune`. Expected tries = 2 combinations of values in 'JS', as in all others"),
    (with_entry("JS", divergence="js"), r"`tune`. Expected tries = 2 combinations"),
    (with_entry("JS", like="Jensen"), r"`entry`. Expected one of 'InfoNCE', 'KL'"),
    (with_entry("JS", like="KL, long"), r"`like`. Expected an entry that is not like another"),
    (with_entry("JS", like="KL", tune={"alpha": [1, 2]}), r"`tune`. Expected nothing in 'JS'"),
    (with_entry("JS", divergence="js", group="short", tune={"alpha": [1, 2]}),
     r"`group`. Expected one of 'main', 'long'"),
    (with_entry("JS", divergence="js", tune={"alpha": [1, -2]}),
     r"Entry 'JS' of the study: Invalid value for argument `alpha`. Expected a finite number > 0"),
    (with_entry("JS", divergense="js", tune={"alpha": [1, 2]}),
     r"Entry 'JS' of the study: Invalid value for argument `option`"),
    (changed(groups={"long": {"title": "x", "baseline": "KL"}}), r"`baseline`. Expected one of"),
]  # fmt: skip


@pytest.mark.parametrize(("plan", "message"), BAD, ids=range(len(BAD)))
def test_a_plan_that_cannot_be_is_refused(plan, message):
    with pytest.raises(ValueError, match=message):
        Study.from_dict(plan)


def test_only_places_may_be_given_beside_the_plan():
    with pytest.raises(ValueError, match=r"`at`. Expected one of 'data', 'model', 'sts'. Received"):
        Study.from_dict(PLAN, {"epochs": "2"})


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`file`. Expected a file that can be read"):
        Study.read(tmp_path / "no.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("a = [")
    with pytest.raises(ValueError, match=r"`file`. Expected a TOML file"):
        Study.read(bad)


def test_a_key_names_what_changes_a_result():
    def key(places=None, stage=FINAL, **more):
        options = {**PLAN["settings"], "preset": "cifar10-cpu", "data": "cifar10", **more}
        study = Study.from_dict(changed(settings=options), places)
        kl = study.entry("KL")
        finals = study.final_jobs(kl, {"alpha": 10})
        return (finals if stage == FINAL else study.tuning_jobs(kl))[0].key

    assert key() == key({"data": "elsewhere"}) == key(device="cpu")
    assert key() == key(momentum=0.9)  # the default, said
    assert len({key(), key(width=8), key(epochs=5), key(stage=TUNING)}) == 4


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, math.nan]), min_size=4, max_size=4))
@settings(deadline=None, max_examples=10)
def test_every_run_comes_once_and_choices_before_what_they_choose(tmp_path_factory, scores):
    study, results = Study.from_dict(PLAN), Results(tmp_path_factory.mktemp("study"))
    trained, score = [], dict(zip(count(), scores, strict=False))
    while jobs := due(study, results):
        job = jobs[0]
        if job.stage == FINAL:
            entry = study.entry(job.entry)
            assert job.choice == chosen(study, entry, results)
            assert trained.count((entry.like or job.entry, TUNING)) == study.tries
        value = score.get(len(trained), 0.5)
        failed = "the loss is nan" if math.isnan(value) else ""
        results.add(job, {} if failed else metrics(value), [], failed)
        trained.append((job.entry, job.stage))
    assert len(trained) == planned(study) == 16
    for k, name in enumerate(("InfoNCE", "KL")):
        tried, entry = scores[2 * k : 2 * k + 2], study.entry(name)
        best = 0 if np.isnan(tried).all() else int(np.nanargmax(tried))
        assert chosen(study, entry, results) == entry.candidates[best]
        # What is like an entry has its choice, and its options but for its own.
        one = study.final_jobs(study.entry(f"{name}, long"), entry.candidates[best])[0].settings
        assert (one.epochs, one.loss) == (8, study.tuning_jobs(entry)[0].settings.loss)


def test_seeds_come_in_turn_so_that_a_table_is_fair_at_any_time(tmp_path):
    study, results = Study.from_dict(PLAN), Results(tmp_path)
    for name in ("InfoNCE", "KL"):
        for job in study.tuning_jobs(study.entry(name)):
            results.add(job, metrics(0.5), [])
    assert [job.seed for job in due(study, results)] == [0, 0, 1, 1, 2, 2] * 2  # two groups


def test_what_two_entries_share_is_trained_once_by_the_first(tmp_path):
    study = Study.from_dict(with_entry("KL again", like="KL", group="long"))
    results, trained = Results(tmp_path), []
    while jobs := due(study, results):
        results.add(jobs[0], metrics(0.5), [])
        trained.append(jobs[0].entry)
    assert trained.count("KL") == 5
    assert "KL again" not in trained
    assert group_table(study, "long", results)[1][-1][2] == "3"  # seeds


def test_a_group_is_whole_before_the_next_one_begins(tmp_path):
    study = Study.from_dict(with_entry("JS", divergence="js", group="long", tune={"alpha": [1, 2]}))
    results, groups, stages = Results(tmp_path), [], []
    while jobs := due(study, results):
        groups.append(study.entry(jobs[0].entry).group)
        stages.append(jobs[0].stage)
        results.add(jobs[0], metrics(0.5), [])
    assert groups == ["main"] * 10 + ["long"] * 11
    assert stages == [TUNING] * 4 + [FINAL] * 6 + [TUNING] * 2 + [FINAL] * 9


def filled(folder, shift=0.0):
    """A study all of whose runs have rows."""
    study, results = Study.from_dict(PLAN), Results(folder)
    epochs = [{"epoch": e, "loss": 1.0 / e, "alignment": 0.5, "uniformity": -e} for e in (1, 2)]
    while jobs := due(study, results):
        job = jobs[0]
        better = shift * (job.entry != "InfoNCE") * (1 + 0.1 * job.seed)
        results.add(job, metrics(0.5 + 0.01 * job.seed + better), epochs)
    return study, results


def test_a_folder_is_all_that_is_needed(tmp_path):
    study, results = filled(tmp_path, 0.02)
    again = Results(tmp_path)
    assert markdown(study, again) == markdown(study, results)
    assert not due(study, again)
    job = study.final_jobs(study.entry("KL"), {"alpha": 10})[2]
    assert again.measured(job) == {"knn_accuracy": 0.544, "alignment": 0.5, "seconds": 1.0}
    assert [row["loss"] for row in again.history(job)] == [1.0, 0.5]
    names = {path.name for path in draw_study(study, again, tmp_path)}
    assert names == {"scores-main.png", "scores-long.png", "tried-main.png", "budget.png",
                     "alignment-uniformity-main.png", "alignment-uniformity-long.png"}  # fmt: skip
    heads, rows = group_table(study, "main", again)
    assert (heads[-1], rows[0][-1]) == ("kNN: less InfoNCE", "")
    assert rows[1][:4] == ["KL", "alpha 10", "3", "53.2 ± 1.2"]
    assert rows[1][-1] == "+2.2 (+1.7 to +2.7)"


def test_a_score_by_budget_is_that_of_all_seeds_of_any_entry(tmp_path):
    filled(tmp_path)
    again = with_entry("KL again", like="KL", epochs=8, group="long", seeds=[2])
    lines = by_budget(Study.from_dict(again), Results(tmp_path))
    scores = [0.5, 0.51, 0.52]
    assert lines == {name: {4: scores, 8: scores} for name in ("InfoNCE", "KL")}


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"`out`. Expected a folder whose results.csv has"):
        Results(tmp_path)


def test_a_run_that_failed_is_counted_and_has_no_numbers(tmp_path):
    study, results = filled(tmp_path)
    entry = study.entry("KL")
    results.add(study.final_jobs(entry, {"alpha": 10})[1], {}, [], "The loss is nan.")
    assert group_table(study, "main", results)[1][1][2] == "2, 1 failed"


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 2), min_size=3, max_size=6))
@settings(deadline=None, max_examples=30)
def test_differences_are_a_paired_t_test(pairs):
    ours, others = ({i: {"a": p[k]} for i, p in enumerate(pairs)} for k in (0, 1))
    found = differences(ours, {**others, 99: {"a": 1.0}}, "a")
    apart = np.subtract(*np.array(pairs).T)
    assert found.mean == pytest.approx(apart.mean(), abs=1e-12)
    if np.ptp(apart) > 1e-6:
        low, high = stats.ttest_rel(*np.array(pairs).T).confidence_interval(0.95)
        assert found.mean - found.reach == pytest.approx(low, abs=1e-9)
        assert found.mean + found.reach == pytest.approx(high, abs=1e-9)


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=3, max_size=6))
@settings(deadline=None, max_examples=30)
def test_pooled_noise_of_two_is_that_of_the_paired_test_and_sees_no_shift_of_rows_or_seeds(scores):
    runs = [{seed: {"a": row[k]} for seed, row in enumerate(scores)} for k in range(3)]
    two = differences(runs[0], runs[1], "a").reach
    assert pooled_reach(runs[:2], "a") == pytest.approx(two, abs=1e-9)
    moved = [{s: {"a": run["a"] + 0.1 * k + 0.3 * s} for s, run in of.items()}
             for k, of in enumerate(runs)]  # fmt: skip
    assert pooled_reach(moved, "a") == pytest.approx(pooled_reach(runs, "a"), abs=1e-9)
    more = [*runs[:2], {**runs[2], 99: {"a": 1.0}}]
    assert pooled_reach(more, "a") == pooled_reach(runs, "a")
    apart = [differences(a, b, "a").reach ** 2 for a, b in itertools.combinations(runs, 2)]
    free = len(scores) - 1
    ratio = stats.t.ppf(0.975, 2 * free) / stats.t.ppf(0.975, free)
    assert pooled_reach(runs, "a") == pytest.approx(ratio * math.sqrt(np.mean(apart)), abs=1e-9)


def test_noise_is_pooled_over_entries_of_all_seeds(tmp_path):
    study, results = filled(tmp_path, 0.02)
    assert pooled(study, "main", results).startswith("Noise pooled over 2 rows")
    assert pooled(study, "main", results) in markdown(study, results)
    results.add(study.final_jobs(study.entry("KL"), {"alpha": 10})[1], {}, [], "The loss is nan.")
    assert pooled(study, "main", results) == ""


def test_one_seed_has_no_interval():
    assert interval(estimate([0.5])) == "+50.0"
    assert interval(estimate([])) == ""


WORKER = """
import json, pathlib, sys, time, signal
job = json.loads(pathlib.Path(sys.argv[1]).read_text())
folder = pathlib.Path(job["folder"])
seed = job["settings"]["seed"]
if seed == 1:
    pathlib.Path(job["failed"]).write_text("The loss is nan.")
    sys.exit(1)
if seed == 2:
    sys.exit(3)
if seed == 4:
    pathlib.Path(job["failed"]).write_text("No such data.")
    sys.exit(2)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
folder.mkdir(exist_ok=True)
(folder / "started").touch()
time.sleep({wait})
(folder / "metrics.json").write_text(json.dumps({{"knn_accuracy": 0.5}}))
(folder / "history.csv").write_text("epoch,loss\\n1,0.5\\n")
"""


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """Pools whose processes only pretend; with how long each takes."""

    def made(results, wait=0.0, jobs=2):
        script = tmp_path / "worker.py"
        script.write_text(WORKER.format(wait=wait))
        monkeypatch.setattr(study_pool, "COMMAND", (sys.executable, str(script)))
        return Pool(tmp_path / "out", results, jobs)

    return made


def train(pool, study, results, until=math.inf):
    ended = {}

    def next_job():
        busy = {job.key for job in pool.under_way} | ended.keys()
        return next((job for job in due(study, results) if job.key not in busy), None)

    pool.train(next_job, lambda job, error: ended.update({job.key: error}), until)
    return ended


def test_processes_leave_rows_or_reasons(tmp_path, pool):
    study, results = Study.from_dict(changed(seeds=[0, 1, 2])), Results(tmp_path / "out")
    (tmp_path / "out").mkdir()
    ended = train(pool(results), study, results)
    assert len(ended) == planned(study)
    assert sorted({e.split(";")[0] for e in ended.values()}) == [
        "", "The loss is nan.", "its process ended with exit code 3"]  # fmt: skip
    again = Results(tmp_path / "out")
    # A process that died is due again; what the library refused is not.
    assert {job.seed for job in due(study, again)} == {2}
    kl = study.final_jobs(study.entry("KL"), {"alpha": 10})
    assert again.error(kl[1]) == "The loss is nan."
    assert (tmp_path / "out" / "runs" / kl[0].key).is_dir()
    tuning = study.tuning_jobs(study.entry("KL"))[0]
    assert not (tmp_path / "out" / "runs" / tuning.key).exists()


def test_what_is_refused_ends_the_study_and_is_no_row(tmp_path, pool):
    study, results = Study.from_dict(changed(seeds=[4])), Results(tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="InfoNCE: No such data"):
        train(pool(results, jobs=1), study, results)
    assert {job.seed for job in due(study, Results(tmp_path / "out"))} == {4}


@pytest.mark.parametrize("by", ["clock", "SIGTERM"])
def test_what_is_stopped_is_due_again(tmp_path, pool, by):
    study, results = Study.from_dict(PLAN), Results(tmp_path / "out")
    (tmp_path / "out").mkdir()
    pretending, until = pool(results, wait=60.0), math.inf
    if by == "clock":
        until = time.monotonic() + 3.0
    else:
        threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    ended = {}
    told = pretending.train(
        lambda: next(iter(due(study, results)), None), lambda job, error: ended.update(x=job), until
    )
    assert (told, ended) == (by == "SIGTERM", {})
    assert len(due(study, Results(tmp_path / "out"))) == 4


@pytest.mark.slow  # its parts have tests of their own
def test_the_command_trains_and_shows(tmp_path, capfd):
    from fmicl_cli.main import app

    plan = tmp_path / "plan.toml"
    plan.write_text(
        'title = "Digits"\nseeds = [0]\n'
        '[settings]\nmethod = "simclr"\ndata = "digits"\npreset = "digits"\nepochs = 1\n'
        'width = 4\nlimit = 300\nprojection_hidden = 8\nprojection_dim = 4\ndevice = "cpu"\n'
        '[entries.KL]\ndivergence = "kl"\ntune.alpha = [10]\n'
    )
    out = str(tmp_path / "out")
    app([str(a) for a in ("study", plan, "--out", out)], standalone_mode=False)
    shown = capfd.readouterr()
    assert "KL" in shown.out
    assert "still to be trained" not in shown.out
    table = (tmp_path / "out" / "table.md").read_text()
    with pytest.raises(ValueError, match=r"`data`. Expected"):
        other = str(tmp_path / "other")
        app(["study", str(plan), "--out", other, "--at", "data=none/here"], standalone_mode=False)
    app(["study", "--out", out, "--show"], standalone_mode=False)
    assert (tmp_path / "out" / "table.md").read_text() == table
    rows = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert len(rows) == 5  # with those of raw pixels and of the untrained encoder
