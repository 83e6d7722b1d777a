"""On several devices loss and gradient are those of the union batch: ratio 1, cosine 1."""

import os

import keras
import numpy as np
import pytest

from fmicl_keras import CLIPLoss, FMICLLoss, FMICLPenalty, InfoNCELoss, SigLIPLoss, Uniformity

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 1, 6))
Y_PRED = np.concatenate([X, X + 0.5 * RNG.normal(size=X.shape)], axis=1).astype("float32")
WEIGHTS = RNG.uniform(0.0, 3.0, size=24).astype("float32")


def only(backend, why):
    return pytest.mark.skipif(os.environ["KERAS_BACKEND"] != backend, reason=why)


LABELS = RNG.integers(0, 5, size=24)


def trained(loss, weights, n, measured=True):
    """What one epoch of two steps, on 12 samples and on the rest of n, changed and reported.

    A loss with ids has three views of every sample. Without metrics the graph has half the size.
    """
    y_pred = Y_PRED
    if loss.ids_from_targets:
        y_pred = np.concatenate([Y_PRED, Y_PRED[:, ::-1] + Y_PRED], axis=1)[:, :3]
    keras.utils.set_random_seed(0)
    encoder = [keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(4)]
    model = keras.Sequential([keras.layers.Input(y_pred.shape[1:]), *encoder])
    metrics = [FMICLPenalty(loss if loss.ids_from_targets else FMICLLoss()), Uniformity()]
    model.compile(keras.optimizers.SGD(0.1), loss=loss, metrics=metrics if measured else [])
    weights = {} if weights is None else {"sample_weight": weights[:n]}
    return changed_by_fit(model, y_pred[:n], LABELS[:n], **weights)


def changed_by_fit(model, *data, **weights):
    """What an epoch in batches of 12 changed and reported."""
    before = np.concatenate([w.ravel() for w in model.get_weights()])
    history = model.fit(*data, batch_size=12, shuffle=False, verbose=0, **weights).history
    change = np.concatenate([w.ravel() for w in model.get_weights()]) - before
    return change, {name: values[0] for name, values in history.items()}


def towers_trained(n):
    """What two steps changed in two towers, and in the scales and the bias, and reported."""
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((6,)), keras.Input((6,)), keras.Input((), dtype="int32")]
    features = [keras.layers.Dense(4)(v) for v in inputs[:2]]
    for criterion in (SigLIPLoss(), CLIPLoss()):
        features = criterion(*features, ids=inputs[2])
    model = keras.Model(inputs, features)
    model.compile(keras.optimizers.SGD(0.01))
    return changed_by_fit(model, [Y_PRED[:n, 0], Y_PRED[:n, 1], LABELS[:n].astype("int32")])


def assert_same(one, several):
    (wanted, report), (got, reported) = one, several
    assert np.linalg.norm(got) / np.linalg.norm(wanted) == pytest.approx(1.0, abs=1e-5)
    assert got @ wanted / np.linalg.norm(got) / np.linalg.norm(wanted) == pytest.approx(
        1.0, abs=1e-6
    )
    assert reported == pytest.approx(report, rel=1e-5)


def strategy(replicas):
    import tensorflow as tf

    # Without collectives, which TensorFlow cannot regroup from two to four in one process.
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


cases = pytest.mark.parametrize(("loss", "weights", "replicas"), [
    (FMICLLoss(), None, 2),
    (FMICLLoss(divergence="js", negatives="all", implementation="dense"), None, 4),
    (FMICLLoss(reduction="mean_with_sample_weight"), WEIGHTS, 4),
    (InfoNCELoss(), WEIGHTS, 2),
    (FMICLLoss(negatives="all", ids_from_targets=True), None, 4),
    (FMICLLoss(ids_from_targets=True), WEIGHTS, 2),
], ids=["tiled", "dense", "mean of weights", "InfoNCE, weights", "labels, views",
        "labels, views, weights"])  # fmt: skip


@only("tensorflow", "strategies are TensorFlow's")
def test_two_replicas_train_on_the_union_batch():
    """A last batch of 11 is shared unevenly."""
    loss = FMICLLoss(negatives="all", ids_from_targets=True)
    one = trained(loss, None, 23, measured=False)
    with strategy(2).scope():
        assert_same(one, trained(loss, None, 23, measured=False))


@pytest.mark.slow  # each replica has a graph of its own
@only("tensorflow", "strategies are TensorFlow's")
@cases
def test_mirrored_replicas_train_on_the_union_batch(loss, weights, replicas):
    """A last batch of 11 is shared unevenly."""
    one = trained(loss, weights, 23)
    with strategy(replicas).scope():
        assert_same(one, trained(loss, weights, 23))


@only("tensorflow", "strategies are TensorFlow's")
@pytest.mark.parametrize(
    ("n", "weights"), [(15, None), (13, WEIGHTS)], ids=["one on a replica", "one in all"]
)
def test_a_replica_may_hold_one_row_and_the_union_too(n, weights):
    """A last batch of 3 for two replicas has negatives, one of 1 has none and counts as zero."""
    one = trained(FMICLLoss(), weights, n)
    with strategy(2).scope():
        assert_same(one, trained(FMICLLoss(), weights, n))


@only("tensorflow", "strategies are TensorFlow's")
@pytest.mark.many_compilations
def test_the_layers_of_two_towers_see_the_union_of_the_replicas(recwarn):
    one = towers_trained(23)
    with strategy(2).scope():
        assert_same(one, towers_trained(23))
    assert not [w for w in recwarn if "`clip_loss`" in str(w.message)]


@pytest.fixture
def sharded():
    """A function that lets Keras share batches among so many devices of JAX."""
    yield lambda replicas: keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=keras.distribution.list_devices()[:replicas])
    )
    keras.distribution.set_distribution(None)


@only("jax", "keras.distribution needs JAX")
@cases
def test_sharded_batches_train_on_the_union_batch(sharded, loss, weights, replicas):
    one = trained(loss, weights, 24)
    sharded(replicas)
    assert_same(one, trained(loss, weights, 24))


@only("jax", "keras.distribution needs JAX")
def test_a_step_in_jax_shares_the_loss_out_among_the_devices(sharded):
    """A batch that they cannot share equally is computed whole."""
    import jax

    sharded(2)
    for rows, shared in ((24, True), (23, False)):
        program = jax.make_jaxpr(lambda views: FMICLLoss()(None, views))(Y_PRED[:rows])
        assert ("shard_map" in str(program)) == shared


@only("jax", "keras.distribution needs JAX")
@pytest.mark.many_compilations
def test_the_layers_of_two_towers_see_sharded_batches_whole(sharded):
    one = towers_trained(24)
    sharded(2)
    assert_same(one, towers_trained(24))
