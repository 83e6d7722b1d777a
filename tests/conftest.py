"""Settings of every test: hypothesis, threads, and what a missing package means."""

import importlib
import os
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

from fmicl_core import DistanceKernel, Divergence

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


def pytest_configure(config):
    """In short LLVM optimises little of what XLA compiles, most of which runs once.

    The programs are the same, fusions and rewritten formulas included. (Level 0 is faster still,
    but loses digits of float32.) With the slow tests they are compiled as users' are. Processes
    that tests start inherit it.
    """
    if "not slow" in config.option.markexpr:
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")


def pytest_collection_modifyitems(items):
    """Start with what is marked `long`, so that at the end no worker waits for another's."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


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


class Cubic(Divergence):
    """f(u) = (u^3 - 1)/2, which is Tsallis of order 3."""

    def score(self, L, ops):
        return 1.5 * ops.exp(2.0 * L)

    def score_slope(self, L, ops):
        return 3.0 * ops.exp(2.0 * L)

    def penalty(self, L, ops):
        return ops.exp(3.0 * L) + 0.5


class Quartic(DistanceKernel):
    """G = exp(-d^4)."""

    def log_kernel(self, d2, ops):
        return -d2 * d2

    def log_kernel_slope(self, d2, ops):
        return -2.0 * d2


class KLBy(Divergence):
    """KL, its penalty by a function of L and ops that may be more than a backend can take."""

    def __init__(self, penalty):
        self._penalty = penalty

    def score(self, L, ops):
        return L + 1.0

    def score_slope(self, L, ops):
        return 0.0 * L + 1.0

    def penalty(self, L, ops):
        return self._penalty(L, ops)


@pytest.fixture
def kl_by():
    """KL by a penalty of one's own."""
    return KLBy


@pytest.fixture
def cubic():
    """A divergence as a user would write it, unknown to the library."""
    return Cubic()


@pytest.fixture
def quartic():
    """A kernel of the squared distance as a user would write it."""
    return Quartic()
