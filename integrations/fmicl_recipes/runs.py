"""`fmicl_recipes.run` by its name of the last version."""

from fmicl_core.renamed import warn_renamed
from fmicl_recipes.run import evaluate_run, load_data, train_run

__all__ = ["evaluate_run", "load_data", "train_run"]

warn_renamed("fmicl_recipes.runs", "fmicl_recipes.run")
