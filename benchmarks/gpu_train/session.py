"""One call: shares the minutes among the runs, has each trained in a process, writes the rows."""

from __future__ import annotations

import os
import queue
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.clock import Clock
from benchmarks.gpu.crew import Worker, environment
from benchmarks.gpu.table import ROOT, Table, digest_of
from benchmarks.gpu_train.runs import SHOWN, Run
from benchmarks.machine import machine
from benchmarks.timing import Row
from fmicl_recipes.loading import PACKAGES as TRAINERS

#: The package of each library's trainer, and the packages whose versions are kept.
MODULES = {library: TRAINERS[library] for library in ("torch", "jax")}
PACKAGES = {"torch": ("torch", "triton", "lightning", "numpy"),
            "jax": ("jax", "jaxlib", "flax", "optax", "numpy")}  # fmt: skip
MEASURED = (
    "epochs_done", "train_s", "epoch_s", "images_per_second", "epochs_now", "fit_s", "start_s",
    "last_loss", "contrastive_accuracy", "alignment", "uniformity", "embedding_rank", "knn_k",
    "knn_accuracy", "linear_accuracy", "evaluation_s", "peak_gib", "note", "error",
)  # fmt: skip
#: Settings of `environment` that are for many processes side by side; here one has the cores.
ALONE = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")
#: Seconds beyond its share after which a process is ended, and of training that are worth a start.
GRACE, LEAST = 10.0, 5.0


class Trainee(Worker):
    """A process that trains one run. It is started early, and imports while others train.

    Args:
        library: name of the library.
        command: command that starts it.
        environment: environment of the process.
        log: file for whatever it prints.
    """

    def __init__(
        self, library: str, command: list[str], environment: dict[str, str], log: Path
    ) -> None:
        self.messages: queue.Queue[Any] = queue.Queue()
        super().__init__(library, 0, command, environment, self.messages, log)


