"""Settings of every test: hypothesis, threads, and what a missing package means."""

import importlib
import os
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

IN_CI = os.environ.get("CI", "") not in ("", "0", "false")

settings.register_profile(
    "fmicl",
    deadline=None,
    max_examples=25,
    derandomize=IN_CI,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("fmicl")


def _require(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        reason = f"{module} is not installed ({error})"
        if IN_CI:
            pytest.fail(f"{reason}, and in CI nothing may be missing", pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def require():
    """Import a module, or skip with the reason; in CI a missing module fails."""
    return _require
