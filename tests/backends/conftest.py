"""The backends, each in turn."""

from contextlib import ExitStack

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
def set_tile(backend):
    """Let the backend's tiles have at most so many rows and columns."""
    with ExitStack() as stack:
        yield lambda size: stack.enter_context(backend.tiles(size))
