"""Runs of a study in processes of their own, several at a time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

from fmicl_cli.study_worker import REFUSED
from fmicl_core.checks import InvalidArgument
from fmicl_recipes.files import write_json
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.stopping import Preempted, sigterm
from fmicl_recipes.study import FINAL, TUNING, Job, Results
from fmicl_recipes.study.rows import RUNS

#: Variables that say how many threads a process computes with.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
#: What trains a run, whose job's file is added.
COMMAND = (sys.executable, "-m", "fmicl_cli.study_worker")
#: Seconds between two looks at the processes, and that one has to write its checkpoint.
LOOK, GRACE = 0.2, 60.0
#: Why a run has a row without numbers, where its process says nothing itself.
DIED = "its process ended with exit code {code}; see {log}"


class Running(NamedTuple):
    """A run that a process trains.

    Args:
        job: the run.
        process: the process.
        log: file with what it prints.
    """

    job: Job
    process: subprocess.Popen[bytes]
    log: IO[bytes]


class Pool:
    """Trains runs, and keeps a row of each as soon as it has ended.

    Args:
        folder: folder of the study; run folders, jobs and logs are in its folder of runs.
        results: the rows.
        jobs: number of runs at a time.
        gpus: number of GPUs, which the runs share in turn; 0 leaves that to the framework.
    """

    def __init__(self, folder: Path, results: Results, jobs: int, gpus: int = 0) -> None:
        self.runs, self.results, self.gpus = folder / RUNS, results, gpus
        self.threads = max(1, (os.cpu_count() or 1) // jobs)
        self._places: dict[int, Running | None] = dict.fromkeys(range(jobs))

    @property
    def under_way(self) -> list[Job]:
        """The runs that are being trained."""
        return [running.job for running in self._places.values() if running is not None]

    def train(
        self, next_job: Callable[[], Job | None], ended: Callable[[Job, str], None], until: float
    ) -> bool:
        """Train what `next_job` gives until it gives nothing more; whether SIGTERM came before.

        Args:
            next_job: function that gives a run that is due and not under way, or None.
            ended: function that takes a run that has ended, and why it failed, or "".
            until: moment of `time.monotonic` at which runs are stopped; they go on another time.

        Raises:
            ValueError: a run is refused, as where data or memory are missing.
        """
        with sigterm() as told:
            self._train(next_job, ended, lambda: told() or time.monotonic() >= until)
            return told()

    def _train(
        self, next_job: Callable[[], Job | None], ended: Callable[[Job, str], None],
        stopped: Callable[[], bool],
    ) -> None:  # fmt: skip
        try:
            while not stopped():
                for place in [place for place, one in self._places.items() if one is None]:
                    if (job := next_job()) is None:
                        break
                    self._places[place] = self._start(job, place)
                if not self.under_way:
                    return
                time.sleep(LOOK)
                self._look(ended)
        finally:
            self._stop()

    def _start(self, job: Job, place: int) -> Running:
        self.runs.mkdir(parents=True, exist_ok=True)
        base = self.runs / job.key
        failed = base.with_suffix(".failed")
        failed.unlink(missing_ok=True)  # of an earlier try
        scored = self.results.baselines() or any(one.stage == FINAL for one in self.under_way)
        file = write_json(base.with_suffix(".json"), {
            "settings": job.settings.to_dict(), "folder": str(base), "stage": job.stage,
            "failed": str(failed), "baselines": job.stage == FINAL and not scored,
        })  # fmt: skip
        environment = dict(os.environ)
        if not environment.keys() & set(THREADS):  # what the user says goes before
            environment |= dict.fromkeys(THREADS, str(self.threads))
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(place % self.gpus)
        log = open(base.with_suffix(".log"), "ab")  # noqa: SIM115 - as long as the process
        process = subprocess.Popen(
            [*COMMAND, str(file)], stdout=log, stderr=log, env=environment, start_new_session=True
        )
        return Running(job, process, log)

    def _look(self, ended: Callable[[Job, str], None]) -> None:
        """Keep the rows of the runs that have ended."""
        for place, running in self._places.items():
            if running is None or running.process.poll() is None:
                continue
            self._places[place] = None
            running.log.close()
            code = running.process.returncode
            if code == Preempted.exit_code:
                continue  # stopped from outside; it is due again
            ended(running.job, self._keep(running.job, code))

    def _keep(self, job: Job, code: int) -> str:
        """Keep the row of a run that has ended; why it failed, or ""."""
        base = self.runs / job.key
        failed, folder = base.with_suffix(".failed"), RunFolder(base, type(job.settings))
        if code:
            log = f"{RUNS}/{job.key}.log"
            said = failed.read_text(encoding="utf-8") if failed.exists() else ""
            error = said or DIED.format(code=code, log=log)
            if code == REFUSED and said:  # as the next one would be
                raise InvalidArgument(f"{job.entry}: {said}")
            if said:  # that is what comes of these settings
                self.results.add(job, {}, (), said)
            return error
        metrics = folder.read_json("metrics.json")
        history = [] if job.stage == TUNING else folder.read_history()
        self.results.add(job, metrics, history)
        if job.stage == TUNING:  # of which the score is all that is wanted
            shutil.rmtree(base, ignore_errors=True)
        return ""

    def _stop(self) -> None:
        """Have every run write a checkpoint and end."""
        running = [one for one in self._places.values() if one is not None]
        for one in running:
            one.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + GRACE
        for one in running:
            try:
                one.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.process.kill()
            one.log.close()
        self._places = dict.fromkeys(self._places)