class Session:
    """One call of the command.

    Args:
        runs: runs to train, in their order.
        device: "cuda" or "cpu".
        results: folder of the CSV files.
        work: folder for run folders, images, logs and what is compiled.
        reserve: seconds of each share that are kept back to measure what was trained.
        profile: whether some steps are traced.
        modules: package of each library's trainer.
    """

    def __init__(
        self, runs: list[Run], device: str, results: Path, work: Path, *, reserve: float,
        profile: bool = False, modules: dict[str, str] = MODULES,
    ) -> None:  # fmt: skip
        self.runs, self.device, self.results, self.work = runs, device, results, work
        self.reserve, self.profile, self.modules = reserve, profile, modules
        self.suffix = "_rehearsal" if device == "cpu" else ""
        self.rows: dict[Run, Row] = {}

    def run(self, clock: Clock, images: Any) -> int:
        """Train until the clock has run down.

        Args:
            clock: clock of the command.
            images: function that returns the file of the images; called when the first process
                has been started, which imports meanwhile.

        Returns:
            Exit code: 0 if nothing failed.
        """
        waiting = []
        for run in self.runs:
            if run.finished(self.work):
                print(f"{run.title}: finished before, all {run.settings.epochs} epochs", flush=True)
            else:
                waiting.append(run)
        workers = [self._start(run) for run in waiting[:1]]
        try:
            data = images() if waiting else Path()
            for index, run in enumerate(waiting):
                workers += [self._start(run) for run in waiting[index + 1 : index + 2]]
                share = clock.left() / (len(waiting) - index)
                if share - min(self.reserve, share / 2) < LEAST:
                    print(f"{run.title}: not begun, {clock.left():.0f} s are left", flush=True)
                    continue
                self._train(run, workers[index], clock, share, data)
        finally:
            for worker in workers:
                worker.end()
        self._tell_next()
        return int(any("error" in row for row in self.rows.values()))

    def _start(self, run: Run) -> Trainee:
        """A process for a run, which imports and then waits."""
        self.work.mkdir(parents=True, exist_ok=True)
        given = {k: v for k, v in environment(self.work).items() if k not in ALONE}
        given |= {name: os.environ[name] for name in ALONE if name in os.environ}
        command = [sys.executable, "-m", "benchmarks.gpu_train.worker", run.library,
                   self.modules[run.library], self.device]  # fmt: skip
        return Trainee(run.library, command, given, self._log(run))

    def _log(self, run: Run) -> Path:
        """File of whatever the process of a run prints."""
        return self.work / f"{run.library}-{run.name}.log"

    def _train(self, run: Run, worker: Trainee, clock: Clock, share: float, data: Path) -> None:
        """Have a run trained for its share, and write its row, whatever becomes of it."""
        begun, before = time.monotonic(), run.epochs_done(self.work)
        end = begun + share
        kill = min(end + GRACE, clock.ends + 2.0)
        folder = run.path(self.work)
        print(f"{run.title}: {before} of {run.settings.epochs} epochs, {share:.0f} s for more"
              f" ({folder})", flush=True)  # fmt: skip
        profile = self.results / f"gpu_train_profile_{run.library}_{run.name}{self.suffix}.csv"
        worker.send({
            "settings": run.settings.to_dict(), "folder": str(folder), "data": str(data),
            "stop": end - min(self.reserve, share / 2), "end": end,
            "profile": str(profile) if self.profile else None,
        })  # fmt: skip
        row: Row = {}
        while "ended" not in row:
            try:
                wait = max(0.01, kill - time.monotonic())
                _, message = worker.messages.get(timeout=wait)
            except queue.Empty:
                row["error"] = "took too long and was ended"
                break
            if message is None:
                row["error"] = f"process ended ({worker.process.wait()}): {worker.last_words()}"
                break
            row |= message.get("row", message)
        worker.end()
        row.pop("ended", None)
        row.setdefault("epochs_done", run.epochs_done(self.work))
        self._write(run, row)

    def _write(self, run: Run, row: Row) -> None:
        """Write a run's row into its file and its history beside it, and show the row."""
        facts = {"device": row.pop("device", ""), "code": code_of(run.library)}
        facts |= machine(PACKAGES[run.library])
        path = self.results / f"gpu_train_{run.library}{self.suffix}.csv"
        table = Table(path, ("run", *SHOWN, *MEASURED, *facts))
        self.rows[run] = row = {
            k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()
        }
        table.add(run.columns() | row | facts)
        table.close()
        history = run.path(self.work) / "history.csv"
        if history.exists():
            name = f"gpu_train_history_{run.library}_{run.name}{self.suffix}.csv"
            shutil.copyfile(history, self.results / name)
        shown = "  ".join(f"{k}={row[k]}" for k in MEASURED if k in row)
        print(f"{'FAILED ' if 'error' in row else ''}{run.title}: {shown}", flush=True)

    def _tell_next(self) -> None:
        """Say of every run how far it is, and what is to be done next."""
        for run in self.runs:
            done, row = run.epochs_done(self.work), self.rows.get(run, {})
            said = f"{run.title}: {done} of {run.settings.epochs} epochs"
            if "knn_accuracy" in row:
                said += f", kNN {float(row['knn_accuracy']):.1%}"
            if "epoch_s" in row:
                said += f", {float(row['epoch_s']):.1f} s an epoch"
            if "error" in row:
                said += f"; failed: {row['error']}, see {self._log(run)}"
            elif not run.finished(self.work):
                more = float(row.get("epoch_s", 0.0)) * (run.settings.epochs - done)
                said += "; call again" + (f" for {more:.0f} s more of training" if more else "")
            print(said, flush=True)


def code_of(library: str) -> str:
    """A number of the code that trains."""
    folders = ["fmicl_core", f"backends/fmicl_{library}", "integrations/fmicl_recipes",
               f"integrations/{MODULES[library]}"]  # fmt: skip
    return digest_of(p for name in folders for p in sorted((ROOT / name).rglob("*.py")))
