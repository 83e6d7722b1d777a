"""The text setting, 1/(2 sigma^2) = 20: L = log u goes from 0 down to -80, where floats are few.

Every pair is looked at on its own: the gradient of y comes from its positive pair alone, that
of the bank from its negative pairs alone, and each row is compared on its own scale.
"""

import numpy as np
import pytest

from fmicl_core import DIVERGENCES, FMICL, Gaussian, fmicl_reference

SUITABLE = [name for name, make in DIVERGENCES.items() if make().suitable]
TEXT = Gaussian(0.025)
ROWS, WIDTH = 40, 8
#: Relative error of a row's gradient. float32: rounding of L near -80, 80 * 6e-8, times a few;
#: bfloat16: gradients leave in it, 2^-8.
TOLERANCE = {"float32": 1e-4, "bfloat16": 1.2e-2}
ALPHA = 409600.0
#: Penalties of Pearson, Tsallis and VLC fall below the range of float32. Frameworks flush slopes
#: there to 0, which are then weighted with alpha and with the 1/sigma^2 = 40 of the kernel.
TINY = 1.2e-38 * ALPHA * 40.0


def at_distances(squared, anchor, rng):
    """Unit rows at the given squared distances of the unit anchor, in random directions."""
    side = rng.normal(size=(len(squared), len(anchor)))
    side -= (side @ anchor)[:, None] * anchor
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    cosine = (1.0 - squared / 2.0)[:, None]
    return cosine * anchor + np.sqrt(1.0 - cosine**2) * side


def spread_out(backend, dtype):
    """One anchor, and positives and negatives at L = -1 to -79 from it."""
    rng = np.random.default_rng(0)
    anchor = rng.normal(size=WIDTH)
    anchor /= np.linalg.norm(anchor)
    squared = np.linspace(1.0, 79.0, ROWS) / 20.0
    x, y, bank = (
        np.tile(anchor, (ROWS, 1)),
        at_distances(squared, anchor, rng),
        at_distances(squared, anchor, rng),
    )
    return tuple(backend.rounded(v, dtype) for v in (x, y, bank))


@pytest.mark.parametrize("implementation", ["dense", "tiled"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", SUITABLE)
def test_each_pair_has_its_gradient_down_to_minus_80(backend, name, dtype, implementation):
    x, y, bank = spread_out(backend, dtype)
    objective = FMICL(name, TEXT, ALPHA)
    truth = fmicl_reference(x, y, objective, bank)
    got = backend.evaluate(x, y, bank, objective, dtype, implementation)
    size = abs(truth.score) + objective.alpha * abs(truth.penalty)
    assert abs(got.loss - truth.loss) <= 1e-4 * size
    for key, want in (("y", truth.grad_y), ("bank", truth.grad_bank)):
        scale = np.abs(want).max(axis=1)
        error = np.abs(got.grads[key] - want).max(axis=1)
        assert (error <= TOLERANCE[dtype] * scale + TINY).all(), key


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_kl_reaches_minus_80_in_the_loss_itself(backend, dtype):
    """Antipodal rows: the mean penalty is e^-80 = 1.8e-35, and not 0."""
    x = backend.rounded(np.array([[1.0, 0.0], [-1.0, 0.0]]), dtype)
    got = backend.evaluate(x, x, None, FMICL("kl", TEXT, ALPHA), dtype)
    assert got.penalty == pytest.approx(np.exp(-80.0), rel=1e-4)
    assert got.score == pytest.approx(1.0)


def largest_share(name, far):
    """The share that one positive pair at L = far takes of all pulls; 63 others are at L = -6."""
    rng = np.random.default_rng(1)
    anchor = np.eye(WIDTH)[0]
    squared = np.full(64, 6.0) / 20.0
    squared[0] = -far / 20.0
    y = at_distances(squared, anchor, rng)
    x = np.tile(anchor, (64, 1))
    bank = -x  # negatives far from everything
    pull = np.linalg.norm(fmicl_reference(x, y, FMICL(name, TEXT), bank).grad_y, axis=1)
    return pull[0] / pull.sum()


def test_squared_hellinger_pulls_at_the_farthest_pair_alone():
    """Slope e^(-L/2)/2: a pair at L = -30 outweighs the 63 at L = -6 a thousandfold."""
    assert largest_share("squared_hellinger", -30.0) > 0.999
    assert 1.0 / 64.0 < largest_share("kl", -30.0) < 0.05


@pytest.mark.parametrize("name", ["tsallis", "pearson", "js", "vlc"])
def test_what_does_not_let_far_pairs_go(name):
    """JS pulls at every distance as KL does; Tsallis, Pearson and VLC let a far pair go."""
    share = largest_share(name, -30.0)
    if name == "js":
        assert share == pytest.approx(largest_share("kl", -30.0), rel=0.01)
    else:
        assert share < {"tsallis": 1e-6, "pearson": 1e-11, "vlc": 1e-11}[name]
