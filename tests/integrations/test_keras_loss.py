"""fmicl_keras on every Keras backend: Keras chooses at import, so each has a process of its own.

KERAS_BACKEND=jax python -m pytest tests/integrations/keras_suite     # one backend, by hand
"""

import shutil
from pathlib import Path

import pytest

SUITE = Path(__file__).parent / "keras_suite"
BACKENDS = ("tensorflow", "jax", "torch")


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_suite_passes(require, run_suite, backend):
    require("keras")
    require(backend)
    run_suite(SUITE, backend, "-m", "not slow")


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_slow_passes(require, run_suite, backend):
    """What compiles much; in PyTorch by `torch.compile`."""
    require("keras")
    require(backend)
    if backend == "torch" and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    run_suite(SUITE, backend, "-m", "slow")
