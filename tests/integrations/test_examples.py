"""The examples run as they stand, and learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="the examples read scikit-learn's digits")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("framework", ["torch", "jax", "tensorflow"])
def test_an_example_learns(require, framework):
    """After training, kNN is above that of the untrained encoder, with every loss."""
    require(framework)
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, EXAMPLES / f"{framework}_digits.py"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.findall(r": kNN ([0-9.]+) before, ([0-9.]+) after", done.stdout)
    assert len(found) == 3, done.stdout
    for before, after in found:
        assert float(after) > float(before)
