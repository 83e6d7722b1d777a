"""Each row of the family table: a known loss, as its paper writes it, is what its settings give."""

import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmicl_core import Cosine, Gaussian
from fmicl_core.family import FAMILY_DEFAULTS

both = pytest.mark.parametrize("implementation", ["dense", "tiled"])
some = settings(max_examples=4)
LABELS = np.array([3, 1, 3, 3, 1, 2, 1, 2, 3, 1, 2])
#: Their tables of a family are these files.
PAGE = Path(__file__).parents[2] / "docs" / "family.md"


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def pairs_of(n):
    return [(i, j) for i in range(n) for j in range(n) if i != j]


def softplus(z):
    return math.log1p(math.exp(-abs(z))) + max(z, 0.0)


def cross_entropy(logits, own):
    """Softmax cross-entropy of one row of logits whose class is `own`."""
    return math.log(sum(math.exp(v) for v in logits)) - logits[own]


def clip(x, y, scale):
    s = scale * unit(x) @ unit(y).T
    n = len(s)
    rows = np.mean([cross_entropy(s[i], i) for i in range(n)])
    return 0.5 * (rows + np.mean([cross_entropy(s[:, i], i) for i in range(n)]))


def siglip(x, y, t, b, positive=None):
    """As in its pseudo-code: labels 2 eye(n) - 1, the sum over all pairs divided by n."""
    s, n = t * unit(x) @ unit(y).T + b, len(x)
    positive = np.eye(n) if positive is None else positive
    return sum(softplus(-z if p else z) for z, p in zip(s.flat, positive.flat, strict=True)) / n


def nt_xent(x, y, temperature):
    z = unit(np.concatenate([x, y]))
    s, n = z @ z.T / temperature, len(x)
    losses = []
    for i in range(2 * n):
        others = [k for k in range(2 * n) if k != i]
        losses.append(cross_entropy([s[i, k] for k in others], others.index((i + n) % (2 * n))))
    return np.mean(losses)


def sup_con(x, y, temperature):
    z, labels = unit(np.concatenate([x, y])), np.tile(LABELS, 2)
    s = z @ z.T / temperature
    losses = []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        logits = [s[i, k] for k in others]
        same = [p for p, k in enumerate(others) if labels[k] == labels[i]]
        losses.append(np.mean([cross_entropy(logits, p) for p in same]))
    return np.mean(losses)


def dcl(x, y, temperature):
    """Yeh et al. (2022), L_DC, the mean over both views."""
    z, n, losses = (unit(x), unit(y)), len(x), []
    for k in (0, 1):
        for i in range(n):
            others = [z[k][i] @ z[v][j] / temperature for v in (0, 1) for j in range(n) if j != i]
            own = z[0][i] @ z[1][i] / temperature
            losses.append(math.log(sum(map(math.exp, others))) - own)
    return np.mean(losses)


def dhel(x, y, temperature):
    x, y, n = unit(x), unit(y), len(x)
    spread = [
        math.log(sum(math.exp(x[i] @ x[j] / temperature) for j in range(n) if j != i))
        for i in range(n)
    ]
    return np.mean([spread[i] - x[i] @ y[i] / temperature for i in range(n)])


def kcl(x, y, t, gamma):
    x, y = unit(x), unit(y)
    kernel = lambda a, b: math.exp(-t * ((a - b) ** 2).sum())  # noqa: E731
    energy = np.mean([kernel(x[i], x[j]) for i, j in pairs_of(len(x))])
    return gamma * energy - np.mean([kernel(a, b) for a, b in zip(x, y, strict=True)])


def rince(x, y, temperature, lam):
    """Robust InfoNCE at q = 1 (Chuang et al. 2022)."""
    e, n = np.exp(unit(x) @ unit(y).T / temperature), len(x)
    return np.mean([-e[i, i] + lam * e[i].sum() for i in range(n)])


