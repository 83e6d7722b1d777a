"""The libraries that docs/coming-from.md compares with, imported as benchmarks does it."""

import importlib
import os
import sys
from functools import partial
from importlib.util import find_spec

import pytest

from benchmarks.contestants import bare_package, without_torchvision

#: Set by `make test-peers`: there nothing may be missing.
ALL_THERE = os.environ.get("PEERS", "") == "all"


def forget_torchvision():
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def import_lightly():
    without_torchvision()
    importlib.import_module("lightly.loss")
    forget_torchvision()


def import_sentence_transformers():
    """Transformers would import a torchvision that was built for another PyTorch."""
    sys.modules["torchvision"] = None
    importlib.import_module("sentence_transformers.sentence_transformer.losses")
    forget_torchvision()


#: Those of which more has to be done than to import them.
READY = {
    "lightly": import_lightly,
    "sentence_transformers": import_sentence_transformers,
    "open_clip": lambda: bare_package("open_clip"),
    "solo": lambda: bare_package("solo"),
}


@pytest.fixture
def make_ready():
    """Let libraries be imported from, or skip; with PEERS=all a missing one fails."""

    def ready(libraries):
        absent = [library for library in libraries if library not in sys.modules]
        for library in absent:
            if find_spec(library) is None:
                reason = f"{library} is not installed; `make test-peers` has it"
                if ALL_THERE:
                    pytest.fail(f"{reason}, and nothing may be missing there", pytrace=False)
                pytest.skip(reason)
        for library in absent:
            READY.get(library, partial(importlib.import_module, library))()

    return ready
