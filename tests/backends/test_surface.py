"""One public surface: names, arguments, defaults and docstrings are those of every backend."""

import copy
import inspect
import pickle
import re
import warnings

import pytest

import fmicl_core
from fmicl_check import ADAPTERS
from fmicl_core import (
    DIVERGENCES,
    FMICL,
    SIMILARITIES,
    DistanceKernel,
    Divergence,
    Gaussian,
    Similarity,
    specification,
)
from fmicl_core.family import FAMILY_DEFAULTS
from fmicl_core.objective import DEFAULTS
from fmicl_core.ranks import KNOW_NO_RANKS
from fmicl_core.related import RELATED_DEFAULTS

FUNCTIONS = ("fmicl_loss", "fmicl_terms", "info_nce_loss", "alignment_uniformity_loss",
             "spectral_contrastive_loss", "siglip_loss", "clip_loss", "dcl_loss", "dhel_loss",
             "kcl_loss", "loss_and_gradients")  # fmt: skip
OBJECTS = ("FMICLLoss", "InfoNCELoss")
PUBLIC = (*FUNCTIONS, *OBJECTS, "FMICLTerms", "LossAndGradients")
#: Arguments that are a framework's own: how it names ranks.
OWN = {"distributed", "axis_name"}
#: The one of each framework, its default, and what docstrings say that another value does.
RANKS = {
    "torch": ("distributed", None, "`distributed=True` makes it that of the union"),
    "jax": ("axis_name", None, "`axis_name=` makes it that of the union"),
    "tensorflow": ("distributed", True, "`distributed=False` makes it that of this replica's rows"),
}
#: Names that not every backend has: gradient caching, and modules with parameters, which PyTorch's
#: users expect; elsewhere the functions take them.
SOME = {"CLIPLoss", "SigLIPLoss", "cached_loss"}
ARRAYS = "|".join(re.escape(adapter.array_name) for adapter in ADAPTERS.values())


@pytest.fixture(params=[name for name in ADAPTERS if name != "torch"])
def other(request, backend_named):
    """The backends that must look like fmicl_torch."""
    return backend_named(request.param).library


@pytest.fixture
def torch_library(backend_named):
    return backend_named("torch").library


def arguments(function):
    """Name, kind, default and annotation of every argument, and what comes back."""
    signature = inspect.signature(function)
    listed = [
        (
            p.name,
            p.kind,
            getattr(p.default, "__name__", p.default),
            re.sub(ARRAYS, "Array", str(p.annotation)),
        )
        for p in signature.parameters.values()
        if p.name not in OWN
    ]
    return listed, re.sub(ARRAYS, "Array", str(signature.return_annotation))


def outline(documented):
    """First line, section names in order, and the names listed under Args."""
    summary, text = inspect.getdoc(documented).split("\n", 1)
    sections = re.split(r"^(\w+):", text, flags=re.MULTILINE)[1:]
    contents = dict(zip(sections[::2], sections[1::2], strict=True))
    listed = re.findall(r"^    ([\w, ]+):", contents.get("Args", ""), flags=re.MULTILINE)
    return summary, list(contents), [name for name in listed if name not in OWN]


def test_public_names(backend, torch_library):
    of_all = [name for name in torch_library.__all__ if name not in SOME]
    assert [name for name in backend.library.__all__ if name not in SOME] == of_all
    assert {*PUBLIC, *specification.__all__} == set(of_all)
    assert {*torch_library.__all__} - {*of_all} == SOME


def test_one_import_is_enough(backend):
    """What a user gives to a loss comes with it."""
    kinds = (*DIVERGENCES.values(), *SIMILARITIES.values(), Divergence, Similarity, DistanceKernel)
    named = {kind.__name__: kind for kind in (*kinds, FMICL)}
    named |= {"DIVERGENCES": DIVERGENCES, "SIMILARITIES": SIMILARITIES}
    assert set(specification.__all__) == set(named)
    assert all(getattr(backend.library, name) is what for name, what in named.items())


@pytest.mark.parametrize("name", [*FUNCTIONS, *OBJECTS])
def test_arguments(torch_library, other, name):
    mine, theirs = (arguments(getattr(library, name)) for library in (other, torch_library))
    assert mine == theirs