def critic_bounds(x, y, temperature):
    """The critic T = x . y / temperature of positive pairs, and of pairs (x_i, y_j), i != j."""
    t = unit(x) @ unit(y).T / temperature
    return np.diag(t), np.array([t[i, j] for i, j in pairs_of(len(x))])


def nwj(x, y, temperature):
    positive, negative = critic_bounds(x, y, temperature)
    return np.exp(negative - 1.0).mean() - positive.mean()


def infomax(x, y, temperature):
    positive, negative = critic_bounds(x, y, temperature)
    return np.mean([softplus(-t) for t in positive]) + np.mean([softplus(t) for t in negative])


def alignment_uniformity(x, y):
    x, y = unit(x), unit(y)
    spread = lambda z: math.log(  # noqa: E731
        np.mean([math.exp(-2.0 * ((z[i] - z[j]) ** 2).sum()) for i, j in pairs_of(len(z))])
    )
    return ((x - y) ** 2).sum(axis=1).mean() + 0.5 * (spread(x) + spread(y))


def spectral(x, y):
    s = unit(x) @ unit(y).T
    return np.mean([s[i, j] ** 2 for i, j in pairs_of(len(s))]) - 2.0 * np.diag(s).mean()


N, Q = len(LABELS), 6
#: Name in the table of docs/family.md; public function and its options; the loss by its paper; the
#: factor and the constant that make ours it. `bank` and `ids` are given where named.
ROWS = [
    ("InfoNCE", "info_nce_loss", {"negatives": "cross", "temperature": 0.3},
     lambda x, y, bank: np.mean(
         [cross_entropy(s, i) for i, s in enumerate(unit(x) @ unit(y).T / 0.3)]), (1.0, 0.0)),
    ("N-pair", "info_nce_loss", {"negatives": "cross", "temperature": 1.0, "normalize": False},
     lambda x, y, bank: np.mean([cross_entropy(s, i) for i, s in enumerate(x @ y.T)]), (1.0, 0.0)),
    ("NT-Xent", "info_nce_loss", {"temperature": 0.3},
     lambda x, y, bank: nt_xent(x, y, 0.3), (1.0, 0.0)),
    ("MoCo", "info_nce_loss", {"temperature": 0.3, "bank": True},
     lambda x, y, bank: np.mean(
         [cross_entropy(np.array([a @ b, *(unit(bank) @ a)]) / 0.3, 0)
          for a, b in zip(unit(x), unit(y), strict=True)]), (1.0, 0.0)),
    ("SupCon", "info_nce_loss", {"temperature": 0.3, "ids": True},
     lambda x, y, bank: sup_con(x, y, 0.3), (1.0, 0.0)),
    ("CLIP", "clip_loss", {"logit_scale": 5.0}, lambda x, y, bank: clip(x, y, 5.0), (1.0, 0.0)),
    ("SigLIP", "siglip_loss", {"logit_scale": 7.0, "logit_bias": -4.0},
     lambda x, y, bank: siglip(x, y, 7.0, -4.0), (1.0, 0.0)),
    ("SigLIP as f-MICL", "fmicl_loss",
     {"divergence": "js", "alpha": N - 1.0, "negatives": "cross", "logit_scale": 7.0,
      "logit_bias": -4.0},
     lambda x, y, bank: siglip(x, y, 7.0, -4.0), (1.0, N * math.log(2.0))),
    ("DCL", "dcl_loss", {"temperature": 0.3}, lambda x, y, bank: dcl(x, y, 0.3), (1.0, 0.0)),
    ("DHEL", "dhel_loss", {"temperature": 0.3}, lambda x, y, bank: dhel(x, y, 0.3), (1.0, 0.0)),
    ("KCL", "kcl_loss", {"similarity": Gaussian(0.25), "alpha": 16.0},
     lambda x, y, bank: kcl(x, y, 2.0, 16.0), (1.0, 0.0)),
    ("RINCE, q = 1", "kcl_loss",
     {"alpha": 0.2 * (N - 1) / 0.8, "negatives": "cross", "logit_scale": 2.0, "logit_bias": 0.0},
     lambda x, y, bank: rince(x, y, 0.5, 0.2), (0.8, 0.0)),
    ("NWJ", "fmicl_loss",
     {"similarity": Cosine(0.5), "alpha": 1.0, "negatives": "cross"},
     lambda x, y, bank: nwj(x, y, 0.5), (1.0, 0.0)),
    ("Deep InfoMax", "fmicl_loss",
     {"divergence": "js", "alpha": 1.0, "negatives": "cross", "logit_scale": 2.0,
      "logit_bias": 0.0},
     lambda x, y, bank: infomax(x, y, 0.5), (1.0, 2.0 * math.log(2.0))),
    ("Alignment and uniformity", "alignment_uniformity_loss", {},
     lambda x, y, bank: alignment_uniformity(x, y), (1.0, 0.0)),
    ("Spectral contrastive", "spectral_contrastive_loss", {},
     lambda x, y, bank: spectral(x, y), (1.0, 0.0)),
]  # fmt: skip
WITHOUT_FORMS = ("alignment_uniformity_loss", "spectral_contrastive_loss")
every_row = partial(pytest.mark.parametrize, "row", ids=lambda row: row[0])
#: Of rows whose code another row runs, too, JAX and TensorFlow have one in short.
IN_SHORT = ("CLIP", "SigLIP", "DCL", "DHEL", "RINCE, q = 1", "NWJ")


