"""The trainers of fmicl_keras on every Keras backend, each in a process of its own.

KERAS_BACKEND=jax python -m pytest tests/integrations/keras_trainer_suite    # one, by hand
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).parent / "keras_trainer_suite"
BACKENDS = ("tensorflow", "jax", "torch")


def run_suite(backend, *options):
    command = [sys.executable, "-m", "pytest", str(SUITE), "-q", "-p", "no:cacheprovider", *options]
    environment = os.environ | {"KERAS_BACKEND": backend}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode:
        pytest.fail(f"{' '.join(command)}\n{run.stdout}{run.stderr}", pytrace=False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_suite_passes(require, backend):
    for package in ("keras", backend, "sklearn", "tqdm"):
        require(package)
    run_suite(backend, "-m", "not slow")


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_slow_tests_pass(require, backend):
    for package in ("keras", backend, "sklearn", "tqdm"):
        require(package)
    run_suite(backend, "-m", "slow")
