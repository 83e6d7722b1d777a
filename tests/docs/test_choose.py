"""Every call of the table on the page "Choose a loss" runs in each framework, as written."""

import importlib
import operator
import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "choose.md"
#: Calls of the table, but for those of Keras and sentence-transformers, whose pages are run.
CALLS = sorted(set(re.findall(r"`((?:fmicl|info_nce|siglip|clip)_loss\(.*?\))`", PAGE.read_text())))
#: What makes an array in each framework.
MAKE = {"torch": "tensor", "jax": "numpy.asarray", "tensorflow": "constant"}
N, D = 6, 4


def arrays():
    """What the calls name: features of two views and of three, a queue, labels and ids."""
    x, y, third = np.random.default_rng(0).normal(size=(3, N, D)).astype("float32")
    labels = np.arange(N) % 3
    return {
        "x": x, "y": y, "queue": third, "z": np.concatenate([x, y, third]), "images": y,
        "texts": third, "labels": labels, "theirs": labels, "ids": labels, "of": labels,
        "samples": np.tile(np.arange(N), 3),
    }  # fmt: skip


@pytest.mark.parametrize("framework", MAKE)
@pytest.mark.parametrize("call", CALLS)
def test_the_call_runs(require, framework, call):
    """It gives a finite number; ids of z are those of three views below each other."""
    module = require(framework)
    make = operator.attrgetter(MAKE[framework])(module)
    names = arrays()
    if "(z" in call:
        names["labels"] = np.tile(names["labels"], 3)
    values = {name: make(value) for name, value in names.items()}
    if "images[of]" in call and framework == "tensorflow":  # TensorFlow's word for it
        call = call.replace("images[of]", "gather(images, of)")
        values["gather"] = module.gather
    loss = eval(call, vars(importlib.import_module(f"fmicl_{framework}")) | values)
    assert np.isfinite(float(loss))


def test_the_table_was_read():
    """The rows that the page is for are there."""
    assert len(CALLS) >= 11
    assert 'fmicl_loss(z, ids=labels, alpha="auto")' in CALLS
