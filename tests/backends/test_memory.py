"""The tiled form's extra memory, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
@pytest.mark.many_compilations
@pytest.mark.parametrize(
    ("loss", "negatives"),
    [("fmicl_loss", "anchor"), ("fmicl_loss", "cross"), ("info_nce_loss", "all")],
)
def test_tiled_peak_memory(backend, loss, negatives):
    """Beyond inputs and gradients; one matrix of all pairs alone would take 64 MiB."""
    command = ["-m", "benchmarks.memory", backend.name, "4096", "128", negatives, "tiled", loss]
    output = subprocess.check_output([sys.executable, *command], cwd=ROOT, text=True)
    assert int(output) / 2**20 <= 64
