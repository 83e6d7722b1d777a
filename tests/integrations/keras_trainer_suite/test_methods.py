"""MoCo and MoCo v3 in Keras are the methods of their papers."""

import os
from functools import partial

import keras
import numpy as np
import pytest
from keras import ops

from fmicl_core.objective import AUTO
from fmicl_keras import MoCo, MoCoV3, SimCLR, build_encoder, build_method
from fmicl_keras.backend import library
from fmicl_keras.build import state
from fmicl_keras.layers import has_batch_norm
from fmicl_keras.vit import PATCHES
from fmicl_recipes.choices import ALPHA_STRENGTHS
from fmicl_recipes.draws import initial_queue
from fmicl_recipes.momentum import ema_schedule

BACKEND = os.environ["KERAS_BACKEND"]
MOMENTUM = ("moco", "moco-v3")
STEPS = 10
#: Of what Keras computes alike on every backend: in short on the one that compiles nothing.
once = pytest.mark.many_compilations


@pytest.fixture(scope="session")
def build(tiny, numpy):
    """A method whose queries have moved away from their keys, as by the optimiser, and images."""

    def make(method, **options):
        model = build_method(tiny(method, **options), (8, 8, 1), STEPS)
        images = np.random.default_rng(1).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
        draw = np.random.default_rng(2)
        for weight, value in zip(
            model.trainable_weights, numpy(model.trainable_weights), strict=True
        ):
            weight.assign(value + 0.1 * draw.standard_normal(value.shape))
        return model, images

    return make


def step_of(model, images):
    """One step without the optimiser: what the loss compared, and the loss."""
    features = model(images, training=True)
    return ops.convert_to_numpy(features), float(model.compute_loss(y_pred=features))


def public_loss(loss, method):
    """The backend's public function with the method's weight of the negatives."""
    if loss == "fmicl":
        return partial(library().fmicl_loss, alpha=AUTO, strength=ALPHA_STRENGTHS[method])
    return library().info_nce_loss


