"""fmicl_keras on every Keras backend: Keras chooses at import, so each has a process of its own.

KERAS_BACKEND=jax python -m pytest tests/integrations/keras_suite     # one backend, by hand
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).parent / "keras_suite"
BACKENDS = ("tensorflow", "jax", "torch")
#: Seconds after which a test that has not ended says where it is.
STUCK = 240


def run_suite(backend, *options):
    settings = ["-p", "no:cacheprovider", "-o", f"faulthandler_timeout={STUCK}"]
    command = [sys.executable, "-m", "pytest", str(SUITE), "-q", *settings, *options]
    environment = os.environ | {"KERAS_BACKEND": backend}
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=5 * STUCK
    )
    if run.returncode:
        pytest.fail(f"{' '.join(command)}\n{run.stdout}{run.stderr}", pytrace=False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_suite_passes(require, backend):
    require("keras")
    require(backend)
    run_suite(backend, "-m", "not slow")


@pytest.mark.slow
def test_torch_compile_takes_the_loss(require):
    require("keras")
    require("torch")
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    run_suite("torch", "-m", "slow")
