"""Every mistake is named: the argument, what was expected, what was received."""

import re

import numpy as np
import pytest

from fmicl_check import ADAPTERS
from fmicl_core import checks

FUNCTIONS = ("fmicl_loss", "fmicl_terms", "info_nce_loss", "alignment_uniformity_loss",
             "spectral_contrastive_loss")  # fmt: skip
ONES = np.ones((4, 3))

#: x, y, bank and their dtypes, and the message.
SHAPES = [
    (ONES, np.ones((5, 3)), None, "`y`. Expected the shape of `x`, (4, 3). Received: "
     "y.shape=(5, 3)"),
    (ONES, np.ones((4, 2)), None, "`y`. Expected the shape of `x`, (4, 3). Received: "
     "y.shape=(4, 2)"),
    (ONES[0], ONES[0], None, "`x`. Expected a 2-D array (N, D). Received: x.shape=(3,)"),
    (ONES[None], ONES[None], None, "`x`. Expected a 2-D array (N, D). Received: x.shape=(1, 4, 3)"),
    (ONES, ONES[None], None, "`y`. Expected a 2-D array (N, D). Received: y.shape=(1, 4, 3)"),
    (ONES[:1], ONES[:1], None, "`x`. Expected at least two rows, N >= 2, or a `bank`. A single "
     "sample has no negative. Received: x.shape=(1, 3)"),
    (ONES[:0], ONES[:0], None, "`x`. Expected at least two rows, N >= 2"),
    (ONES[:, :0], ONES[:, :0], None, "`x`. Expected at least one feature, D >= 1"),
    (ONES, ONES, ONES[:0], "`bank`. Expected at least one row, K >= 1. Received: "
     "bank.shape=(0, 3)"),
    (ONES, ONES, ONES[:, :2], "`bank`. Expected the width of `x`, D = 3. Received: "
     "bank.shape=(4, 2)"),
    (ONES, ONES, ONES[0], "`bank`. Expected a 2-D array (K, D). Received: bank.shape=(3,)"),
    (ONES[:0], ONES[:0], ONES, "`x`. Expected at least one row, N >= 1"),
]  # fmt: skip


@pytest.mark.parametrize(("x", "y", "bank", "message"), SHAPES, ids=lambda v: str(np.shape(v)))
def test_shapes(backend, x, y, bank, message):
    arrays = [None if v is None else backend.array(v) for v in (x, y, bank)]
    with pytest.raises(ValueError, match=re.escape(f"Invalid value for argument {message}")):
        backend.library.fmicl_loss(arrays[0], arrays[1], bank=arrays[2])


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["int32", "complex64", "bool"])
def test_dtypes(backend, function, dtype):
    x = backend.array(ONES, dtype)
    message = f"`x`. Expected a dtype among float16, .* Received: x.dtype='{dtype}'"
    with pytest.raises(ValueError, match=message):
        getattr(backend.library, function)(x, x)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_mixed_devices(backend, function):
    if backend.name != "torch":
        pytest.skip("this framework moves data between devices by itself")
    other = backend.array(ONES).to("meta")
    with pytest.raises(
        ValueError, match=r"`y`. Expected the device of `x`, cpu. Received: y.device="
    ):
        getattr(backend.library, function)(backend.array(ONES), other)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_other_arrays(backend, function):
    with pytest.raises(
        ValueError, match=rf"`y`. Expected a {backend.array_name}. Received: .*'list'"
    ):
        getattr(backend.library, function)(backend.array(ONES), ONES.tolist())


#: What users of other losses pass, as shapes and dtype of x and y, and what is said of y.
STACKED = [
    (((8, 3), None), "y=None", "split"),
    (((4, 2, 3), None), "y=None", "unstack"),
    (((8, 3), (8,), "int64"), "y.shape=(8,)", "split"),
    (((8, 3), (8,), "float32"), "y.shape=(8,)", "split"),
    (((8, 3), (8, 1), "int32"), "y.dtype='int32'", "split"),
    (((4, 2, 3), (4,), "int64"), "y.shape=(4,)", "unstack"),
]


def stacked(backend, x, y, dtype=None):
    """The arguments of a loss that is called as other libraries' are."""
    ones = backend.array(np.ones(x))
    return (ones,) if y is None else (ones, backend.array(np.ones(y), dtype))