@pytest.mark.skipif(BACKEND != "torch", reason="compiles nothing there; the same on every backend")
@pytest.mark.parametrize("kind", [SimCLR, MoCo, partial(MoCoV3, steps=12)])
def test_a_method_is_made_by_keywords_and_trains_by_fit_alone(kind):
    """Any encoder, loss and views, without settings and without a run folder."""
    encoder = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(16)]
    )
    before = encoder.get_weights()[0]
    loss = library().FMICLLoss(negatives="cross")
    model = kind(encoder, 16, loss, keras.layers.Dropout(0.1), projection_hidden=32,
                 projection_dim=24)  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 3), dtype=np.uint8)
    model.compile(keras.optimizers.Adam(1e-3))
    history = model.fit(images, batch_size=16, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert model(images[:8]).shape[::2] == (8, 24)
    assert not np.array_equal(encoder.get_weights()[0], before)


# The momentum encoder


@pytest.mark.parametrize("method", MOMENTUM)
def test_the_key_network_follows_exactly_before_the_keys_are_made(method, build, numpy):
    model, images = build(method, **({"bn_splits": 1} if method == "moco" else {}))
    if method == "moco-v3":
        model.step.assign(3)
    pairs = [(model.key_encoder, model.encoder), (model.key_head, model.head)]
    before = [(numpy(slow.weights), numpy(fast.weights)) for slow, fast in pairs]
    v1, v2 = model.views(images)
    keys = model.compare(v1, v2, training=True)[:, 1]
    m = np.float32(0.99 if method == "moco" else ema_schedule(0.99, 3, STEPS))
    for (key, _), (slow, fast) in zip(pairs, before, strict=True):
        for weight, after, a, b in zip(key.weights, numpy(key.weights), slow, fast, strict=True):
            if "moving" not in weight.path:
                np.testing.assert_allclose(after, m * a + (1 - m) * b, rtol=1e-6, atol=1e-8)
                assert not np.array_equal(a, b)
    np.testing.assert_allclose(*numpy([keys, model.key(v2, True)]), rtol=1e-4, atol=1e-5)


def gradient_sizes(model, images):
    """Largest derivative of the loss with respect to every variable, by its path."""
    variables = [v for v in state(model) if "float" in v.dtype]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([v.value for v in variables])
            loss = model.compute_loss(y_pred=model(images, training=True))
        found = tape.gradient(loss, [v.value for v in variables])
    elif BACKEND == "torch":
        model.compute_loss(y_pred=model(images, training=True)).backward()
        found = [v.value.grad for v in variables]
    else:
        import jax

        index = {id(v): i for i, v in enumerate(variables)}

        def loss_of(values):
            def pick(group):
                return [values[index[id(v)]] if id(v) in index else v.value for v in group]

            trained, rest = pick(model.trainable_variables), pick(model.non_trainable_variables)
            features, rest = model.stateless_call(trained, rest, images, training=True)
            return model.stateless_compute_loss(trained, rest, [], y_pred=features)[0]

        found = jax.grad(loss_of)([v.value for v in variables])
    sizes = [0.0 if g is None else float(ops.max(ops.abs(g))) for g in found]
    return list(zip(variables, sizes, strict=True))


@pytest.mark.parametrize("method", MOMENTUM)
def test_no_gradient_reaches_keys_queue_or_key_network(method, build):
    model, images = build(method)
    key_weights = {id(w) for net in (model.key_encoder, model.key_head) for w in net.weights}
    sizes = gradient_sizes(model, images)
    trained = {id(w) for w in model.trainable_weights}
    assert not trained & key_weights
    for variable, size in sizes:
        assert (size > 0) <= (id(variable) in trained), variable.path
    assert sum(size > 0 for _, size in sizes) > 0.8 * len(trained)  # biases before norms have none
    assert sum(id(v) in key_weights for v, _ in sizes) == len(key_weights)


def test_key_norms_keep_statistics_of_their_own(build, numpy):
    model, images = build("moco")
    for _ in range(2):
        step_of(model, images)
    own, key = (
        numpy(w for w in net.weights if "moving_mean" in w.path)[0]
        for net in (model.encoder, model.key_encoder)
    )
    assert abs(key).max() > 0
    assert not np.allclose(own, key)


# MoCo's queue


def test_the_queue_is_what_writing_one_key_after_another_gives(build, numpy):
    """With the label of every key, -1 for the random rows at first."""
    model, _ = build("moco", queue_size=10, supervised=True)
    expected, labels, place = initial_queue(10, 8, seed=0), [-1] * 10, 0
    np.testing.assert_array_equal(numpy([model.queue])[0], expected)
    for number, count in enumerate([4, 3, 7, 25, 1, 12, 10]):
        keys = np.random.default_rng(number).standard_normal((count, 8)).astype(np.float32)
        given = (100 * number + np.arange(count)).astype(np.int32)
        model.enqueue(ops.convert_to_tensor(keys), ops.convert_to_tensor(given))
        for key, label in zip(keys, given, strict=True):
            expected[place], labels[place] = key / np.linalg.norm(key), label
            place = (place + 1) % 10
        np.testing.assert_allclose(numpy([model.queue])[0], expected, rtol=1e-5)
        assert numpy([model.queue_labels])[0].tolist() == labels
        assert int(model.pointer) == place


@pytest.mark.parametrize("loss", ["fmicl", "info-nce"])
def test_supervised_moco_keeps_the_labels_of_its_keys(loss, build, numpy):
    model, images = build("moco", loss=loss, supervised=True)
    for step in range(2):
        bank, bank_ids = map(ops.convert_to_tensor, numpy([model.queue, model.queue_labels]))
        labels = ops.convert_to_tensor(((np.arange(64) + step) % 5).astype(np.int32))
        features = model(images, training=True)
        value = float(model.compute_loss(y=labels, y_pred=features))
        pair = {"ids": labels, "bank_ids": bank_ids}
        want = public_loss(loss, "moco")(features[:, 0], features[:, 1], bank=bank, **pair)
        assert value == pytest.approx(float(want), rel=1e-5)
    kept, labels, before = numpy([model.queue_labels, labels, bank_ids])
    assert kept[:28].tolist() == labels[36:].tolist()  # 128 keys in 100 slots
    assert sorted(set(before.tolist())) == [-1, 0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("loss", "views", "supervised"),
    [("fmicl", 2, True), ("info-nce", 4, False), ("fmicl", 4, False), ("info-nce", 3, True)],
)
def test_simclr_says_by_ids_which_views_and_images_belong_together(loss, views, supervised, build):
    model, images = build("simclr", loss=loss, views=views, supervised=supervised)
    features = model(images, training=True)
    assert features.shape == (64, views, 8)
    labels = ops.convert_to_tensor((np.arange(64) % 5).astype(np.int32))
    value = float(model.compute_loss(y=labels, y_pred=features))  # left aside if not supervised
    of = partial(public_loss(loss, "simclr"), negatives="all")
    every = [features[:, view] for view in range(views)]
    ids = labels if supervised else ops.arange(64, dtype="int32")
    rows = every if views == 2 else [ops.concatenate(every)]
    want = of(*rows, ids=ids if views == 2 else ops.tile(ids, views))
    assert value == pytest.approx(float(want), rel=1e-5)
    if supervised:
        with pytest.raises(ValueError, match=r"`labels`. Expected labels of the images, \(N,\)"):
            model.compute_loss(y_pred=features)


@pytest.mark.parametrize("loss", ["fmicl", "info-nce"])
def test_moco_takes_its_negatives_from_the_queue_and_enters_the_keys_after(loss, build, numpy):
    model, images = build("moco", loss=loss)
    queue = numpy([model.queue])[0]
    features, value = step_of(model, images)
    q, k, bank = map(ops.convert_to_tensor, (features[:, 0], features[:, 1], queue))
    of = public_loss(loss, "moco")
    assert value == pytest.approx(float(of(q, k, bank=bank)), rel=1e-5)
    after = numpy([model.queue])[0]
    lengths = np.linalg.norm(features[:, 1], axis=1, keepdims=True)
    np.testing.assert_allclose(after[:64], features[:, 1] / lengths, rtol=1e-5)
    np.testing.assert_array_equal(after[64:], queue[64:])
    model.compute_loss(y_pred=model(images, training=False), training=False)
    np.testing.assert_array_equal(after, numpy([model.queue])[0])  # evaluation leaves it alone


# Batch norm must not give the key away


def record_parts(model):
    """Let `model.key` return its input, and note the parts it got."""
    parts = []

    def seen(view, training):
        flat = ops.reshape(view, (view.shape[0], -1))
        parts.append(ops.convert_to_numpy(flat).ravel().tolist())
        return flat

    object.__setattr__(model, "key", seen)
    return parts


def test_keys_are_encoded_in_other_groups_than_their_queries(build, numpy):
    model, _ = build("moco")
    number = ops.reshape(ops.arange(64, dtype="float32"), (64, 1, 1, 1))
    keys = record_parts(model)
    out = model.shuffled_keys(number, training=True)
    np.testing.assert_array_equal(numpy([out])[0], np.arange(64.0)[:, None])  # put back in place
    queries = [numpy([part])[0].ravel().tolist() for part in model.parts(number)]
    assert [len(part) for part in keys] == [len(part) for part in queries] == [16] * 4
    assert sorted(np.concatenate(keys)) == np.concatenate(queries).tolist()
    shared = [len(set(k) & set(q)) for k in keys for q in queries]
    assert max(shared) < 12  # a query's group is spread over the groups of the keys
    model.shuffled_keys(number, training=True)
    assert keys[:4] != keys[4:]


def test_parts_have_statistics_of_their_own_and_any_size(build, numpy):
    model, images = build("moco", bn_splits=3)
    v1, v2 = model.views(images)
    q = model.compare(v1, v2, training=True)[:, 0]
    parts = [model.query(v1[a:b], True) for a, b in ((0, 21), (21, 42), (42, 64))]
    np.testing.assert_allclose(*numpy([q, ops.concatenate(parts)]), rtol=1e-5, atol=1e-6)
    assert not np.allclose(*numpy([q, model.query(v1, True)]), atol=1e-3)


@once
def test_methods_without_batch_norm_are_not_split(build):
    model, images = build("moco", encoder="vit-s6", head_norm="none")
    assert not has_batch_norm(model)
    assert len(model.parts(images)) == 1
    assert has_batch_norm(build_encoder("smallconv", (8, 8, 1), 4))


@once
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_mocos_head_ends_in_a_norm_or_as_in_the_paper(norm, build):
    model, images = build("moco", head_norm=norm)
    q = step_of(model, images)[0][:, 0]
    assert (abs(q[:16].mean(axis=0)).max() < 1e-5) == (norm == "batch")


# MoCo v3


@pytest.mark.parametrize("loss", ["fmicl", "info-nce"])
def test_moco_v3_predicts_the_keys_of_the_other_view(loss, build, numpy):
    model, images = build("moco-v3", loss=loss)
    v1, v2 = model.views(images)
    features = model.compare(v1, v2, training=True)
    q1, q2 = (model.predictor(model.query(v, True), training=True) for v in (v1, v2))
    k1, k2 = (model.key(v, True) for v in (v1, v2))
    np.testing.assert_allclose(
        *numpy([features, ops.stack([q1, k2, q2, k1], axis=1)]), rtol=1e-4, atol=1e-5
    )
    of = public_loss(loss, "moco-v3")
    want = of(q1, k2, negatives="cross") + of(q2, k1, negatives="cross")
    assert float(model.compute_loss(y_pred=features)) == pytest.approx(float(want), rel=1e-5)


@once
def test_projector_and_predictor_have_the_layers_of_the_paper(build):
    model, _ = build("moco-v3")
    for mlp, linear, norms in ((model.head, 3, 3), (model.predictor, 2, 2)):
        kinds = [type(layer).__name__ for layer in mlp.layers]
        assert kinds.count("Dense") == linear
        assert kinds.count("BatchNorm") == norms
        assert kinds[-1] == "BatchNorm"
        assert not mlp.layers[-1].scale
        assert not mlp.layers[-1].center


@once
@pytest.mark.parametrize(
    ("method", "patch_projection", "frozen"),
    [("moco-v3", "frozen", True), ("moco-v3", "learned", False), ("moco", "frozen", False)],
)
def test_only_moco_v3_freezes_the_patch_projection(method, patch_projection, frozen, build, numpy):
    model, _ = build(method, encoder="vit-s6", patch_projection=patch_projection)
    trained = [w for w in model.trainable_weights if PATCHES in w.path]
    assert len(trained) == (0 if frozen else 2)
    before = numpy(model.key_encoder.get_layer(PATCHES).weights)
    model.follow(0.0)
    after = numpy(model.key_encoder.get_layer(PATCHES).weights)
    assert all(np.array_equal(a, b) == frozen for a, b in zip(before, after, strict=True))
