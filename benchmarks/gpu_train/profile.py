"""What the GPU does in a few steps of a training: its longest operators, and its idle time."""

from __future__ import annotations

import csv
import gzip
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from fmicl_recipes.progress import Progress

#: Epochs of a sitting before the profile, steps in it, rows of its table.
AFTER, STEPS, ROWS = 2, 10, 25
#: What PyTorch calls the work of a GPU.
GPU_WORK = ("kernel", "gpu_memcpy", "gpu_memset")


class Span(NamedTuple):
    """One operator at work, in microseconds."""

    name: str
    start: float
    length: float


@contextmanager
def profiled(framework: str, done: int, out: str | None) -> Iterator[None]:
    """Trace `STEPS` steps after `AFTER` epochs of the training inside, and write their table.

    The trainers tell every step to their progress bar, in the thread that trains; there the trace
    begins and ends. Not yet run on a GPU.

    Args:
        framework: name of the framework.
        done: number of epochs that were trained before.
        out: file of the table; None traces nothing.
    """
    if out is None:
        yield
        return
    advance, tracer = Progress.advance, Tracer(framework)

    def stepped(bar: Progress, epoch: int, loss: float) -> None:
        advance(bar, epoch, loss)
        if epoch > done + AFTER and tracer.steps < STEPS:
            tracer.step()

    with tempfile.TemporaryDirectory() as folder:
        tracer.folder = Path(folder)
        Progress.advance = stepped  # type: ignore[method-assign]
        try:
            yield
        finally:
            Progress.advance = advance  # type: ignore[method-assign]
            if tracer.running:
                tracer.stop()
            if spans := tracer.spans():
                write(Path(out), spans, max(1, tracer.steps))


class Tracer:
    """Starts and stops the profiler of a framework, and reads what it wrote."""

    folder: Path

    def __init__(self, framework: str) -> None:
        self.framework, self.steps, self.running = framework, -1, False
        self._profiler: Any = None

    def step(self) -> None:
        """A step has ended: the first one starts the trace, the last one ends it."""
        self.steps += 1
        if self.steps == 0:
            self.start()
        elif self.steps == STEPS:
            self.stop()

    def start(self) -> None:
        """Start the profiler."""
        self.running = True
        if self.framework == "torch":
            from torch.profiler import profile

            self._profiler = profile()
            self._profiler.start()
        else:
            import jax

            jax.profiler.start_trace(str(self.folder))

    def stop(self) -> None:
        """Stop the profiler and write its trace."""
        self.running = False
        if self.framework == "torch":
            self._profiler.stop()
            self._profiler.export_chrome_trace(str(self.folder / "trace.json"))
        else:
            import jax

            jax.profiler.stop_trace()

    def spans(self) -> list[Span]:
        """The operators of the trace: the GPU's, or where it has none the CPU's."""
        with suppress(StopIteration):
            file = next(path for path in self.folder.rglob("*trace.json*"))
            opened = gzip.open if file.suffix == ".gz" else open
            with opened(file, "rt", encoding="utf-8") as text:
                return spans_of(json.load(text)["traceEvents"])
        return []


def spans_of(events: list[dict[str, Any]]) -> list[Span]:
    """The operators among the events of a trace: the GPU's, or where it has none the CPU's."""
    names = {(e["pid"], e.get("tid") if e["name"] == "thread_name" else None): e["args"]["name"]
             for e in events if e.get("name") in ("process_name", "thread_name")}  # fmt: skip
    gpu, cpu = [], []
    for event in events:
        if event.get("ph") != "X" or not event.get("dur"):
            continue
        span = Span(event["name"], float(event["ts"]), float(event["dur"]))
        process = str(names.get((event["pid"], None), ""))
        thread = str(names.get((event["pid"], event["tid"]), ""))
        if event.get("cat") in GPU_WORK or ("GPU" in process and "Stream" in thread):
            gpu.append(span)
        elif event.get("cat") == "cpu_op" or "XLA" in thread:
            cpu.append(span)
    return gpu or cpu


def busy(spans: list[Span]) -> float:
    """Microseconds in which at least one operator was at work."""
    total, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.start):
        end = span.start + span.length
        total += max(0.0, end - max(span.start, until))
        until = max(until, end)
    return total


def write(path: Path, spans: list[Span], steps: int) -> None:
    """Write the operators that take longest, with the idle time in the first row."""
    whole = max(s.start + s.length for s in spans) - min(s.start for s in spans)
    times: dict[str, list[float]] = defaultdict(list)
    for span in spans:
        times[span.name[:120]].append(span.length)
    rows = [("(idle)", 0, whole - busy(spans))]
    longest = sorted(times.items(), key=lambda item: -sum(item[1]))[:ROWS]
    rows += [(name, len(lengths), sum(lengths)) for name, lengths in longest]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("operator", "calls", "ms_a_step", "share"))
        for name, calls, length in rows:
            writer.writerow(
                (name, calls, round(1e-3 * length / steps, 4), round(length / whole, 4))
            )