@pytest.mark.parametrize("name", [*FUNCTIONS, "FMICLLoss", "InfoNCELoss"])
@pytest.mark.parametrize(("given", "received", "how"), STACKED, ids=str)
def test_two_views_in_one_array_are_shown_how_to_split(backend, name, given, received, how):
    loss = getattr(backend.library, name)
    split = {"torch": "features.chunk(2)", "jax": "jnp.split(features, 2)",
             "tensorflow": "tf.split(features, 2)"}[backend.name]  # fmt: skip
    views = split if how == "split" else "features[:, 0], features[:, 1]"
    with pytest.raises(checks.InvalidArgument) as caught:
        (loss() if name.endswith("Loss") else loss)(*stacked(backend, *given))
    why = (
        "This loss takes no labels, and no views in one array: split such an array,"
        if name in FUNCTIONS[3:]
        else "Labels, or the numbers of the samples whose views are in one array, are given by "
        "name, `loss(features, ids=labels)`. Two views in one array can also be split,"
    )
    assert str(caught.value) == (
        "Invalid value for argument `y`. Expected the second view of the samples in `x`, (N, D). "
        f"{why} `z1, z2 = {views}`, and passed as (z1, z2). Received: {received}"
    )


def test_what_is_shown_splits(backend):
    """The line of the message, run as it stands, gives the two views."""
    features = backend.array(np.arange(24.0).reshape(8, 3))
    names = {"features": features, "jnp": getattr(backend.framework, "numpy", None),
             "tf": backend.framework}  # fmt: skip
    z1, z2 = eval(checks.SPLITS[backend.name], names)
    assert backend.numpy(z1)[0, 0] == 0.0
    assert backend.numpy(z2)[0, 0] == 12.0
    assert z1.shape == z2.shape == (4, 3)


LABELS = np.array([0, 1, 0, 1])
#: x, y, bank, ids and bank_ids, options, and the message.
IDS = [
    ((ONES, None, None, LABELS[:3], None), {},
     "`ids`. Expected one whole number for each row of `x`, (N,) = (4,). Received: ids.shape=(3,)"),
    ((ONES, ONES, None, LABELS[:, None], None), {},
     "`ids`. Expected one whole number for each row of `x`, (N,) = (4,). Received: "
     "ids.shape=(4, 1)"),
    ((ONES, None, None, LABELS.astype(np.float32), None), {},
     "`ids`. Expected whole numbers, in a dtype such as int64 or int32. Received: "
     "ids.dtype='float32'"),
    ((ONES, ONES, None, LABELS == 1, None), {},
     "`ids`. Expected whole numbers, in a dtype such as int64 or int32. Received: "
     "ids.dtype='bool'"),
    ((ONES, ONES, ONES, LABELS, LABELS[:3]), {},
     "`bank_ids`. Expected one whole number for each row of `bank`, (K,) = (4,). Received: "
     "bank_ids.shape=(3,)"),
    ((ONES, ONES, None, LABELS, LABELS), {}, "`bank_ids`. Expected None without `bank`. Received"),
    ((ONES, ONES, ONES, None, LABELS), {}, "`bank_ids`. Expected None without `ids`. Received"),
    ((ONES, None, None, LABELS, None), {"negatives": "cross"},
     "`negatives`. Expected 'anchor' or 'all' for a single array. There is no second view `y`. "
     "Received: negatives='cross'"),
    ((ONES, None, None, LABELS, None), {"positives": "pair"},
     "`positives`. Expected 'ids' for a single array. There is no second view `y`. Received: "
     "positives='pair'"),
    ((ONES, ONES, None, LABELS, None), {"positives": "labels"},
     "`positives`. Expected one of 'ids', 'pair'. Received: positives='labels'"),
    ((ONES, None, None, np.arange(4), None), {},
     "`ids`. Expected at least two rows with equal ids. The positive pairs of a single array are "
     "those of rows with equal ids. Received: ids='4 rows with an id of their own'"),
    ((ONES, None, None, 0 * LABELS, None), {},
     "`ids`. Expected at least two different ids. Rows with equal ids are no negatives of each "
     "other. Received: ids='4 rows with one id'"),
    ((ONES, ONES, None, 0 * LABELS, None), {"positives": "pair"},
     "`ids`. Expected at least two different ids."),
    ((ONES, ONES, ONES[:2], 0 * LABELS, 0 * LABELS[:2]), {},
     "`bank_ids`. Expected a row of the bank whose id differs from one in `ids`. Rows with equal "
     "ids are no negatives of each other. Received: bank_ids='2 rows with the id of every anchor'"),
]  # fmt: skip


