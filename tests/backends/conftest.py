"""The backends, each in turn."""

import sys

import pytest

from fmicl_check import ADAPTERS


@pytest.fixture(scope="session", params=ADAPTERS)
def backend(request, require):
    """Every backend in turn; a missing framework is skipped with the reason, and fails in CI."""
    require(request.param)
    if request.param == "jax":
        require("jax").config.update("jax_enable_x64", True)  # float64 arrays between calls, too
    return ADAPTERS[request.param]()


@pytest.fixture
def set_tile(backend, monkeypatch):
    """Let the backend's tiles have at most so many rows and columns."""

    def set_to(size):
        tiled = sys.modules[f"fmicl_{backend.name}.tiled"]
        monkeypatch.setitem(tiled.TILE, "cpu", size)

    return set_to
