"""The ring of devices in JAX: what its programs hold, and what losses without it say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fmicl_jax", reason="these are tests of the JAX backend")


def run(program, *arguments):
    """What a program of the ranks prints."""
    command = [sys.executable, Path(__file__).parent / "ranks" / program, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def found():
    """What programs over four devices hold, and what losses without an axis say."""
    return run("jax_memory.py", "4")


def test_no_device_holds_the_features_of_all(found):
    for name, program in found["programs"].items():
        assert not program["union"], name
        # Ids of all rows are whole numbers, one a row.
        assert [shape.split("{")[0] for shape in program["gathered"]] == (
            ["s32[4096]"] if "ids" in name else []
        )


@pytest.mark.slow
def test_memory_of_a_device_falls_as_their_number_rises(found):
    eight = run("jax_memory.py", "8")["programs"]
    for name, program in found["programs"].items():
        assert eight[name]["bytes"] < 0.6 * program["bytes"], name


def test_a_loss_without_an_axis_says_so_once_by_its_own_name(found):
    for loss, said in found["warned"].items():
        (message,) = said
        assert f"`{loss}` is of the rows that it is given" in message
        knows = loss not in ("alignment_uniformity_loss", "spectral_contrastive_loss")
        assert ("Pass `axis_name=` for the loss of the union." in message) == knows
