"""The trainers of fmicl_keras on every Keras backend, each in a process of its own.

KERAS_BACKEND=jax python -m pytest tests/integrations/keras_trainer_suite    # one, by hand
"""

from pathlib import Path

import pytest

SUITE = Path(__file__).parent / "keras_trainer_suite"
#: Random views, of which Keras' are one framework's.
VIEWS = [str(SUITE.parent / f"test_{name}.py") for name in ("augmentation", "same_views")]
BACKENDS = ("tensorflow", "jax", "torch")


@pytest.mark.long
@pytest.mark.parametrize(
    "backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.slow), "torch"]
)
def test_the_suite_passes(require, run_suite, backend):
    for package in ("keras", backend, "sklearn", "tqdm"):
        require(package)
    run_suite(SUITE, backend, *VIEWS, "-m", "not slow")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_slow_tests_pass(require, run_suite, backend):
    for package in ("keras", backend, "sklearn", "tqdm"):
        require(package)
    run_suite(SUITE, backend, "-m", "slow")
