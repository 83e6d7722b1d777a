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


def keras_lines(page):
    """What a page shows as Python that trains a Keras model."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
    return [block for block in blocks if "model.fit(" in block]


def test_the_pages_show_the_same_lines_for_keras():
    assert len(keras_lines("README.md")) == 1
    assert keras_lines("README.md") == keras_lines("docs/keras.md")[:1]  # the rest are variants
    assert len(keras_lines("README.md")[0].splitlines()) <= 14


@pytest.mark.long
@pytest.mark.parametrize(
    ("backend", "options"),
    [("tensorflow", ["--epochs", "12"]),
     *(pytest.param(name, [], marks=pytest.mark.slow) for name in ("tensorflow", "jax", "torch"))],
)  # fmt: skip
def test_the_lines_for_keras_beat_raw_pixels_and_the_untrained_encoder(require, backend, options):
    """With ten labels a class the lines gain 7 to 9 points, and most of it in half the epochs."""
    for module in ("sklearn", "keras", backend):
        require(module)
    command = [sys.executable, str(ROOT / "examples" / "keras_ten_lines.py"), "0", *options]
    settings = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": backend}
    output = subprocess.check_output(command, text=True, env=settings, cwd=ROOT)
    assert f"Keras on {backend}" in output
    rows = re.findall(r"^(\S.*?) {2,}(\w+_accuracy) +([\d.]+) ", output, flags=re.MULTILINE)
    scores = {(features, score): float(value) for features, score, value in rows}
    assert len(scores) == 9
    learned = "trained without labels"
    for baseline in ("untrained encoder", "raw pixels"):
        assert scores[learned, "linear10_accuracy"] > scores[baseline, "linear10_accuracy"] + 4.0
        assert scores[learned, "linear_accuracy"] > scores[baseline, "linear_accuracy"]
    if not options:
        assert scores[learned, "knn_accuracy"] > scores["untrained encoder", "knn_accuracy"]
