"""What all trainers share: settings, presets, data sets, run folder, evaluation, plots.

`fmicl_recipes.data`, `.evaluation`, `.plots`, `.report` and `.compare` are imported by name, so
that reading settings does not wait for scikit-learn.
"""

from fmicl_recipes.presets import PRESETS, resolve
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.settings import TrainSettings

__all__ = ["PRESETS", "RunFolder", "TrainSettings", "resolve"]


def __dir__() -> list[str]:
    return __all__
