"""What all trainers share, without any framework.

| room | files |
| --- | --- |
| settings | `options.py`, `choices.py`, `settings.py`, `presets.py` |
| loss, views | `losses.py`, `augmentation.py` |
| images, texts | `data/`, `text/` |
| a run | `run.py`, its course; `run_folder.py`, `trainer.py`, `history.py`, `scores.py` |
| its batches | `batches.py`, `stream.py`, `draws.py` |
| while it trains | `momentum.py`, `progress.py`, `board.py`; `machines.py`, `stopping.py` |
| evaluation | `evaluation.py`, `probe.py`, by classes; `sphere.py`, without; `chunks.py` |
| its encoder | `weights/`, which every framework reads; `loading.py`, `embed.py` |
| results | `metrics.py`, `report.py`, `plots/`; of several runs `compare.py`, `differences.py` |
| many runs | `study/`, tuned alike, with seeds and intervals; `sweep.py`, the search for alpha |
| other | `files.py`, `archives.py`, `run_state.py` |

`fmicl_recipes.data`, `.run`, `.evaluation`, `.plots`, `.report` and `.compare` are imported by
name, so that reading settings does not wait for scikit-learn and matplotlib.
"""

from fmicl_recipes.presets import PRESETS, resolve
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.settings import TrainSettings

__all__ = ["PRESETS", "RunFolder", "TrainSettings", "resolve"]


def __dir__() -> list[str]:
    return __all__