@both
@every_row(
    [row if row[0] in IN_SHORT else pytest.param(row, marks=pytest.mark.many_compilations)
     for row in ROWS]
)  # fmt: skip
@some
@given(seed=st.integers(0, 2**32 - 1))
def test_a_row_is_the_loss_of_its_paper(backend, set_tile, draw, row, implementation, seed):
    set_tile(4)
    _, function, options, naive, (factor, constant) = row
    x, y, bank = draw(seed, k=9)
    options = dict(options)
    arrays = {"x": x, "y": y, "bank": bank if options.pop("bank", False) else None}
    ids = {"ids": LABELS} if options.pop("ids", False) else None
    if function not in WITHOUT_FORMS:
        options["implementation"] = implementation
    got = backend.call(function, arrays, ids=ids, **options)
    want = naive(x, y, bank)
    assert factor * got.loss + constant == pytest.approx(want, rel=1e-10, abs=1e-10)
    direction = np.random.default_rng(seed).normal(size=x.shape)
    ahead, behind = (naive(x + s * direction, y, bank) for s in (1e-5, -1e-5))
    slope = factor * (got.grads["x"] * direction).sum()
    assert (ahead - behind) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_the_table_of_the_documentation_has_these_rows():
    table = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    first = {re.sub(r"[*\[\]]|\(.*?\)", "", line.split("|")[1]).strip() for line in table}
    assert {name for name, *_ in ROWS} <= first


@both
@pytest.mark.many_compilations
@pytest.mark.parametrize("function", ["siglip_loss", "clip_loss", "dcl_loss", "dhel_loss"])
def test_a_loss_by_name_has_its_papers_defaults(backend, draw, function, implementation):
    x, y, _ = draw(11)
    d = FAMILY_DEFAULTS
    want = {
        "siglip_loss": siglip(x, y, 10.0, -10.0), "clip_loss": clip(x, y, 1.0 / 0.07),
        "dcl_loss": dcl(x, y, d.dcl_temperature), "dhel_loss": dhel(x, y, d.dhel_temperature),
    }  # fmt: skip
    got = backend.call(function, {"x": x, "y": y}, implementation=implementation)
    assert got.loss == pytest.approx(want[function], rel=1e-11)


