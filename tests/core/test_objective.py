"""FMICL is a validated value; similarities and negatives mean what they say."""

import dataclasses
import math
import pickle

import numpy as np
import pytest

import fmicl_core
from fmicl_core import (
    DIVERGENCES,
    FMICL,
    KL,
    NUMPY,
    Cauchy,
    Cosine,
    Gaussian,
    Laplace,
    Tsallis,
    get_divergence,
    get_similarity,
)
from fmicl_core.pairs import NEGATIVES, Pairs

NAMESPACE = {name: getattr(fmicl_core, name) for name in fmicl_core.__all__}


@pytest.mark.parametrize("similarity", [Gaussian(0.3, 2.0), Cosine(2.0), Laplace(0.7), Cauchy()])
def test_objective_is_a_value(similarity):
    objective = FMICL("tsallis", similarity, 3, "cross", False)
    if similarity != Cosine(2.0):
        assert eval(repr(objective), dict(NAMESPACE)) == objective
    assert pickle.loads(pickle.dumps(objective)) == objective
    assert hash(dataclasses.replace(objective)) == hash(objective)
    assert hash(dataclasses.replace(objective).pairwise) == hash(objective.pairwise)
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.alpha = 1.0


def test_names_and_objects_are_the_same_objective():
    assert FMICL("kl", "gaussian") == FMICL(KL(), Gaussian()) == FMICL()


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_shares_make_a_mean(negatives):
    for has_bank in (False, True):
        blocks = Pairs(negatives, has_bank=has_bank).negative_blocks
        assert sum(block.share for block in blocks) == 1.0


@pytest.mark.parametrize("name", ["reverse_kl", "neyman"])
def test_unsuitable_divergences_warn_of_the_users_line(name):
    with pytest.warns(UserWarning, match=r"known to collapse") as warnings:
        FMICL(name)
    assert warnings[0].filename == __file__


BAD = [
    ({"alpha": 0}, r"`alpha`. Expected a finite number > 0. Received: alpha=0"),
    ({"alpha": -1}, r"`alpha`. Expected a finite number > 0. Received: alpha=-1"),
    ({"alpha": math.nan}, r"`alpha`. Expected a finite number > 0. Received: alpha=nan"),
    ({"alpha": "40"}, r"`alpha`. Expected a finite number > 0 or 'auto'. Received: alpha='40'"),
    ({"strength": 2.0}, r"`strength`. Expected None unless alpha='auto'. Received: strength=2.0"),
    ({"alpha": "auto", "strength": 0}, r"`strength`. Expected a finite number > 0. Received"),
    ({"divergence": "kld"}, r"`divergence`. Expected one of 'kl', .* Received: divergence='kld'"),
    ({"negatives": "both"}, r"`negatives`. Expected one of 'anchor', 'within', 'cross', 'all'"),
    ({"positives": "labels"}, r"`positives`. Expected one of 'ids', 'pair'"),
    ({"similarity": "dot"}, r"`similarity`. Expected one of 'gaussian', .*similarity='dot'"),
    ({"normalize": 1}, r"`normalize`. Expected True or False. Received: normalize=1"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[str(o) for o, _ in BAD])
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FMICL(**options)


@pytest.mark.parametrize("field", ["sigma2", "mu"])
@pytest.mark.parametrize("value", [0, -0.5, math.inf, None])
def test_gaussian_refuses_bad_numbers(field, value):
    with pytest.raises(ValueError, match=rf"`{field}`. Expected a finite number > 0"):
        get_similarity("gaussian", **{field: value})


#: Divergence, and the temperature at which the cosine reaches the end of the conjugate's domain.
ENDS = [("js", 1 / math.log(2)), ("squared_hellinger", 1.0), ("vlc", 1.0)]


@pytest.mark.parametrize(("name", "end"), ENDS)
def test_cosine_is_refused_outside_the_domain_of_the_conjugate(name, end):
    FMICL(name, Cosine(1.001 * end))
    expected = rf"Expected a cosine temperature > {end:.4f} for this .* is finite only for"
    with pytest.raises(ValueError, match=expected):
        FMICL(name, Cosine(0.999 * end))


@pytest.mark.filterwarnings("ignore:.*known to collapse")
@pytest.mark.parametrize("name", ["reverse_kl", "js", "squared_hellinger"])
def test_cosine_is_refused_where_no_temperature_helps(name):
    with pytest.raises(ValueError, match=r"`similarity`. Expected .*'gaussian'"):
        FMICL(name, Cosine(5.0), normalize=name == "reverse_kl")


@pytest.mark.parametrize("name", ["kl", "pearson", "jeffreys", "tsallis"])
def test_cosine_serves_conjugates_that_are_finite_everywhere(name):
    FMICL(name, Cosine(0.05))
    FMICL(name, Cosine(0.05), normalize=False)


def test_a_tsallis_order_below_1_takes_no_cosine():
    """Its conjugate is finite below 0 alone, and cosines have both signs."""
    with pytest.raises(ValueError, match="`similarity`"):
        FMICL(Tsallis(0.5), Cosine(1.0))


@pytest.mark.parametrize("kernel", [Laplace(0.7, 1.5), Cauchy(1.3, 0.5)], ids=repr)
@pytest.mark.parametrize("normalize", [True, False])
def test_kernels_are_of_the_squared_distance(kernel, normalize):
    x, y = np.array([0.6, 0.8]), np.array([-1.0, 0.0])
    a, b, c = FMICL("kl", kernel, normalize=normalize).coefficients()
    z = a * (x @ y) + b * (x @ x + y @ y) + c
    assert z == pytest.approx(((x - y) ** 2).sum())


@pytest.mark.parametrize("kernel", [Laplace(0.7, 1.5), Cauchy(1.3, 0.5)], ids=repr)
def test_kernel_slopes_are_derivatives(kernel):
    d2 = np.linspace(0.01, 4.0, 50)
    step = 1e-6
    numeric = kernel.log_kernel(d2 + step, NUMPY) - kernel.log_kernel(d2 - step, NUMPY)
    np.testing.assert_allclose(kernel.log_kernel_slope(d2, NUMPY), numeric / (2 * step), rtol=1e-6)


def test_kernels_are_what_their_names_say():
    d2 = np.array([0.0, 1.0, 4.0])
    cauchy = np.exp(Cauchy(2.0, 3.0).log_kernel(d2, NUMPY))
    np.testing.assert_allclose(cauchy, 3.0 / (1.0 + d2 / 4.0))
    laplace = np.exp(Laplace(2.0, 3.0, 1e-9).log_kernel(d2, NUMPY))
    np.testing.assert_allclose(laplace, 3.0 * np.exp(-np.sqrt(d2) / 2.0))


def test_every_divergence_is_reachable_by_its_name():
    assert {make().name for make in DIVERGENCES.values()} == set(DIVERGENCES)


@pytest.mark.filterwarnings("ignore:ReverseKL")
@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_name_may_be_written_with_a_hyphen(name):
    assert get_divergence(name.replace("_", "-")) == get_divergence(name)


def test_an_automatic_weight_has_a_strength():
    assert FMICL(alpha="auto").strength == FMICL(alpha="auto", strength=5).strength == 5.0
    assert FMICL().strength is None
