"""What all trainers share, without any framework.

| room | files |
| --- | --- |
| settings | `options.py`, `settings.py`, `presets.py`, `augmentation.py`, `losses.py` |
| images, texts | `data/`, `text/` |
| a run | `run.py`, its course; `run_folder.py`, `trainer.py`, `history.py`, `scores.py` |
| while it trains | `batches.py`, `stream.py`, `draws.py`, `momentum.py`; `progress.py`, `board.py` |
| several machines, and the end before the end | `machines.py`, `stopping.py` |
| evaluation | `evaluation.py` and `probe.py`, by classes; `sphere.py`, without; `chunks.py`; `loading.py` and `embed.py` |
| results | `metrics.py`, `report.py`, `plots/`; of several runs `compare.py`, `differences.py` |
| other | `sweep.py`, the search for alpha; `files.py` |

`fmicl_recipes.data`, `.run`, `.evaluation`, `.plots`, `.report` and `.compare` are imported by
name, so that reading settings does not wait for scikit-learn and matplotlib.
"""

from fmicl_recipes.presets import PRESETS, resolve
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.settings import TrainSettings

__all__ = ["PRESETS", "RunFolder", "TrainSettings", "resolve"]


def __dir__() -> list[str]:
    return __all__
