"""The worker's end of the pipe to who started it: lines of JSON in, lines of JSON out."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from benchmarks.timing import Row


def connected() -> tuple[queue.Queue[str], Callable[[Any], None]]:
    """The jobs, which come in as lines, and a function that sends a message.

    What is printed otherwise goes to the log. The process ends with who started it.
    """
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    jobs: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            jobs.put(line)
        os._exit(0)  # whoever started this has ended

    def send(message: Any) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    threading.Thread(target=read, daemon=True).start()
    return jobs, send


def error_row(error: BaseException, most: int) -> Row:
    """The row that says why there is none, in at most so many characters; the log has it all."""
    traceback.print_exception(error)
    first = (str(error).splitlines() or [""])[0]
    return {"error": f"{type(error).__name__}: {first[:most]}"}
