"""The Triton routine of fmicl_torch: right by Triton's interpreter; Triton compiles all routines.

The interpreter has to be chosen before Triton is imported, and Triton cannot be imported after
TensorFlow. So its tests are in a process of their own, and it may be in a folder of its own:
TRITON_INTERPRET=1 PYTHONPATH=.venv/triton python -m pytest tests/backends/fused_suite
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Where `make test` puts Triton.
TRITON = Path(sys.prefix) / "triton"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton is for Linux")


SUITE = ["-m", "pytest", "tests/backends/fused_suite", "-q", "-p", "no:cacheprovider", "-n", "0"]


@pytest.fixture(scope="module")
def triton(require):
    """Skip, or in CI fail, where Triton is missing."""
    require("torch")
    if not TRITON.is_dir() and importlib.util.find_spec("triton") is None:
        require("triton")


def run(command, interpret):
    paths = [str(TRITON), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {
        "TRITON_INTERPRET": "1" if interpret else "0",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=ROOT, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout


@linux
@pytest.mark.long
def test_the_interpreted_routine_equals_the_reference(triton):
    run([*SUITE, "-m", "not slow"], interpret=True)


@linux
@pytest.mark.slow
def test_what_is_slow_by_the_interpreter_passes(triton):
    """All combinations, and the ring of ranks."""
    run([*SUITE, "-m", "slow"], interpret=True)


@linux
def test_the_fused_routine_compiles_for_gpus(triton):
    output = run(["tools/compile_fused.py", "--quick"], interpret=False)
    assert output.count("no tensor cores") == 1
    assert output.endswith("10 of 10 routines fit\n")


def test_tensorflow_has_none_and_names_what_it_has(backend_named):
    backend = backend_named("tensorflow")
    x = backend.array(np.ones((4, 3)))
    message = "`implementation`. Expected one of 'auto', 'dense', 'tiled'. Received: .*'fused'"
    with pytest.raises(ValueError, match=message):
        backend.library.fmicl_loss(x, x, implementation="fused")
    with pytest.raises(ValueError, match=message):
        backend.library.FMICLLoss(implementation="fused")


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_a_cpu_has_no_fused_routine_and_says_so(backend_named, name):
    backend = backend_named(name)
    x = backend.array(np.eye(4, 3), "float32")
    with pytest.raises(ValueError, match="needs features on an NVIDIA GPU, not on 'cpu'"):
        backend.library.fmicl_loss(x, x, implementation="fused")