def with_ids(backend, name, arrays, options):
    """Call a loss with arrays of the backend."""
    x, y, bank, *ids = arrays
    features = [None if v is None else backend.array(v) for v in (x, y, bank)]
    given = {k: backend.array(v, v.dtype.name)
             for k, v in zip(("ids", "bank_ids"), ids, strict=True) if v is not None}  # fmt: skip
    return getattr(backend.library, name)(*features[:2], bank=features[2], **given, **options)


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
@pytest.mark.parametrize("name", ["fmicl_loss", "info_nce_loss"])
@pytest.mark.parametrize(("arrays", "options", "message"), IDS, ids=[m[:60] for *_, m in IDS])
def test_ids(backend, name, arrays, options, message, implementation):
    options = options | {"implementation": implementation}
    with pytest.raises(ValueError, match=re.escape(f"Invalid value for argument {message}")):
        with_ids(backend, name, arrays, options)


def test_ids_are_arrays(backend):
    message = rf"`ids`. Expected a {backend.array_name}. Received: type\(ids\)='list'"
    with pytest.raises(ValueError, match=message):
        backend.library.fmicl_loss(backend.array(ONES), ids=LABELS.tolist())


OPTIONS = [
    ({"alpha": 0}, "`alpha`. Expected a finite number > 0. Received: alpha=0"),
    ({"alpha": float("nan")}, "`alpha`. Expected a finite number > 0. Received: alpha=nan"),
    ({"alpha": "40"}, "`alpha`. Expected a finite number > 0 or 'auto'. "
     "Received: alpha='40'"),
    ({"divergence": "lk"}, "`divergence`. Expected one of 'kl', 'js'"),
    ({"negatives": "none"}, "`negatives`. Expected one of 'anchor', 'within', 'cross', 'all'. "
     "Received: negatives='none'"),
    ({"similarity": "dot"}, "`similarity`. Expected one of 'gaussian', 'cosine'"),
    ({"divergence": "js", "similarity": "cosine"}, "`similarity`. Expected a cosine temperature > "
     "1.4427"),
    ({"implementation": "fast"}, "`implementation`. Expected one of 'auto', 'dense', 'tiled'"),
    ({"normalize": "yes"}, "`normalize`. Expected True or False. Received: normalize='yes'"),
    ({"check_finite": 1}, "`check_finite`. Expected True or False. Received: check_finite=1"),
]  # fmt: skip


@pytest.mark.parametrize("function", ["fmicl_loss", "fmicl_terms"])
@pytest.mark.parametrize(("options", "message"), OPTIONS, ids=[str(o) for o, _ in OPTIONS])
def test_options(backend, function, options, message):
    x = backend.array(ONES)
    with pytest.raises(ValueError, match=re.escape(f"Invalid value for argument {message}")):
        getattr(backend.library, function)(x, x, **options)
    with pytest.raises(ValueError, match=re.escape(message)):
        backend.library.FMICLLoss(**options)


@pytest.mark.parametrize(
    ("function", "option"),
    [("info_nce_loss", "temperature"), ("alignment_uniformity_loss", "t"),
     ("alignment_uniformity_loss", "exponent"), ("alignment_uniformity_loss", "uniformity_weight")],
)  # fmt: skip
def test_related_options(backend, function, option):
    x = backend.array(ONES)
    with pytest.raises(ValueError, match=rf"`{option}`. Expected a finite number > 0. Received"):
        getattr(backend.library, function)(x, x, **{option: -1.0})


@pytest.mark.parametrize("name", ["fmicl_loss", "FMICLLoss"])
def test_alpha_as_an_array(backend, name):
    x = backend.array(ONES)
    given = (x, x) if name == "fmicl_loss" else ()
    message = "`alpha`. Expected a finite number > 0, or an array of no dimension that holds one."
    with pytest.raises(ValueError, match=re.escape(f"{message} Received: alpha.shape=(1,)")):
        getattr(backend.library, name)(*given, alpha=backend.array(np.ones(1)))
    for value in (-2.0, 0.0, np.nan):
        loss = backend.library.FMICLLoss(alpha=backend.array(np.array(value)))
        with pytest.raises(ValueError, match=re.escape(f"{message} Received: alpha={value}")):
            loss(x, x)


