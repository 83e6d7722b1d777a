"""How good features are: classifiers, spread on the sphere, and the warning of a collapse."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sklearn", reason="the recipes need scikit-learn")
pytest.importorskip("datasets", reason="the recipes need Hugging Face datasets")

from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fmicl_recipes import evaluation, probe, sphere
from fmicl_recipes.history import warn_of_collapse


@given(seed=st.integers(0, 1000))
def test_separated_clusters_are_classified(seed):
    rng = np.random.default_rng(seed)
    centres = 10.0 * np.eye(3)
    labels, test_labels = rng.permutation(np.arange(60) % 3), np.arange(30) % 3
    train = centres[labels] + 0.1 * rng.normal(size=(60, 3))
    test = centres[test_labels] + 0.1 * rng.normal(size=(30, 3))
    scores = evaluation.evaluate_features(train, labels, test, test_labels, k=5)
    accuracies = {"knn_accuracy": 1.0, "linear10_accuracy": 1.0, "linear_accuracy": 1.0}
    assert scores == {"knn_k": 5} | accuracies


def test_knn_weighs_votes_by_similarity():
    """One near neighbour outvotes two far ones; k beyond the data is cut."""
    train = np.array([[1.0, 0.0], [0.0, 1.0], [-0.1, 1.0]])
    test = np.array([[1.0, 0.05]])
    labels = np.array([1, 0, 0])
    assert evaluation.knn_accuracy(train, labels, test, np.array([1]), k=200) == 1.0


@pytest.mark.parametrize("n", [3, 5, 8])
def test_uniformity_of_a_simplex(n):
    simplex = np.eye(n) - 1.0 / n
    assert sphere.uniformity(simplex) == pytest.approx(-4.0 * n / (n - 1))


@given(seed=st.integers(0, 1000))
def test_alignment_and_rank_have_their_bounds(seed):
    x = np.random.default_rng(seed).normal(size=(20, 6))
    assert sphere.alignment(x, 3.0 * x) == pytest.approx(0.0, abs=1e-12)
    assert sphere.alignment(x, -x) == pytest.approx(4.0)
    assert 1.0 <= sphere.embedding_rank(x) <= 6.0 + 1e-9
    assert sphere.embedding_rank(np.eye(6)) == pytest.approx(6.0)
    assert sphere.embedding_rank(np.outer(x[:, 0], x[0])) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("which", ["train", "test"])
def test_broken_features_are_named(which):
    arrays = {"train": np.ones((6, 2)), "test": np.ones((6, 2))}
    arrays[which][3] = np.nan
    labels = np.arange(6) % 2
    with pytest.raises(ValueError, match=rf"`{which}`. Expected finite features.*row 3"):
        evaluation.knn_accuracy(arrays["train"], labels, arrays["test"], labels)


def history_of(*ranks):
    return [{"epoch": i, "embedding_rank": r, "uniformity": -2.0} for i, r in enumerate(ranks, 1)]


@pytest.mark.parametrize("ranks", [(9, 9, 9), (1, 1), (1, 1, 9, 1, 1), (1, 1, 1, 1), (1, 1, 1, 9)])
def test_short_or_known_collapse_does_not_warn(recwarn, ranks):
    warn_of_collapse(history_of(*ranks))
    assert not len(recwarn)


@pytest.mark.parametrize("ranks", [(1, 1, 1), (9, 1, 1, 1)])
def test_lasting_collapse_warns_when_it_is_certain(ranks):
    with pytest.warns(UserWarning, match=rf"collapsed by epoch {len(ranks)}: embedding rank 1.0"):
        warn_of_collapse(history_of(*ranks))


def test_features_on_a_line_or_a_point_have_collapsed():
    rng = np.random.default_rng(0)
    spread, direction = rng.normal(size=(50, 6)), rng.normal(size=6)
    line = np.outer(rng.choice([-1.0, 1.0], 50), direction)
    point = direction + 0.05 * spread
    scores = [sphere.spread(x, x) for x in (spread, line, point)]
    assert [sphere.collapsed(score) for score in scores] == [False, True, True]


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_zero_rows_lie_on_one_point(no_warnings):
    """Their cosines are 0, from which they would look as uniform as features can be."""
    zeros = np.zeros((20, 5), np.float32)
    scores = sphere.spread(zeros, zeros)
    assert scores["uniformity"] == 0.0
    assert sphere.collapsed(scores)
    assert sphere.pair_distances(zeros, zeros)[1].max() == 0.0
    half = np.vstack([zeros, np.eye(5, dtype=np.float32)])
    assert sphere.uniformity(zeros) > sphere.uniformity(half) > sphere.uniformity(half[20:])


@pytest.mark.parametrize("scale", [2.0**-140, 2.0**-70, 2.0**70, 2.0**120])
def test_scores_do_not_depend_on_the_scale_of_features(no_warnings, scale):
    """The squares of these leave the range of float32."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40, 5)).astype(np.float32)
    labels = np.arange(40) % 3
    scaled, of_y = (scale * rows for rows in (x, y))
    assert scaled.dtype == np.float32
    exact = scale > 2.0**-120  # smaller ones have lost digits
    for measure in (sphere.alignment, sphere.contrastive_accuracy):
        assert measure(scaled, of_y) == pytest.approx(measure(x, y), rel=1e-6 if exact else 1e-2)
    assert sphere.uniformity(scaled) == pytest.approx(sphere.uniformity(x), rel=1e-2)
    if exact:
        whole = evaluation.evaluate_features(x, labels, y, labels)
        assert evaluation.evaluate_features(scaled, labels, of_y, labels) == whole


