"""The examples run as a user runs them, and learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOWERS = {
    "two_towers_jax": ["jax", "optax"],
    "two_towers_keras": ["keras"],
}


def test_there_is_an_example_for_every_framework():
    tuned = (ROOT / "examples").glob("finetune_*.py")
    assert sorted(FINE_TUNED) == sorted(path.stem.removeprefix("finetune_") for path in tuned)
    towers = (ROOT / "examples").glob("two_towers_*.py")
    assert sorted(TOWERS) == sorted(path.stem for path in towers)


def output_of(*command, **variables):
    """What a Python command prints, run as a user runs it."""
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"} | variables
    return subprocess.check_output([sys.executable, *command], text=True, env=quiet, cwd=ROOT)


def captions_found(output):
    """The share of images whose caption is found, before and after training."""
    shares = re.findall(r"^(before|after): caption of an image ([\d.]+)", output, re.MULTILINE)
    assert [when for when, _ in shares] == ["before", "after"]
    return [float(share) for _, share in shares]


SHORT = ("--epochs", "40")
slow = pytest.mark.slow


@slow  # the towers of each framework have tests of their own
@pytest.mark.parametrize(
    ("example", "options", "backend"),
    [("keras", SHORT, "torch"), ("jax", SHORT, ""),
     *(("keras", (), name) for name in ("tensorflow", "jax", "torch"))],
)  # fmt: skip
def test_two_towers_learn_the_names_of_the_digits(require, example, options, backend):
    """Ten captions: chance is 0.1. After 40 epochs 0.85 are found, after 100 0.96."""
    for module in ("sklearn", *TOWERS[f"two_towers_{example}"], *([backend] if backend else [])):
        require(module)
    output = output_of(f"examples/two_towers_{example}.py", *options, KERAS_BACKEND=backend)
    before, after = captions_found(output)
    assert after > max(0.6, before + 0.3)
    assert re.search(r"learned \{'log_scale': '2\.\d\d'", output)


FINE_TUNED = {
    "jax": ("fmicl_flax", ["flax", "optax", "lightning"]),
    "keras": ("fmicl_keras", ["keras", "lightning"]),
}
#: An example on a run, and then whether one epoch of it moves every array of the encoder.
TUNE = """
import runpy, sys
import numpy as np
sys.path.insert(0, "examples")
names = runpy.run_path("examples/finetune_{example}.py", run_name="__main__")
from {package} import load_encoder
from {package}.weights import get_arrays
few = names["few_labels"]("none")
encoder = load_encoder(few.run)
before = {{name: np.array(array) for name, array in get_arrays(encoder.network).items()}}
names["fine_tune"](encoder, few, epochs=1)
after = get_arrays(encoder.network)
counts = [name for name in before if "num_batches" in name]
still = [name for name in before if np.array_equal(before[name], after[name])]
print("still", sorted(set(still) - set(counts)), "of", len(before))
"""


def accuracies_of(output):
    """What a fine-tuning example prints: by frozen encoder, fine-tuned, from random weights."""
    found = re.findall(r"^(frozen|fine tuned|random weights) +([\d.]+)$", output, re.MULTILINE)
    assert [name for name, _ in found] == ["frozen", "fine tuned", "random weights"]
    assert "143 labels, seed 0" in output
    return [float(accuracy) for _, accuracy in found]


def check_tuned(output):
    """A point is four test images; frozen and fine-tuned gain two to three on random weights."""
    frozen, tuned, random = accuracies_of(output)
    assert min(frozen, tuned) > random > 0.8


@pytest.fixture(scope="module")
def torch_run(require, tmp_path_factory):
    """Folder of an encoder that PyTorch trained on the digits."""
    require("lightning")
    run = tmp_path_factory.mktemp("runs") / "torch"
    output_of("-m", "fmicl_cli", "train", "simclr", "--data", "digits", "--epochs", "10",
              "--framework", "torch", "--out", run)  # fmt: skip
    return run


@slow
@pytest.mark.long
def test_without_a_run_another_framework_trains_it(require):
    """By the command: PyTorch for Flax."""
    for module in ("sklearn", *FINE_TUNED["jax"][1]):
        require(module)
    check_tuned(output_of("examples/finetune_jax.py"))


@slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("example", "backend"),
    [("jax", ""), *(("keras", name) for name in ("tensorflow", "jax", "torch"))],
)
def test_fine_tuning_gains_on_random_weights_and_moves_all(require, torch_run, example, backend):
    package, modules = FINE_TUNED[example]
    for module in ("sklearn", *modules, *([backend] if backend else [])):
        require(module)
    code = TUNE.format(example=example, package=package)
    output = output_of("-c", code, torch_run, KERAS_BACKEND=backend)
    check_tuned(output)
    assert re.search(r"^still \[\] of [1-9]", output, re.MULTILINE), output


@slow  # `tests/docs/test_pages.py` runs these lines in short
@pytest.mark.long
@pytest.mark.parametrize(
    ("backend", "options"),
    [("tensorflow", ["--epochs", "12"]), *((name, []) for name in ("tensorflow", "jax", "torch"))],
)
def test_the_lines_for_keras_beat_raw_pixels_and_the_untrained_encoder(require, backend, options):
    """With ten labels a class the lines gain 7 to 9 points, and most of it in half the epochs."""
    for module in ("sklearn", "keras", backend):
        require(module)
    output = output_of("examples/keras_ten_lines.py", "0", *options, KERAS_BACKEND=backend)
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