@both
def test_siglip_with_ids_labels_every_pair(backend, set_tile, draw, implementation):
    """Rows with equal ids are positives, or with positives="pair" left out."""
    set_tile(4)
    x, y, _ = draw(12)
    equal = LABELS[:, None] == LABELS[None, :]
    call = partial(
        backend.call, "siglip_loss", {"x": x, "y": y}, ids={"ids": LABELS}, logit_scale=3.0,
        logit_bias=-1.0, implementation=implementation,
    )  # fmt: skip
    assert call().loss == pytest.approx(siglip(x, y, 3.0, -1.0, equal), rel=1e-11)
    others = equal & ~np.eye(N, dtype=bool)
    s = 3.0 * unit(x) @ unit(y).T - 1.0
    left_out = sum(softplus(z) for z in s[others]) / N
    want = siglip(x, y, 3.0, -1.0) - left_out
    assert call(positives="pair").loss == pytest.approx(want, rel=1e-11)


@both
def test_captions_and_images_of_different_number_meet_through_ids(
    backend, set_tile, draw, implementation
):
    """Each image once a caption: the loss is the sum over all (caption, image), as if there were
    as many copies of an image as it has captions; equal numbers of captions only scale it."""
    set_tile(4)
    images, _, _ = draw(13, n=4)
    captions, _, _ = draw(14, n=8)
    of = np.repeat(np.arange(4), 2)
    got = backend.call(
        "siglip_loss", {"x": captions, "y": images[of]}, ids={"ids": of}, logit_scale=3.0,
        logit_bias=-1.0, implementation=implementation,
    )  # fmt: skip
    s = 3.0 * unit(captions) @ unit(images).T - 1.0
    each = [softplus(-s[i, j] if of[i] == j else s[i, j]) for i in range(8) for j in range(4)]
    assert got.loss == pytest.approx(2.0 * sum(each) / 8, rel=1e-11)


@both
def test_the_decoupled_loss_with_labels_has_negatives_alone_in_its_softmax(
    backend, set_tile, draw, implementation
):
    set_tile(4)
    x, _, _ = draw(15)
    s = unit(x) @ unit(x).T / 0.3
    losses = []
    for i in range(N):
        log_z = math.log(sum(math.exp(s[i, j]) for j in range(N) if LABELS[j] != LABELS[i]))
        own = [s[i, j] for j in range(N) if LABELS[j] == LABELS[i] and j != i]
        losses.append(log_z - np.mean(own))
    got = backend.call(
        "dcl_loss", {"x": x}, ids={"ids": LABELS}, temperature=0.3, implementation=implementation
    )
    assert got.loss == pytest.approx(np.mean(losses), rel=1e-11)


@both
def test_clip_with_duplicates_leaves_them_out(backend, set_tile, draw, implementation):
    set_tile(4)
    x, y, _ = draw(16)
    s = 5.0 * unit(x) @ unit(y).T
    kept = (LABELS[:, None] != LABELS[None, :]) | np.eye(N, dtype=bool)
    losses = [math.log(np.exp(v[i][kept[i]]).sum()) - v[i, i] for v in (s, s.T) for i in range(N)]
    got = backend.call(
        "clip_loss", {"x": x, "y": y}, ids={"ids": LABELS}, positives="pair", logit_scale=5.0,
        implementation=implementation,
    )  # fmt: skip
    assert got.loss == pytest.approx(np.mean(losses), rel=1e-11)


@pytest.mark.parametrize(
    "function", ["siglip_loss", "clip_loss", "dcl_loss", "dhel_loss", "kcl_loss"]
)
def test_a_missing_y_is_said(backend, draw, function):
    x = backend.array(draw(17)[0])
    with pytest.raises(ValueError, match="argument `y`"):
        getattr(backend.library, function)(x)


@pytest.mark.parametrize("name", ["logit_scale", "logit_bias"])
def test_siglip_has_no_similarity_s_own_scalars(backend, draw, name):
    x = backend.array(draw(19)[0])
    with pytest.raises(ValueError, match=f"`{name}`. Expected a finite number.* Received: {name}="):
        backend.library.siglip_loss(x, x, **{name: None})


def test_two_towers_need_y_beside_ids(backend, draw):
    x = backend.array(draw(18)[0])
    for function in ("siglip_loss", "clip_loss"):
        with pytest.raises(ValueError, match=r"argument `y`|argument `negatives`"):
            getattr(backend.library, function)(x, ids=LABELS)