@pytest.mark.parametrize(
    ("labels", "test_labels"),
    [([0, 0, 0, 1], [0, 1, 0]), ([0, 0, 1, 1], [0, 1, 2]), ([0, 1, 2, 3], [4, 0, 1]),
     ([0, 1, 0, 1], [1])],
    ids=["a class of one", "a class that training lacks", "classes of one", "one test image"],
)  # fmt: skip
@pytest.mark.parametrize("features", ["random", "constant", "zero"])
def test_odd_labels_are_evaluated_without_a_word(no_warnings, labels, test_labels, features):
    draw = {"random": np.random.default_rng(0).normal, "constant": lambda size: np.ones(size),
            "zero": lambda size: np.zeros(size)}[features]  # fmt: skip
    train, test = (draw(size=(len(rows), 6)) for rows in (labels, test_labels))
    scores = evaluation.evaluate_features(
        train, np.array(labels), test, np.array(test_labels), k=200
    )
    assert scores.pop("knn_k") == 4
    assert all(0.0 <= score <= 1.0 for score in scores.values())


def test_a_single_row_has_finite_scores(no_warnings):
    row = np.ones((1, 4), np.float32)
    assert sphere.uniformity(row) == 0.0
    assert np.isfinite(list(sphere.spread(row, row).values())).all()


def test_neighbours_fit_the_number_of_images_and_are_kept():
    counts = [evaluation.fitting_k(n) for n in (1, 2, 256, 1437, 40_000, 1_281_167)]
    assert counts == [1, 1, 16, 38, 200, 200]
    x, labels = np.random.default_rng(0).normal(size=(256, 4)), np.arange(256) % 2
    assert evaluation.evaluate_features(x, labels, x, labels)["knn_k"] == 16


def test_wilson_intervals():
    """Of 8 in 10 as in Wilson's formula by hand; never outside of [0, 1]."""
    assert evaluation.wilson_interval(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert evaluation.wilson_interval(1.0, 1)[1] == 1.0
    assert evaluation.wilson_interval(0.0, 5)[0] == 0.0
    low, high = evaluation.wilson_interval(0.5, 10_000)
    assert high - low == pytest.approx(2 * 1.96 * 0.005, rel=1e-3)


@pytest.mark.parametrize("rows", [40, 400, 2000])
def test_a_probe_in_parts_is_the_probe_of_scikit_learn(monkeypatch, no_warnings, rows):
    """Both minimise the same sum, so at its minimum they agree but for ties."""
    rng = np.random.default_rng(rows)
    labels = rng.integers(0, 4, rows)
    x = (rng.normal(size=(rows, 6)) + 0.7 * np.eye(6)[labels]) * [1, 3, 9, 27, 0.1, 0.01] + 5
    of_y = x[: rows // 2] + rng.normal(size=(rows // 2, 6)) * 0.01
    monkeypatch.setattr(probe, "PART", 64)
    scaled = StandardScaler().fit(x)
    ours = probe.SoftmaxProbe(0.1, 1000, 1e-7).fit(x.astype(np.float32), labels)
    known = LogisticRegression(C=0.1, max_iter=1000, tol=1e-7).fit(scaled.transform(x), labels)
    centred = ours.weights - ours.weights.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(centred[:-1].T, known.coef_, atol=2e-3)
    assert (ours.predict(of_y) == known.predict(scaled.transform(of_y))).mean() > 0.99
    scores = evaluation.linear_accuracy(x, labels, of_y, labels[: rows // 2])
    monkeypatch.setattr(evaluation, "PROBE_NUMBERS", 10)
    parts = evaluation.linear_accuracy(x, labels, of_y, labels[: rows // 2])
    assert parts == pytest.approx(scores, abs=0.02)


def test_knn_looks_among_the_rows_that_were_drawn(no_warnings):
    """Whoever looks among all of them finds each row itself; the rows are the seed's."""
    assert evaluation.knn_rows(100, 100, seed=0) is None
    first, again, other = (evaluation.knn_rows(100, 30, seed=seed) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() == sorted(set(first.tolist()))
    assert len(first) == 30
    assert first.tolist() != other.tolist()
    x, labels = np.random.default_rng(0).normal(size=(100, 4)), np.arange(100)
    scores = evaluation.evaluate_features(x, labels, x, labels, k=1, knn_train=30)
    assert scores["knn_train"] == 30
    assert scores["knn_accuracy"] == pytest.approx(0.3)
