"""The loss over W ranks is the loss of one process with the whole batch, and so is its gradient."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "ranks"
FRAMEWORKS = ("torch", "jax", "tensorflow")


def check_ranks(framework, *arguments, within, least):
    """Run the program of the framework's ranks: `least` cases or more, all equal to one process."""
    command = [sys.executable, PROGRAMS / f"{framework}_ranks.py", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(results) >= least
    for name, row in results.items():
        assert row["values"] < within, name
        assert row["ratio"] == pytest.approx(1.0, abs=within), name
        assert row["cosine"] == pytest.approx(1.0, abs=within), name


@pytest.mark.long
@pytest.mark.parametrize("ranks", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)), 4])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_ranks_equal_one_process(require, framework, ranks):
    """Uneven shards where the framework has them, every scheme, a bank, dense and tiled."""
    require(framework)
    check_ranks(framework, str(ranks), within=1e-12, least=10)


def test_the_pallas_kernel_on_devices_equals_one_device(require):
    """In float32, as the kernel accumulates; every scheme and a bank that all devices share."""
    require("jax")
    check_ranks("jax", "2", "kernel", within=1e-5, least=5)


def test_no_process_group_is_named(require):
    torch, library = require("torch"), require("fmicl_torch")
    x = torch.eye(3)
    message = "`distributed`. Expected False, or torch.distributed to be initialised"
    with pytest.raises(ValueError, match=message):
        library.fmicl_loss(x, x, distributed=True)


def test_an_axis_that_is_not_there_is_named(require):
    jnp, library = require("jax.numpy"), require("fmicl_jax")
    x = jnp.eye(3)
    message = "`axis_name`. Expected None, or an axis of the jax.shard_map or jax.pmap"
    with pytest.raises(ValueError, match=message):
        library.fmicl_loss(x, x, axis_name="batch")
