"""A method's constructor has the same keywords, order and defaults in every framework."""

import inspect
from importlib import import_module

import pytest

from fmicl_recipes import TrainSettings
from fmicl_recipes.loading import PACKAGES
from fmicl_recipes.methods import method_options
from fmicl_recipes.settings import METHODS

REQUIRED = ["self", "encoder", "feature_dim", "loss", "augment"]
TRAINING = ("optimizer", "lr", "momentum", "weight_decay", "warmup_epochs", "seed")
#: What one framework alone needs: a LightningModule has its optimiser and the seed of its views,
#: Flax draws weights from `rngs`, and in Keras the schedule of the momentum is part of the graph.
OWN = {
    "fmicl_lightning": {name: getattr(TrainSettings, name) for name in TRAINING},
    "fmicl_flax": {"rngs": inspect.Parameter.empty},
    "fmicl_keras": {"steps": inspect.Parameter.empty},
}


@pytest.mark.parametrize("method", METHODS)
def test_constructors_have_the_keywords_of_the_settings(require, method):
    want = method_options(TrainSettings(method=method))
    for package in PACKAGES.values():
        require({"fmicl_lightning": "lightning", "fmicl_flax": "flax"}.get(package, "keras"))
        kind = import_module(f"{package}.build").METHODS[method]
        parameters = inspect.signature(kind.__init__).parameters
        keywords = {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
        assert [name for name in parameters if name not in keywords] == REQUIRED
        assert [name for name in keywords if name in want] == list(want)
        assert keywords.items() <= (OWN[package] | want).items()