@pytest.mark.parametrize("name", [*FUNCTIONS, *OBJECTS])
def test_the_last_argument_says_who_shares_the_batch(backend, name):
    listed = inspect.signature(getattr(backend.library, name)).parameters
    if name in (*KNOW_NO_RANKS, "loss_and_gradients"):  # which hands its options on
        assert not OWN & {*listed}
        return
    argument, default, words = RANKS[backend.name]
    last = [*listed.values()][-1]
    assert (last.name, last.default, last.kind) == (argument, default, last.KEYWORD_ONLY)
    if name not in ("fmicl_terms", *OBJECTS):
        assert words in " ".join(getattr(backend.library, name).__doc__.split())


@pytest.mark.parametrize(
    ("name", "method"),
    [("FMICLLoss", "__call__"), ("FMICLLoss", "terms"), ("InfoNCELoss", "__call__")],
)
def test_arguments_of_the_objects(torch_library, other, name, method):
    theirs = "forward" if method == "__call__" else method
    assert arguments(getattr(getattr(other, name), method)) == arguments(
        getattr(getattr(torch_library, name), theirs)
    )


def test_fields_of_the_terms(torch_library, other):
    assert other.FMICLTerms._fields == torch_library.FMICLTerms._fields


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings(torch_library, other, name):
    mine, theirs = (outline(getattr(library, name)) for library in (other, torch_library))
    assert mine == theirs


@pytest.mark.parametrize("name", OBJECTS)
def test_docstring_of_the_objects(torch_library, other, name):
    mine, theirs = (outline(getattr(library, name)) for library in (other, torch_library))
    assert mine[1:] == theirs[1:]


@pytest.mark.parametrize("name", ["fmicl_loss", "FMICLLoss", "info_nce_loss", "InfoNCELoss"])
def test_the_first_lines_say_which_negatives_are_taken_and_that_others_differ(backend, name):
    """The two kinds of loss differ in this default, which nobody would expect."""
    _, second, *_ = inspect.getdoc(getattr(backend.library, name)).split("\n\n")
    fmicl, info_nce = DEFAULTS.negatives, RELATED_DEFAULTS.negatives
    own, others = (fmicl, info_nce) if "fmicl" in name.lower() else (info_nce, fmicl)
    assert "by default" in second
    assert f'`negatives="{own}"`' in second
    assert f'takes "{others}" by default' in " ".join(second.split())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_list_every_argument_and_what_it_raises(torch_library, name):
    function = getattr(torch_library, name)
    _, sections, listed = outline(function)
    if name == "fmicl_terms":
        assert "as for `fmicl_loss`" in function.__doc__
        return
    assert listed == [name for name in inspect.signature(function).parameters if name not in OWN]
    assert sections == [
        "Args", "Returns", "Dtypes", "Derivatives", "Raises", "Examples", "Source"
    ]  # fmt: skip


def defaults_of(name):
    """Those of the specification by argument."""
    if "fmicl" in name.lower():
        return DEFAULTS._asdict()
    own = f"{name.removesuffix('_loss')}_"
    family = {k.removeprefix(own): v for k, v in FAMILY_DEFAULTS._asdict().items()}
    family |= {f"logit_{k}": family[k] for k in ("scale", "bias") if k in family}
    named = any(k.startswith(own) for k in FAMILY_DEFAULTS._fields)
    return family if named else RELATED_DEFAULTS._asdict()


@pytest.mark.parametrize("name", [*FUNCTIONS, *OBJECTS])
def test_defaults_are_the_specification_s(backend, name):
    defaults = defaults_of(name)
    for parameter in inspect.signature(getattr(backend.library, name)).parameters.values():
        if parameter.name == "strength":
            assert parameter.default is None  # a number has none
        elif parameter.name in defaults:
            assert parameter.default == defaults[parameter.name]
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY


def test_the_specification_s_own_defaults():
    defaults = DEFAULTS._asdict()
    strength = defaults.pop("strength")
    assert FMICL() == FMICL(**defaults)
    assert FMICL(alpha="auto").strength == strength


