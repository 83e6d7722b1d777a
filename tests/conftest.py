"""Settings of every test: hypothesis, threads, and what a missing package means."""

import importlib
import os
from collections import defaultdict
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

from fmicl_core import DistanceKernel, Divergence

#: Frameworks whose tests compile what they compute, and Keras' backend in this process.
COMPILED, KERAS = ("jax", "tensorflow"), os.environ.get("KERAS_BACKEND", "")
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
    """Start with what is marked `long`, so that at the end no worker waits for another's.

    Of a test with several cases JAX and TensorFlow, which compile each, take every second one in
    short, in Keras' suites every third, JAX others than TensorFlow; PyTorch takes all, and with
    the slow ones so do they. Which ones is said by `by_turns` where it matters.
    """
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    cases = defaultdict(list)
    for item in items:
        framework, fewest = compiled(item)
        if framework and not item.get_closest_marker("by_turns"):
            cases[item.parent, item.originalname, framework, fewest].append(item)
    for (_, _, framework, fewest), of_one in cases.items():
        if len(of_one) >= fewest:
            first, every = int(framework == "tensorflow"), 3 if KERAS else 2
            for item in set(of_one) - set(of_one[first::every]):
                item.add_marker(pytest.mark.slow)


def compiled(item):
    """The framework that compiles a case, if one does, and from how many cases on it takes turns.

    Keras' suites have a process for each of its backends, and lie above what backends test.
    """
    if hasattr(item, "callspec"):
        named = item.callspec.params.get("backend") or item.callspec.params.get("framework")
        named = named or item.path.stem.split("_")[1]  # of test_jax_fused.py, say
        if named in COMPILED and item.path.parent.name in ("backends", "docs"):
            return named, 3
        if item.path.parent.name.startswith("keras_") and KERAS in COMPILED:
            return KERAS, 2
    return None, 0


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
