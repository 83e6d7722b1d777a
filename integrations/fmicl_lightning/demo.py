"""The demonstration: three losses on handwritten digits, everything else equal."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from fmicl_core.checks import invalid
from fmicl_lightning.trainer import MethodTrainer
from fmicl_recipes.compare import compare_runs
from fmicl_recipes.data import load_images
from fmicl_recipes.files import make_folder
from fmicl_recipes.presets import resolve
from fmicl_recipes.run import train_run

#: The options of each run. Encoder, augmentation, epochs and learning rate are those of the preset
#: "digits", which was tuned with InfoNCE and serves all three losses.
RUNS: dict[str, dict[str, Any]] = {
    "info-nce": {"loss": "info-nce"},
    "kl-micl": {"divergence": "kl"},
    "js-micl": {"divergence": "js"},
}
_MARK = "fmicl-demo"


def run_demo(out: str | Path) -> tuple[dict[str, dict[str, Any]], list[Path]]:
    """Train and compare the demonstration's runs.

    Args:
        out: folder to write to; a demo that it holds is replaced.

    Returns:
        The metrics by row of the table, and the files written.

    Raises:
        ValueError: `out` holds something that is no demo.
    """
    folder = Path(out)
    taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if taken and not (folder / _MARK).exists():
        raise invalid("out", "a folder that does not exist, is empty, or holds a demo", str(out))
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    (folder / _MARK).write_text("A later demo may replace this folder.\n", encoding="utf-8")
    data = load_images("digits")
    for number, (name, options) in enumerate(RUNS.items()):
        settings = resolve("digits", {**options, "device": "cpu"})
        train_run(MethodTrainer, settings, folder / name, baselines=number == 0, data=data)
    done = compare_runs([folder / name for name in RUNS], folder, overwrite=True)
    return done.rows, done.files