TWINS = {
    "pasted": lambda loss, scope: eval(repr(loss), scope),
    "deep copy": lambda loss, scope: copy.deepcopy(loss),
    "pickle": lambda loss, scope: pickle.loads(pickle.dumps(loss)),
}


@pytest.mark.parametrize("twin", TWINS)
def test_the_object_prints_copies_and_pickles(backend, draw, twin):
    loss = backend.library.FMICLLoss(
        divergence="tsallis", similarity=Gaussian(0.1), negatives="all", implementation="tiled"
    )
    scope = {name: getattr(fmicl_core, name) for name in fmicl_core.__all__}
    made = TWINS[twin](loss, scope | {"FMICLLoss": backend.library.FMICLLoss})
    assert made.objective == loss.objective
    assert repr(made) == repr(loss)
    x, y = (backend.array(v) for v in draw(0)[:2])
    assert float(made(x, y)) == float(loss(x, y))


def test_the_object_is_the_function(backend, draw):
    x, y, bank = (backend.array(v) for v in draw(0, k=9))
    loss = backend.library.FMICLLoss(divergence="js")
    assert float(loss(x, y)) == float(backend.library.fmicl_loss(x, y, divergence="js"))
    terms = backend.library.fmicl_terms(x, y, bank=bank, divergence="js")
    assert [float(v) for v in loss.terms(x, y, bank)] == [float(v) for v in terms]


@pytest.mark.parametrize("twin", TWINS)
def test_info_nce_as_an_object_prints_copies_and_pickles(backend, draw, twin):
    kind = backend.library.InfoNCELoss
    options = {"temperature": 0.2, "negatives": "cross", "implementation": "dense"}
    loss = kind(**options)
    made = TWINS[twin](loss, {"InfoNCELoss": kind})
    assert repr(made) == repr(loss)
    x, y, bank = (backend.array(v) for v in draw(0, k=9))
    function = backend.library.info_nce_loss
    assert float(made(x, y)) == float(function(x, y, **options))
    assert float(made(x, y, bank)) == float(function(x, y, bank=bank, **options))
    assert float(kind()(x, y)) == float(function(x, y)) != float(made(x, y))


def test_info_nce_as_an_object_keeps_what_a_traced_graph_would_not_learn_of(backend, draw):
    x, y = (backend.array(v) for v in draw(0)[:2])
    loss = backend.library.InfoNCELoss()
    if backend.name == "torch":
        loss.temperature = 0.2
        assert float(loss(x, y)) == float(backend.library.info_nce_loss(x, y, temperature=0.2))
        return
    with pytest.raises((ValueError, AttributeError), match="temperature"):
        loss.temperature = 0.2


def test_info_nce_as_an_object_is_a_static_argument_of_jit(backend_named, draw):
    backend, (x, y, _) = backend_named("jax"), draw(0)
    jit, kind = backend.framework.jit, backend.library.InfoNCELoss
    assert backend.framework.tree.leaves(kind()) == []
    traced = []

    def of(loss, x, y):
        traced.append(loss)
        return loss(x, y)

    static, leafless = jit(of, static_argnums=0), jit(of)
    for function in (static, leafless):
        assert float(function(kind(), x, y)) == pytest.approx(float(kind()(x, y)), rel=1e-12)
        function(kind(), x, y)
    assert len(traced) == 2


@pytest.mark.parametrize("name", ["jax", "tensorflow"])
def test_numpy_arrays_are_taken_where_the_framework_takes_them(backend_named, draw, name):
    backend, (x, y, _) = backend_named(name), draw(0)
    want = backend.library.fmicl_loss(backend.array(x), backend.array(y))
    assert float(backend.library.fmicl_loss(x, y)) == float(want)


@pytest.mark.parametrize("name", ["fmicl_loss", "fmicl_terms", "FMICLLoss"])
def test_what_collapses_warns_where_it_is_asked_for(backend, draw, name):
    x, y = (backend.array(v) for v in draw(0)[:2])
    given = () if name == "FMICLLoss" else (x, y)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        getattr(backend.library, name)(*given, divergence="neyman")
    warned = [w for w in caught if "known to collapse" in str(w.message)]
    assert [w.filename for w in warned] == [__file__]