def test_options_of_info_nce(backend):
    x = backend.array(ONES)
    message = next(text for options, text in OPTIONS if "implementation" in options)
    with pytest.raises(ValueError, match=re.escape(f"Invalid value for argument {message}")):
        backend.library.info_nce_loss(x, x, implementation="fast")


#: Every mistake above once, as a function of the backend that makes it.
MISTAKES = (
    [lambda b, a=arrays: b.library.fmicl_loss(
        b.array(a[0]), b.array(a[1]), bank=None if a[2] is None else b.array(a[2]))
     for *arrays, _ in SHAPES]
    + [lambda b, o=options: b.library.fmicl_loss(b.array(ONES), b.array(ONES), **o)
       for options, _ in OPTIONS]
    + [lambda b, o=options: b.library.FMICLLoss(**o) for options, _ in OPTIONS]
    + [lambda b, f=f: getattr(b.library, f)(b.array(ONES, "int32"), b.array(ONES, "int32"))
       for f in FUNCTIONS]
    + [lambda b, f=f: getattr(b.library, f)(b.array(ONES), ONES.tolist()) for f in FUNCTIONS]
    + [lambda b, g=given: b.library.fmicl_loss(*stacked(b, *g)) for given, *_ in STACKED]
    + [lambda b, a=arrays, o=options: with_ids(b, "fmicl_loss", a, o)
       for arrays, options, _ in IDS]
    + [lambda b: b.library.info_nce_loss(b.array(ONES), b.array(ONES), temperature=-1),
       lambda b: b.library.InfoNCELoss(temperature=0.0),
       lambda b: b.library.InfoNCELoss(negatives="none"),
       lambda b: b.library.InfoNCELoss(normalize=1),
       lambda b: b.library.InfoNCELoss(implementation="fused"),
       lambda b: b.library.info_nce_loss(b.array(ONES), b.array(ONES), negatives="none"),
       lambda b: b.library.info_nce_loss(b.array(ONES), b.array(ONES), normalize=1),
       lambda b: b.library.fmicl_loss(b.array(ONES * np.nan), b.array(ONES)),
       lambda b: b.library.fmicl_loss(b.array(ONES * 1e30, "float32"),
                                      b.array(ONES * -1e30, "float32"), normalize=False)]
)  # fmt: skip


@pytest.mark.parametrize("other", [name for name in ADAPTERS if name != "torch"])
@pytest.mark.parametrize("mistake", MISTAKES, ids=range(len(MISTAKES)))
def test_messages_are_equal_in_all_backends(backend_named, other, mistake):
    messages = []
    for backend in (backend_named("torch"), backend_named(other)):
        with pytest.raises(ValueError) as caught:
            mistake(backend)
        message = str(caught.value).replace(backend.array_name, "array")
        messages.append(message.replace(checks.SPLITS[backend.name], "split"))
    if other == "tensorflow":  # which has no fused routine
        messages[0] = messages[0].replace(", 'fused'", "")
    assert messages[0] == messages[1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("argument", ["x", "y", "bank"])
@pytest.mark.parametrize("implementation", ["dense", "tiled"])
def test_non_finite_features_are_named_with_their_rows(backend, value, argument, implementation):
    rows = {name: np.random.default_rng(0).normal(size=(6, 3)) for name in ("x", "y", "bank")}
    rows[argument][[2, 4], 1] = value
    x, y, bank = (backend.array(v) for v in rows.values())
    message = f"`{argument}`. Expected finite features. Received: NaN or infinity in row 2, 4"
    with pytest.raises(ValueError, match=message):
        backend.library.fmicl_loss(x, y, bank=bank, implementation=implementation)


def test_check_finite_can_be_left_out(backend):
    x = backend.array(np.full((4, 3), np.nan))
    assert np.isnan(float(backend.library.fmicl_loss(x, x, check_finite=False)))


def test_overflow_is_told_from_bad_features(backend):
    x = backend.array(1e30 * np.random.default_rng(0).normal(size=(4, 3)), "float32")
    with pytest.raises(ValueError, match=r"Expected features with a finite loss under FMICL"):
        backend.library.fmicl_loss(x, -x, normalize=False)


def test_unknown_sizes_are_taken_to_fit():
    checks.check_features((None, 3), (None, 3), None, ["float32"] * 2)
    checks.check_features((None, None), (4, 3), (None, 3), ["float32"] * 3)
