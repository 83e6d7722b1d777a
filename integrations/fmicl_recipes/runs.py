"""Former name of `fmicl_recipes.run`; goes with the next release."""

import warnings

from fmicl_recipes.run import evaluate_run, load_data, train_run

__all__ = ["evaluate_run", "load_data", "train_run"]

warnings.warn("fmicl_recipes.runs is now fmicl_recipes.run", DeprecationWarning, stacklevel=2)
