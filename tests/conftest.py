"""Settings of every test: hypothesis, threads, and what a missing package means."""

import importlib
import os
import zlib
from collections import defaultdict
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

from fmicl_core import DistanceKernel, Divergence

#: Frameworks whose tests compile what they compute, and Keras' backend in this process.
COMPILED, KERAS = ("jax", "tensorflow"), os.environ.get("KERAS_BACKEND", "")
#: Of so many cases of a test they take one in short.
EVERY = 4
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
    but loses digits of float32.) With the slow tests they are compiled as users' are. What JAX has
    compiled is kept with pytest's cache for the next run. Processes that tests start inherit both.
    """
    for line in (
        "many_compilations: slow where a framework compiles, and quick in PyTorch",
        f"by_turns(every={EVERY}, torch=False): of so many cases one is quick, the others are slow",
    ):
        config.addinivalue_line("markers", line)
    short = "not slow" in config.option.markexpr
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1" if short else "")
    if short and hasattr(config, "cache"):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("jax")))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def pytest_collection_modifyitems(items):
    """Start with what is marked `long`, so that at the end no worker waits for another's.

    Of the cases of a test JAX and TensorFlow, which compile each, take one of `EVERY` in short and
    the others with the slow ones; PyTorch takes all. Turns go diagonally through products of
    parameters, so that each value of one meets different values of the others; JAX's are not
    TensorFlow's, and where they begin differs from test to test. `by_turns` says how many there
    are where that matters, or that PyTorch, too, compiles, and is for what is interpreted.
    """
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    cases = defaultdict(list)
    for item in items:
        framework, by_turns = framework_of(item), item.get_closest_marker("by_turns")
        if item.get_closest_marker("many_compilations") and framework != "torch":
            item.add_marker(pytest.mark.slow)
        elif takes_turns(item, framework, by_turns):
            every = by_turns.kwargs.get("every", EVERY) if by_turns else EVERY
            cases[item.parent, item.originalname, framework, every].append(item)
    for (_, name, framework, every), of_one in cases.items():
        places = diagonal(of_one)
        turns = min(every, 1 + max(places))
        first = zlib.crc32(name.encode()) + (framework == "tensorflow")
        for item, at in zip(of_one, places, strict=True):
            if (first + at) % turns:
                item.add_marker(pytest.mark.slow)


def takes_turns(item, framework, by_turns):
    """Whether a case is quick by turns only: one that is compiled, or interpreted and marked."""
    if not hasattr(item, "callspec") or item.get_closest_marker("slow"):
        return False
    if by_turns and framework != "core":
        return framework != "torch" or by_turns.kwargs.get("torch", False)
    return framework in COMPILED and item.path.parent.name.startswith(
        ("backends", "docs", "keras_")
    )


def framework_of(item):
    """The framework, or core, that a test is about, or "": by its suite, its case or its file."""
    if item.path.parent.name.startswith("keras_"):  # a process for each of Keras' backends
        return KERAS
    params = item.callspec.params if hasattr(item, "callspec") else {}
    named = params.get("backend") or params.get("framework") or params.get("package")
    named = str(named or item.path.stem.split("_")[1]).removeprefix("fmicl_")  # test_jax_ids.py
    return named if named in ("core", "torch", *COMPILED) else ""


def diagonal(cases):
    """For each case of a test the sum of its values' places among those of their parameters."""
    together = []  # names of one `parametrize` are one parameter
    for mark in cases[0].iter_markers("parametrize"):
        names = mark.args[0]
        together.append(names.replace(" ", "").split(",") if isinstance(names, str) else names)
    named = {name for names in together for name in names}
    together += [[name] for name in cases[0].callspec.params if name not in named]
    places = [0] * len(cases)
    for names in together:
        order = {}
        for i, case in enumerate(cases):
            value = tuple(id(case.callspec.params[name]) for name in names)
            places[i] += order.setdefault(value, len(order))
    return places


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
