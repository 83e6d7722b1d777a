"""The process that trains one run of a study: its job comes in as a file, `fmicl study` starts it.

    python -m fmicl_cli.study_worker JOB.json

The job has `settings`, `folder` of the run, `stage`, `baselines`, whether the encoder is scored
before training, too, and `failed`, a file that is written with the reason where training fails,
which is a result, or where the run is refused (exit code 2); of anything else the log has the
traceback.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fmicl_cli.methods import KIND_OF
from fmicl_core.checks import InvalidArgument
from fmicl_recipes.files import read_json
from fmicl_recipes.stopping import NonFiniteLossError, Preempted
from fmicl_recipes.study import TUNING

#: Exit codes of a run whose training fails, and of one that is refused.
FAILED, REFUSED = 1, 2


def run(job: dict[str, Any]) -> int:
    """Train the run, or go on with it; the exit code."""
    kind, folder = KIND_OF[job["settings"]["method"]], Path(job["folder"])
    resume = (folder / "settings.json").exists()
    try:
        settings = kind.settings.from_dict(job["settings"])
        kind.check(settings)
        if job["stage"] == TUNING:
            kind.trials(settings)(settings, folder, resume)
        else:
            kind.train(settings, folder, resume=resume, baselines=job["baselines"], pictures=False)
    except Preempted as stopped:
        return stopped.exit_code
    except (NonFiniteLossError, InvalidArgument) as error:
        Path(job["failed"]).write_text(str(error), encoding="utf-8")
        return REFUSED if isinstance(error, InvalidArgument) else FAILED
    return 0


if __name__ == "__main__":
    sys.exit(run(read_json(Path(sys.argv[1]), "job")))
