"""The backends, each in turn, and the settings and features their tests share."""

import warnings
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest

from fmicl_check import ADAPTERS
from fmicl_core import DIVERGENCES, FMICL, Cauchy, Cosine, Gaussian, Laplace, forms
from fmicl_core.objective import SCALARS
from fmicl_core.pairs import NEGATIVES

SIMILARITIES = (Gaussian(0.4, 1.2), Gaussian(0.5, 150.0), Cosine(1.6), Laplace(0.9), Cauchy(1.1))
#: What supplies the negatives: a scheme, or a bank.
PAIRS = (*NEGATIVES, "bank")
#: Shapes are few and fixed, because JAX and XLA compile for every shape.
ROWS, WIDTH, BANK_ROWS, TILE = 11, 5, 9, 4


@pytest.fixture(scope="session")
def backend_named(require):
    """The backend of a framework; a missing one is skipped with the reason, and fails in CI."""
    made = {}

    def named(name):
        require(name)
        if name == "jax":
            require("jax").config.update("jax_enable_x64", True)  # float64 arrays between calls
        if name not in made:
            made[name] = ADAPTERS[name]()
        return made[name]

    return named


@pytest.fixture(scope="session", params=ADAPTERS)
def backend(request, backend_named):
    """Every backend in turn."""
    return backend_named(request.param)


@pytest.fixture
def set_tile(monkeypatch):
    """Let the tiles of every backend have at most so many rows and columns."""
    return partial(monkeypatch.setitem, forms.TILE, "cpu")


class Case(NamedTuple):
    """Settings, and what supplies the negatives."""

    objective: FMICL
    pairs: str

    def __str__(self):
        o = self.objective
        kernel = f"{o.similarity.name}{getattr(o.similarity, 'mu', 1.0):g}"
        return f"{o.divergence.name}-{kernel}-{self.pairs}-{'unit' if o.normalize else 'raw'}"

    def features(self, seed, draw):
        """x, y and the bank or None."""
        return draw(seed, k=BANK_ROWS if self.pairs == "bank" else None)


def make_case(divergence, similarity, pairs, normalize):
    """The case, or None where this cosine leaves the domain of the conjugate."""
    negatives = "anchor" if pairs == "bank" else pairs
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*known to collapse", UserWarning)
            return Case(FMICL(divergence, similarity, 3.0, negatives, normalize), pairs)
    except ValueError:
        return None  # tests/core/test_objective.py has the reasons


def covering_case(i, j):
    """Divergence i with similarity j; over all i and j, either meets every one of `PAIRS`."""
    options = [*DIVERGENCES][i], SIMILARITIES[j], PAIRS[(i + j) % len(PAIRS)]
    normalize = bool((i // len(PAIRS) + j) % 2)
    return make_case(*options, normalize) or make_case(*options, True)


COLUMNS = range(len(SIMILARITIES))
COVERING = [c for i in range(len(DIVERGENCES)) for j in COLUMNS if (c := covering_case(i, j))]
#: One case a divergence; together they have every similarity and every one of `PAIRS`.
FEW = [covering_case(i, (i + 1) % len(SIMILARITIES)) for i in range(len(DIVERGENCES))]


@pytest.fixture(params=COVERING, ids=str)
def case(request):
    """Each of the covering cases."""
    return request.param


@pytest.fixture(params=FEW, ids=str)
def few(request):
    """One case for each divergence."""
    return request.param


@pytest.fixture(scope="session")
def every_case():
    """All combinations of normalization and `PAIRS` for a divergence and the similarity j."""

    def cases(divergence, j):
        options = divergence, SIMILARITIES[j]
        made = [make_case(*options, p, n) for p in PAIRS for n in (True, False)]
        return [case for case in made if case]

    return cases


@pytest.fixture(scope="session")
def draw():
    """Two views that belong together and, where k is given, a bank of k rows."""

    def features(seed, n=ROWS, d=WIDTH, k=None):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, d))
        y = x + 0.5 * rng.normal(size=(n, d))
        return x, y, None if k is None else rng.normal(size=(k, d))

    return features


@pytest.fixture(scope="session")
def distance():
    """Largest relative error of the loss, its terms and gradients, by their largest entries."""

    def between(result, truth):
        wanted = getattr(truth, "grads", None) or {
            "x": truth.grad_x, "y": truth.grad_y, "bank": truth.grad_bank,
            "logit_scale": truth.grad_scale, "logit_bias": truth.grad_bias,
        }  # fmt: skip
        size = abs(truth.score) + abs(truth.penalty)
        errors = [
            abs(result.loss - truth.loss) / (size + abs(truth.loss)),
            abs(result.score - truth.score) / size,
            abs(result.penalty - truth.penalty) / size,
        ]
        largest = {k: np.abs(g).max() for k, g in wanted.items() if g is not None}
        scale = max(v for k, v in largest.items() if k not in SCALARS) or 1.0
        errors += [
            np.abs(g - wanted[k]).max() / (max(scale, largest[k]) if k in SCALARS else scale)
            for k, g in result.grads.items()
        ]
        return float(np.max(errors))  # NaN if there is one

    return between
