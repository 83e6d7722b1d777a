"""The examples run as a user runs them, and learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*_digits.py"))
NEEDS = {
    "torch_digits": ["torch"],
    "jax_digits": ["jax", "optax"],
    "tensorflow_digits": ["tensorflow"],
}


def test_there_is_an_example_for_every_framework():
    assert sorted(NEEDS) == EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_learns_with_either_loss(require, example):
    """A point is four test images: 0.1 is far beyond chance and far below what is reached."""
    for module in ("sklearn", *NEEDS[example]):
        require(module)
    command = [sys.executable, str(ROOT / "examples" / f"{example}.py")]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    output = subprocess.check_output(command, text=True, env=quiet, cwd=ROOT)
    found = re.findall(r"(\S+): kNN ([\d.]+) before, ([\d.]+) after", output)
    assert [name for name, _, _ in found] == ["InfoNCE", "JS-MICL"]
    for _, before, after in found:
        assert float(after) > float(before) + 0.1
