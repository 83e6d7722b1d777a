"""SimCLR, MoCo and MoCo v3 in Flax are the methods of their papers, learn, and resume exactly."""

import dataclasses
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

jax = pytest.importorskip("jax", reason="the Flax trainer needs JAX")
pytest.importorskip("flax", reason="the Flax trainer needs Flax")
pytest.importorskip("optax", reason="the Flax trainer needs Optax")
pytest.importorskip("orbax.checkpoint", reason="the Flax trainer needs Orbax")

import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402
from flax import nnx  # noqa: E402

from fmicl_core.objective import AUTO  # noqa: E402
from fmicl_flax import (  # noqa: E402
    MethodTrainer,
    MoCo,
    SimCLR,
    build_encoder,
    build_loss,
    build_method,
    features,
    load_encoder,
)
from fmicl_flax.checkpoints import STORE, Saver, load_checkpoint, save_checkpoint  # noqa: E402
from fmicl_flax.clock import Clock  # noqa: E402
from fmicl_flax.compiled import encode, train_step  # noqa: E402
from fmicl_flax.encoders import feature_width  # noqa: E402
from fmicl_flax.layers import UNIFORM, convolve, draw_kernel  # noqa: E402
from fmicl_flax.moco import Queue  # noqa: E402
from fmicl_flax.optimizers import build_optimizer, is_weight, warmup_cosine  # noqa: E402
from fmicl_flax.split_batch_norm import in_parts  # noqa: E402
from fmicl_jax import fmicl_loss, info_nce_loss  # noqa: E402
from fmicl_recipes import RunFolder, resolve  # noqa: E402
from fmicl_recipes.choices import ALPHA_STRENGTHS, LOSSES, METHODS  # noqa: E402
from fmicl_recipes.data import ImageData, StoredImages, load_images  # noqa: E402
from fmicl_recipes.draws import epoch_batches, initial_queue, key_order  # noqa: E402
from fmicl_recipes.evaluation import knn_accuracy  # noqa: E402
from fmicl_recipes.history import knn  # noqa: E402
from fmicl_recipes.momentum import ema_schedule  # noqa: E402
from fmicl_recipes.run import evaluate_run  # noqa: E402
from fmicl_recipes.settings import TrainSettings  # noqa: E402
from fmicl_recipes.stopping import NonFiniteLossError, NotSaved, Preempted  # noqa: E402

MOMENTUM = ("moco", "moco-v3")
#: The weight of the negatives in both.
WEIGHT = {"alpha": AUTO, "strength": ALPHA_STRENGTHS["moco"]}
#: What a row of the history says of the time that an epoch took.
TIMES = {"images_per_second": 0, "data_wait": 0}
DEVICES = Path(__file__).parent / "ranks" / "flax_devices.py"
#: One shape of everything, so that XLA compiles little.
SMALL = {"width": 8, "batch_size": 64, "limit": 256, "epochs": 3, "warmup_epochs": 1,
         "projection_hidden": 16, "projection_dim": 8}  # fmt: skip
#: What each method takes to learn the digits in seconds.
LEARNS = {
    "simclr": {"alpha": 10.0},
    "moco": {"queue_size": 500, "supervised": True},
    "moco-v3": {"ema": 0.9},
}


def options(method, **more):
    return resolve("digits", {"method": method, "framework": "jax", "device": "cpu", **more})


def tiny(method, **more):
    queue = {"queue_size": 100} if method == "moco" else {}
    return options(method, **{**SMALL, **queue, **more})


def equal(a, b):
    """Whether two states are equal to the last bit."""
    a, b = (dict(nnx.to_flat_state(state)) for state in (a, b))
    return a.keys() == b.keys() and all(np.array_equal(a[k][...], b[k][...]) for k in a)


def draw(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


# One step of the methods with a momentum encoder


@partial(jax.jit, static_argnames="graph")
def contrast(graph, state, v1, v2, plan):
    """State after the step, what it returned, and its gradient in all that is a number."""
    method = nnx.merge(graph, state)

    def loss_of(method):
        loss, q, k = method.contrast(v1, v2, **plan)
        return loss, (q, k)

    everything = nnx.DiffState(0, nnx.Any(nnx.Param, lambda path, x: path == ("queue",)))
    (loss, (q, k)), grads = nnx.value_and_grad(loss_of, argnums=everything, has_aux=True)(method)
    return nnx.state(method), loss, q, k, grads


@partial(jax.jit, static_argnames=("graph", "name"))
def call(graph, state, name, *arrays):
    """A function of a method or of one of its networks, applied to arrays."""
    target = nnx.merge(graph, state, copy=True)
    for part in name.split("."):
        target = getattr(target, part)
    return target(*arrays)


class Step:
    """A step of a method whose queries have moved away from their copies."""

    def __init__(self, method):
        self.method = build_method(tiny(method), (8, 8, 1))
        key = jax.random.key(1)
        moved = jax.tree.map(
            lambda w: w + 0.1 * jax.random.normal(key, w.shape),
            nnx.state(self.method, self.method.trained),
        )
        nnx.update(self.method, moved)
        self.graph, self.before = nnx.split(self.method)
        self.v1, self.v2 = draw((64, 8, 8, 1), 1), draw((64, 8, 8, 1), 2)
        self.plan = self.method.plan(3, 10, 64)
        self.after, self.loss, self.q, self.k, self.gradient = contrast(
            self.graph, self.before, self.v1, self.v2, self.plan
        )

    def call(self, name, *arrays):
        return call(self.graph, self.after, name, *arrays)


step_of = cache(Step)


@pytest.mark.parametrize("method", MOMENTUM)
def test_the_key_network_follows_exactly_before_the_keys_are_made(method):
    step = step_of(method)
    m = 0.99 if method == "moco" else ema_schedule(0.99, 3, 10)
    for part in ("encoder", "head"):
        slow, fast, after = (
            jax.tree.leaves(nnx.filter_state(state[name], nnx.Param))
            for state, name in ((step.before, f"key_{part}"), (step.before, part),
                                (step.after, f"key_{part}"))
        )  # fmt: skip
        assert len(slow) == len(fast) > 0
        for a, b, c in zip(slow, fast, after, strict=True):
            want = m * np.float64(a) + (1.0 - m) * np.float64(b)
            np.testing.assert_allclose(c, want, rtol=3e-7, atol=1e-8)
    made_by_new = step.call("keys", step.v2, step.plan["order"]) if method == "moco" else (
        step.call("key", step.v2))  # fmt: skip
    np.testing.assert_allclose(step.k, made_by_new, rtol=1e-4, atol=1e-5)
    old = nnx.State(dict(step.before))
    assert not np.allclose(call(step.graph, old, "key", step.v2), step.k, atol=1e-4)


@pytest.mark.parametrize("method", MOMENTUM)
def test_no_gradient_reaches_keys_queue_or_key_network(method):
    step = step_of(method)
    flat = {path: np.abs(g[...]).max() for path, g in nnx.to_flat_state(step.gradient)}
    slow = {path for path in flat if path[0] in ("key_encoder", "key_head")}
    assert slow
    assert all(flat[path] == 0.0 for path in slow)
    assert all(flat[path] > 0.0 for path in flat if path[0] == "encoder")
    if method == "moco":  # negatives count in the loss, but not their slope
        of = build_loss(tiny("moco"))
        bank = jax.jit(jax.grad(lambda bank: of(step.q, step.k, bank=bank)))
        assert np.abs(bank(step.before["queue"][...])).max() > 0.0
    trained = {
        path[0] for path, _ in nnx.to_flat_state(nnx.state(step.method, step.method.trained))
    }
    assert trained == {"encoder", "head"} | ({"predictor"} if method == "moco-v3" else set())


def test_key_norms_keep_statistics_of_their_own():
    step = step_of("moco")
    own, key = (step.after[name]["layers"][0]["norm"]["mean"][...] for name in
                ("encoder", "key_encoder"))  # fmt: skip
    assert np.abs(key).max() > 0
    assert not np.allclose(own, key)


# MoCo's queue and parts


def test_moco_takes_its_negatives_from_the_queue_and_enters_the_keys_after():
    step = step_of("moco")
    queue = step.before["queue"][...]
    np.testing.assert_array_equal(queue, initial_queue(100, 8, seed=0))
    np.testing.assert_allclose(
        step.loss, fmicl_loss(step.q, step.k, bank=queue, **WEIGHT), rtol=1e-5
    )
    unit = step.k / np.linalg.norm(step.k, axis=1, keepdims=True)
    np.testing.assert_allclose(step.after["queue"][:64], unit, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(step.after["queue"][64:], queue[64:])
    assert step.after["oldest"][...] == 64


#: Compiled once for each number of keys.
enqueue = nnx.jit(MoCo.enqueue)


@given(counts=st.lists(st.sampled_from([1, 4, 7, 25]), min_size=1, max_size=6))
def test_the_queue_is_what_writing_one_key_after_another_gives(counts):
    """With the label of every key."""
    method = nnx.clone(step_of("moco").method)
    method.queue, method.oldest = Queue(draw((10, 8))), Queue(jnp.zeros((), jnp.int32))
    method.queue_labels = Queue(jnp.full(10, -1, jnp.int32))
    expected, labels, place = np.array(method.queue[...]), [-1] * 10, 0
    for number, count in enumerate(counts):
        keys = draw((count, 8), number)
        enqueue(method, keys, 100 * number + np.arange(count, dtype=np.int32))
        for i, key in enumerate(np.asarray(keys)):
            expected[place], labels[place] = key / np.linalg.norm(key), 100 * number + i
            place = (place + 1) % 10
    np.testing.assert_allclose(method.queue[...], expected, rtol=1e-5, atol=1e-6)
    assert method.queue_labels[...].tolist() == labels
    assert method.oldest[...] == place


# More views, and labels


class Plain(nnx.Module):
    """In the place of an encoder: the pixels."""

    def __call__(self, view):
        return view.reshape(len(view), -1)


@pytest.mark.parametrize(
    ("loss", "views", "supervised"),
    [("fmicl", 2, True), ("info-nce", 4, False)],
)
def test_simclr_says_by_ids_which_views_and_images_belong_together(loss, views, supervised):
    of = build_loss(tiny("simclr", loss=loss))
    method = SimCLR(Plain(), 9, of, None, projection_hidden=8, projection_dim=4, views=views,
                    supervised=supervised, rngs=nnx.Rngs(0))  # fmt: skip
    assert method.view_count == views
    drawn, labels = draw((views, 16, 3, 3, 1)), jnp.arange(16) % 5
    value, x, y = nnx.jit(SimCLR.contrast)(
        method, *drawn, **({"ids": labels} if supervised else {})
    )
    every = nnx.jit(SimCLR.query)(method, drawn.reshape(-1, 3, 3, 1))
    np.testing.assert_allclose(jnp.concatenate([x, y]), every[:32], rtol=1e-5, atol=1e-6)
    ids = labels if supervised else jnp.arange(16)
    of = jax.jit(of)
    want = of(x, y, ids=ids) if views == 2 else of(every, ids=jnp.tile(ids, views))
    np.testing.assert_allclose(value, want, rtol=1e-5)


def test_two_views_without_labels_are_two_arrays_and_nothing_else():
    """A loss of one's own needs no ids; a supervised method needs them."""
    make = partial(SimCLR, Plain(), 9, lambda x, y: jnp.mean((x - y) ** 2), None,
                   projection_hidden=8, projection_dim=4, rngs=nnx.Rngs(0))  # fmt: skip
    assert np.isfinite(make().contrast(*draw((2, 16, 3, 3, 1)))[0])
    with pytest.raises(ValueError, match=r"`labels`. Expected labels of the images, \(N,\), as th"):
        make(supervised=True).contrast(*draw((2, 16, 3, 3, 1)))


def test_supervised_moco_keeps_the_labels_of_its_keys():
    of = build_loss(tiny("moco"))
    method = MoCo(Plain(), 9, of, None, projection_hidden=8, projection_dim=4, queue_size=24,
                  head_norm="none", supervised=True, rngs=nnx.Rngs(0))  # fmt: skip
    v1, v2 = draw((2, 16, 3, 3, 1))
    run = nnx.jit(MoCo.contrast)
    for step in range(2):
        bank, bank_ids = method.queue[...], method.queue_labels[...]
        labels = (jnp.arange(16) + step) % 5
        value, q, k = run(method, v1, v2, ids=labels)
        want = jax.jit(of)(q, k, bank=bank, ids=labels, bank_ids=bank_ids)
        np.testing.assert_allclose(value, want, rtol=1e-5)
    assert method.queue_labels[:8].tolist() == labels[8:].tolist()  # 32 keys in 24 slots
    assert sorted(set(bank_ids.tolist())) == [-1, 0, 1, 2, 3, 4]


def test_keys_are_encoded_in_other_groups_than_their_queries():
    step = step_of("moco")
    order = step.plan["order"]
    np.testing.assert_array_equal(order, key_order(64, 0, 3))
    for start in range(0, 64, 16):  # a group has the statistics of its own images alone
        group = order[start : start + 16]
        alone = step.call("key", step.v2[group])
        np.testing.assert_allclose(step.k[group], alone, rtol=1e-3, atol=1e-4)
    assert not np.array_equal(order, step.method.plan(4, 10, 64)["order"])


def test_parts_have_statistics_of_their_own_and_any_size():
    images = draw((21, 8, 8, 1))
    both, each = (nnx.clone(step_of("moco").method) for _ in range(2))
    want = [nnx.jit(MoCo.query)(each, part) for part in (images[:11], images[11:])]
    got = nnx.jit(lambda net, x: in_parts(net.encoder, net.head, x, 2))(both, images)
    np.testing.assert_allclose(got, np.concatenate(want), rtol=1e-3, atol=1e-4)
    norms = [(net.encoder.layers[0].norm, net.head.layers[-1]) for net in (both, each)]
    for own, other in zip(*norms, strict=True):
        np.testing.assert_allclose(own.mean[...], other.mean[...], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(own.var[...], other.var[...], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("encoder", "head_norm", "parts"),
    [("vit-s6", "none", 1), ("vit-s6", "batch", 4), ("smallconv", "none", 4)],
)
def test_networks_without_batch_norm_are_not_split(encoder, head_norm, parts):
    settings = tiny("moco", encoder=encoder, head_norm=head_norm)
    method = nnx.eval_shape(lambda: build_method(settings, (8, 8, 1)))
    assert method.parts == parts
    assert list(method.plan(0, 10, 64)) == ["order"] * (parts > 1)
    assert isinstance(method.head.layers[-1], nnx.BatchNorm) == (head_norm == "batch")


# MoCo v3


def test_moco_v3_predicts_the_keys_of_the_other_view():
    step = step_of("moco-v3")
    q2, k1 = step.call("predictor", step.call("query", step.v2)), step.call("key", step.v1)
    options = {"negatives": "cross", **WEIGHT}
    want = fmicl_loss(step.q, step.k, **options) + fmicl_loss(q2, k1, **options)
    np.testing.assert_allclose(step.loss, want, rtol=1e-4)
    q1 = step.call("predictor", step.call("query", step.v1))
    np.testing.assert_allclose(step.q, q1, rtol=1e-3, atol=1e-4)


def test_projector_and_predictor_have_the_layers_of_the_paper():
    method = step_of("moco-v3").method
    for mlp, count in ((method.head, 3), (method.predictor, 2)):
        assert [type(layer) for layer in mlp.layers].count(nnx.Linear) == count
        norms = [layer for layer in mlp.layers if isinstance(layer, nnx.BatchNorm)]
        assert [norm.use_scale for norm in norms] == [True] * (count - 1) + [False]
        assert mlp.layers[-1] is norms[-1]


@pytest.mark.parametrize(
    ("method", "patch_projection", "frozen"),
    [("moco-v3", "frozen", True), ("moco-v3", "learned", False), ("moco", "frozen", False)],
)
def test_only_moco_v3_freezes_the_patch_projection(method, patch_projection, frozen):
    settings = tiny(method, encoder="vit-s6", patch_projection=patch_projection)
    module = nnx.eval_shape(lambda: build_method(settings, (8, 8, 1)))
    trained = {path[:2] for path, _ in nnx.to_flat_state(nnx.state(module, module.trained))}
    assert (("encoder", "patches") not in trained) == frozen
    assert ("encoder", "token") in trained


# Optimiser and schedule


def test_lars_moves_by_hand():
    """Two steps of a weight and of a bias, against the update written out in NumPy."""
    lars = build_optimizer("lars", 0.5, 0.9, 0.1, 10, 0)
    params = {"kernel": jnp.array([[3.0, 4.0]]), "bias": jnp.ones(2)}
    w, b, v, u, state = np.array([[3.0, 4.0]]), np.ones(2), 0.0, 0.0, lars.init(params)
    for t, g in enumerate((np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]]))):
        gradient = {"kernel": jnp.asarray(g, jnp.float32), "bias": jnp.array([0.5, -0.5])}
        change, state = lars.update(gradient, state, params)
        params = optax.apply_updates(params, change)
        d = g + 0.1 * w
        v = 0.9 * v + d * 1e-3 * np.linalg.norm(w) / np.linalg.norm(d)
        u = 0.9 * u + np.array([0.5, -0.5])
        rate = 0.25 * (1.0 + np.cos(np.pi * t / 10))
        w, b = w - rate * v, b - rate * u
    np.testing.assert_allclose(params["kernel"], w, rtol=1e-6)
    np.testing.assert_allclose(params["bias"], b, rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 4])
def test_the_rate_warms_up_and_falls_by_a_cosine(warmup):
    t = np.arange(21)
    ramp = 2.0 * (1.0 + (warmup - 1) * t / max(warmup, 1)) / max(warmup, 1)
    cosine = 1.0 + np.cos(np.pi * (t - warmup) / (20 - warmup))
    rates = warmup_cosine(2.0, 20, warmup)(t)
    np.testing.assert_allclose(rates, np.where(t < warmup, ramp, cosine), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("encoder", ["smallconv", "vit-s6"])
def test_weight_decay_leaves_norms_and_biases_out(encoder):
    module = nnx.eval_shape(lambda: build_method(tiny("moco-v3", encoder=encoder), (8, 8, 1)))
    decided = nnx.to_flat_state(is_weight(nnx.state(module, module.trained)))
    for path, decayed in decided:
        assert decayed.get_value() == (path[-1] == "kernel"), path


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_weight_decay_shrinks_weights_alone(name):
    tx = build_optimizer(name, 0.5, 0.9, 0.1, 10, 0)
    params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2), "bias": jnp.ones((2, 2))}
    still = jax.tree.map(jnp.zeros_like, params)
    change, _ = tx.update(still, tx.init(params), params)
    assert (change["kernel"] < 0).all()
    assert not change["scale"].any()
    assert not change["bias"].any()


# Encoders and views


def count(encoder):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(encoder, nnx.Param)))


def abstract(name, channels, width, **more):
    return nnx.eval_shape(lambda: build_encoder(name, channels, width, rngs=nnx.Rngs(0), **more))


@pytest.mark.parametrize("name", ["resnet18", "smallconv", "vit-s6", "vit-s12"])
def test_encoders_are_those_of_lightning(name, require):
    torch, lightning = require("torch"), require("fmicl_lightning")
    with torch.device("meta"):
        theirs = lightning.build_encoder(name, 3, 64)
    ours = abstract(name, 3, 64)
    assert count(ours) == sum(weight.numel() for weight in theirs.parameters())
    assert feature_width(ours, (32, 32, 3)) == (384 if name.startswith("vit") else 512)


def test_resnet18_and_vit_s_are_the_standard_ones():
    """ResNet-18 less its classifier, with the small stem; ViT-S/16 less classifier, positions."""
    assert count(abstract("resnet18", 3, 64)) == 11_168_832
    rest = 384 * 1000 + 1000 + 197 * 384
    assert count(abstract("vit-s12", 3, 64, patch_size=16)) == 22_050_664 - rest


def test_resnet50_is_the_standard_one():
    """Less its classifier."""
    encoder = abstract("resnet50", 3, 64)
    assert count(encoder) == 23_508_032
    assert feature_width(encoder, (224, 224, 3)) == 2048


def test_resnet50_computes_what_its_paper_says(monkeypatch):
    """With the padding of PyTorch, in fewer blocks, from their weights by plain operations."""
    monkeypatch.setattr("fmicl_flax.resnet50.BLOCKS", (2, 1))
    encoder, images = build_encoder("resnet50", 3, 2, rngs=nnx.Rngs(0)), draw((4, 33, 33, 3))
    graph, state = nnx.split(encoder)

    def layer(part, x, stride, pad):
        x = jax.lax.conv_general_dilated(
            x, part["conv"]["kernel"][...], (stride, stride), [(pad, pad)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        x = x - x.mean(axis=(0, 1, 2))
        return x / jnp.sqrt((x**2).mean(axis=(0, 1, 2)) + 1e-5)

    @jax.jit
    def plain(state, x):
        x = jax.nn.relu(layer(state["stem"], x, 2, 3))
        x = jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), [(0, 0), (1, 1), (1, 1), (0, 0)]
        )
        for block, stride in enumerate((1, 1, 2)):
            part = state["blocks"][block]
            y = jax.nn.relu(layer(part["narrow"], x, 1, 0))
            y = jax.nn.relu(layer(part["middle"], y, stride, 1))
            x = layer(part["shortcut"], x, stride, 0) if "shortcut" in part else x
            x = jax.nn.relu(layer(part["widen"], y, 1, 0) + x)
        return x.mean(axis=(1, 2))

    got = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, images)
    np.testing.assert_allclose(got, plain(state, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 3, 1, 32), (70, 1000)])
def test_weights_are_those_of_the_plain_initialiser(shape):
    """To the last bit, whatever the length of the draw."""
    drawn = draw_kernel(jax.random.key(3), shape, jnp.float32)
    np.testing.assert_array_equal(drawn, UNIFORM(jax.random.key(3), shape, jnp.float32))
    traced = jax.eval_shape(lambda: draw_kernel(jax.random.key(3), shape, jnp.float32))
    assert traced.shape == shape


@pytest.mark.parametrize(("side", "size", "stride"), [(2, 3, 1), (4, 3, 2), (1, 3, 1), (6, 3, 1)])
def test_small_maps_are_convolved_all_the_same(side, size, stride):
    x, kernel = draw((2, side, side, 3)), draw((size, size, 3, 4), 1)
    where = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    given = (x, kernel, (stride, stride), ((1, 1), (1, 1)))
    want = jax.lax.conv_general_dilated(*given, **where)
    np.testing.assert_allclose(convolve(*given, **where), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda: abstract("timm:resnet50", 3, 8), r"`encoder`. Expected one of .*resnet18.*vit-s12"),
     (lambda: feature_width(abstract("vit-s6", 1, 4), (10, 8, 1)),
      r"`patch_size`. Expected a divisor of the images' sides, 10 x 8"),
     (lambda: abstract("vit-s6", 1, 3), r"`width`. Expected an even number"),
     (lambda: feature_width(nnx.Conv(1, 2, (3, 3), rngs=nnx.Rngs(0)), (8, 8, 1)),
      r"Expected a module that returns \(N, F\)"),
     (lambda: MethodTrainer(tiny("simclr", devices=64), load_images("digits", limit=64)),
      r"`devices`. Expected at most the \d+ devices that JAX sees"),
     (lambda: MethodTrainer.check(tiny("simclr", devices=64)),
      r"`devices`. Expected at most the \d+ devices that JAX sees")],
)  # fmt: skip
def test_what_does_not_fit_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_is_the_one_the_settings_name(loss):
    import fmicl_jax

    x, y = draw((16, 4)), draw((16, 4), 1)
    given = {"fmicl": {"divergence": "js", "alpha": 3.0}, "info-nce": {"temperature": 0.2},
             "siglip": {"logit_bias": -1.0}}  # fmt: skip
    got = build_loss(tiny("simclr", loss=loss, **given.get(loss, {})))(x, y)
    want = {
        "fmicl": partial(fmicl_loss, divergence="js", alpha=3.0, negatives="all"),
        "info-nce": partial(info_nce_loss, temperature=0.2),
        "dcl": partial(fmicl_jax.dcl_loss, temperature=TrainSettings.temperature),
        "siglip": partial(
            fmicl_jax.siglip_loss, logit_scale=1 / TrainSettings.temperature, logit_bias=-1.0
        ),
        "alignment-uniformity": fmicl_jax.alignment_uniformity_loss,
        "spectral": fmicl_jax.spectral_contrastive_loss,
    }[loss](x, y)
    np.testing.assert_allclose(got, want, rtol=1e-6)


# Runs


def fit(settings, folder, *, resume=False):
    trainer = MethodTrainer(settings, load_images("digits", limit=settings.limit))
    trainer.fit(folder, resume=resume, progress=False)
    return trainer


def learning(method):
    """Settings with which the method learns the digits."""
    return options(
        method, width=16, batch_size=64, epochs=15, warmup_epochs=1, knn_every=5, **LEARNS[method]
    )


class Run:
    """A finished run of a method on the digits."""

    def __init__(self, method, out):
        self.settings = learning(method)
        trainer = MethodTrainer(self.settings, load_images("digits"))
        self.random = few_labels(trainer)
        self.folder = RunFolder.create(out, self.settings)
        self.folder.keep_images((8, 8, 1))
        trainer.fit(self.folder, resume=False, progress=False)
        self.trainer = trainer


def few_labels(trainer):
    """kNN with 100 labels, where a random encoder is not yet good at digits."""
    data = trainer.data
    train, test = trainer.encode(data.train_images[:100]), trainer.encode(data.test_images)
    return knn_accuracy(train, data.train_labels[:100], test, data.test_labels, k=5)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory, give_away):
    """The finished run of a method, trained when first asked for."""

    def train(method):
        run = Run(method, tmp_path_factory.mktemp("runs") / method)
        give_away(run.folder, run.trainer)
        return run

    return cache(train)


#: MoCo has the most to keep, a queue and its labels; runs of the others compile for half a minute.
one_quick = pytest.mark.parametrize(
    "method", [m if m == "moco" else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]
)


@one_quick
def test_training_beats_the_random_encoder(run_of, method):
    run = run_of(method)
    history = run.folder.read_history()
    assert history == run.trainer.history
    assert history[-1]["loss"] < history[0]["loss"]
    assert few_labels(run.trainer) > run.random + 0.03
    assert [row["epoch"] for row in history if "knn_accuracy" in row] == [5, 10, 15]
    assert history[-1]["knn_accuracy"] == knn(run.trainer)["knn_accuracy"]
    columns = {"epoch", "step", "loss", "alignment", "uniformity", "embedding_rank"}
    assert all(columns | {"images_per_second"} <= set(row) for row in history)
    assert list((run.folder.path / "tensorboard").iterdir())


@one_quick
def test_an_interrupted_run_resumes_bit_for_bit(run_of, tmp_path, monkeypatch, method):
    whole = run_of(method)
    folder = RunFolder.create(tmp_path / "cut", whole.settings)
    save = Saver.save

    def stop(saver, folder, step, state, facts):
        save(saver, folder, step, state, facts)
        if len(facts["history"]) == 13:
            raise KeyError("power cut")

    monkeypatch.setattr(Saver, "save", stop)
    with pytest.raises(KeyError, match="power cut"):
        fit(whole.settings, folder)
    monkeypatch.undo()
    assert len(folder.read_history()) == 13
    resumed = fit(whole.settings, folder, resume=True)
    assert equal(resumed.state, whole.trainer.state)
    assert resumed.seconds > 0
    if method == "moco":  # 22 batches of 64 an epoch, 15 epochs, 500 slots
        assert resumed.method.oldest[...] == 22 * 15 * 64 % 500
        last = epoch_batches(len(resumed.data.train_labels), 64, 0, 14)[-1]
        slots = np.arange((22 * 15 - 1) * 64, 22 * 15 * 64) % 500
        kept = resumed.method.queue_labels[...][slots]
        np.testing.assert_array_equal(kept, resumed.data.train_labels[last])
    for row, want in zip(resumed.history, whole.trainer.history, strict=True):
        assert {**row, **TIMES} == {**want, **TIMES}


def stored(workers, side=8):
    """Images that stay as they are, of another size than what the encoder sees."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (256, side + 2, side + 4, 1), dtype=np.uint8)
    names = [f"picture {number}" for number in range(256)]
    images = StoredImages(pictures, names, (side, side, 1), workers)
    labels = np.arange(256) % 4
    return ImageData("stored", images, labels, images.take(np.arange(40)), labels[:40])


def asked_at(step):
    """A `stop` that says yes when it is asked before a step, from 0."""
    steps = itertools.count()
    return lambda: next(steps) == step


@pytest.mark.parametrize(
    ("method", "options", "workers"),
    [("simclr", {"views": 4}, 1),
     *(pytest.param(method, {}, 2, marks=pytest.mark.slow) for method in METHODS)],
)  # fmt: skip
def test_a_run_resumes_in_the_middle_of_an_epoch(tmp_path, monkeypatch, method, options, workers):
    """Stopped and then killed, with random crops by workers, to the last bit."""
    settings = tiny(
        method, cache="disk", augmentation="photo", checkpoint_every=5, knn_every=2, alpha="auto",
        **options,
    )  # fmt: skip

    def sitting(name, workers):
        trainer, folder = MethodTrainer(settings, stored(workers)), RunFolder(tmp_path / name)
        folder.path.mkdir(exist_ok=True)
        return trainer, partial(trainer.fit, folder, resume=True, progress=False)

    whole, train = sitting("whole", 0)
    train()
    stopped, train = sitting("cut", workers // 2)
    stopped.stop = asked_at(5)
    with pytest.raises(Preempted, match=r"the checkpoint of step 7 is written"):
        train()
    _, facts = stopped.checkpoint()
    assert [row["step"] for row in facts["history"]] == [4]
    assert len(facts["losses"]) == 3

    killed, train = sitting("cut", 0)
    monkeypatch.setattr(killed, "step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train()
    assert equal(killed.state, stopped.state)
    resumed, train = sitting("cut", workers)
    train()
    assert equal(resumed.state, whole.state)
    assert [{**row, **TIMES} for row in resumed.history] == [
        {**row, **TIMES} for row in whole.history
    ]
    assert all(0 <= row["data_wait"] <= 1 for row in resumed.history)
    assert RunFolder(tmp_path / "cut").read_history() == resumed.history
    assert [path.name for path in (tmp_path / "cut" / STORE).iterdir()] == ["step-12"]

    images = stored(0).train_images
    x, y = resumed.project(images.take(np.arange(9)))
    crops = np.stack([images[:9]] * 2, axis=1)
    for got, want in zip(resumed.project(crops), (x, y), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_devices_that_are_busy_do_not_wait_for_data():
    """Nor do they until their step ends."""

    class Running:
        def __init__(self, seconds):
            self.seconds = seconds

        def block_until_ready(self):
            time.sleep(self.seconds)

    def slow():
        while True:
            time.sleep(0.1)
            yield {}

    with closing(Clock()) as clock:
        batches, idle = slow(), []
        for seconds in (0.8, 0.05):
            clock.next(batches)
            idle.append(clock.idle)
            clock.started(Running(seconds))
        clock.next(batches)
        idle.append(clock.idle)
        assert idle[0] >= 0.1
        assert idle[1] == idle[0]
        assert idle[2] == idle[1]  # its step began when that of 0.8 s had ended
        time.sleep(1.0)
        clock.next(batches)
        assert clock.idle - idle[2] >= 0.1
        clock.lap()
        assert 0.0 < clock.idle_share < 1.0


@pytest.mark.slow
@pytest.mark.long
def test_a_command_that_is_killed_goes_on_exactly(tmp_path):
    """On images in their files, with workers; the kill comes at any moment after a checkpoint."""
    from PIL import Image

    for number in range(150):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        (tmp_path / f"images/{number % 3}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"images/{number % 3}/{number}.png")
    options = {"data": tmp_path / "images", "framework": "jax", "cache": "disk", "workers": 2,
               "image-size": 16, "encoder": "smallconv", "width": 4, "batch-size": 16,
               "epochs": 30, "checkpoint-every": 2, "device": "cpu"}  # fmt: skip
    cached = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
              "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # fmt: skip

    def start(name, *more):
        command = [sys.executable, "-m", "fmicl_cli", "train", "simclr", *more]
        command += ["--out", tmp_path / name]
        return subprocess.Popen(
            list(map(str, command)), text=True, env=os.environ | cached,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    given = [text for name, value in options.items() for text in (f"--{name}", value)]
    whole = start("whole", *given)
    assert whole.wait(300) == 0, whole.communicate()
    cut = start("cut", *given)
    while not (tmp_path / "cut/checkpoint.ckpt").exists():
        assert cut.poll() is None, cut.communicate()
        time.sleep(0.01)
    time.sleep(0.3)
    cut.kill()
    cut.wait()
    assert not (tmp_path / "cut/metrics.json").exists()
    resumed = start("cut", "--resume")
    assert resumed.wait(300) == 0, resumed.communicate()
    histories, metrics = [], []
    for folder in (RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")):
        histories.append([{**row, **TIMES} for row in folder.read_history()])
        metrics.append({**folder.read_json("metrics.json"), "seconds": 0})
    assert histories[0] == histories[1]
    assert metrics[0] == metrics[1]


@pytest.mark.slow  # four views without labels resume, above
def test_runs_with_more_views_and_labels_train(tmp_path):
    settings = tiny("simclr", epochs=1, warmup_epochs=0, views=3, supervised=True)
    trainer = fit(settings, RunFolder.create(tmp_path / "run", settings))
    assert np.isfinite(trainer.history[0]["loss"])
    x, y = trainer.project(trainer.data.test_images[:9])
    assert x.shape == y.shape == (9, 8)


@pytest.mark.parametrize("method", METHODS)
def test_equal_runs_are_one_static_argument(method):
    """So are SimCLR and MoCo v3 of other seeds; another loss is not."""
    data = load_images("digits", limit=256)
    graphs = [
        MethodTrainer(tiny(method, limit=256, **more), data).graph
        for more in ({}, {}, {"seed": 1}, {"alpha": 3.0})
    ]
    one, again, seed, alpha = graphs
    assert one == again
    assert hash(one) == hash(again)
    assert (one == seed) == (method != "moco")  # whose seed orders the keys
    assert one != alpha


def test_equal_runs_share_one_compiled_step(run_of):
    run = run_of("moco")
    sizes = train_step._cache_size(), encode._cache_size()
    assert min(sizes) > 0
    for _ in range(2):
        twin = MethodTrainer(run.settings, run.trainer.data)
        loss, *_ = twin.step(0, next(twin.items(0)))
        twin.encode(run.trainer.data.test_images)
        assert np.isfinite(loss)
    assert (train_step._cache_size(), encode._cache_size()) == sizes


def test_a_device_holds_a_batch_of_images_and_not_the_whole_set(tmp_path, monkeypatch):
    settings = tiny("simclr")
    trainer = MethodTrainer(settings, load_images("digits", limit=settings.limit))
    kept, seen = {id(array) for array in jax.live_arrays()}, []

    def look(*_):
        seen.extend(x for x in jax.live_arrays() if id(x) not in kept and x.dtype == np.uint8)
        raise KeyError("enough")

    monkeypatch.setattr("fmicl_flax.trainer.train_step", look)
    with pytest.raises(KeyError, match="enough"):
        trainer.fit(RunFolder.create(tmp_path / "run", settings), resume=False, progress=False)
    assert [images.shape for images in seen] == [(64, 8, 8, 1)]


@pytest.mark.slow  # `GPU` caches hold the same images; test_stream has their order
@pytest.mark.parametrize(
    ("method", "more"),
    [("moco", {"supervised": True}), ("simclr", {})],
)
def test_images_on_the_device_train_the_same_weights(tmp_path, monkeypatch, method, more):
    """To the last bit; the images are sent once, and then the indices of each batch alone."""
    settings = tiny(method, **more)
    sent = fit(settings, RunFolder.create(tmp_path / "sent", settings))
    put, placed = jax.device_put, []
    monkeypatch.setattr(jax, "device_put", lambda x, to: placed.append(x) or put(x, to))
    settings = dataclasses.replace(settings, cache="gpu")
    kept = fit(settings, RunFolder.create(tmp_path / "kept", settings))
    assert equal(sent.state, kept.state)
    images = [array for array in jax.tree.leaves(placed) if array.dtype == np.uint8]
    assert [array.shape for array in images] == [(256, 8, 8, 1)]


def test_images_that_do_not_fit_on_the_device_are_refused(monkeypatch):
    data = load_images("digits", limit=256)
    stats = {"bytes_limit": data.train_images.nbytes, "bytes_in_use": 0}
    monkeypatch.setattr("jax.Device.memory_stats", lambda device: stats, raising=False)
    with pytest.raises(ValueError, match=r"`cache`. Expected 'memory' for images that take half"):
        MethodTrainer(tiny("simclr", cache="gpu"), data)


def test_a_checkpoint_can_be_evaluated_again(run_of):
    run = run_of("moco")
    again = evaluate_run(MethodTrainer, run.folder)
    assert again["loss_history"] == [row["loss"] for row in run.trainer.history]
    assert again["knn_accuracy"] == knn(run.trainer)["knn_accuracy"]
    assert again["seconds"] == pytest.approx(run.trainer.seconds, abs=0.01)
    x, y = run.trainer.project(run.trainer.data.test_images[:10])
    assert x.shape == y.shape == (10, 64)
    assert not np.allclose(x, y, atol=1e-3)


def test_features_are_those_of_the_trainer(run_of):
    run = run_of("moco")
    images = run.trainer.data.test_images[:30]
    for form in (images, images[..., 0]):
        found = features(run.folder.path, form)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, run.trainer.encode(images), rtol=1e-6, atol=1e-6)


def test_the_encoder_takes_bytes_and_floats_and_can_be_trained_further(run_of):
    run = run_of("moco")
    images = run.trainer.data.test_images[:16]
    want = run.trainer.encode(images)
    encoder = load_encoder(str(run.folder.path))
    assert encoder.image_shape == (8, 8, 1)
    assert encoder.num_features == want.shape[1]
    for form in (images, images / 255.0, jnp.asarray(images) / 255.0):
        np.testing.assert_allclose(encoder(form), want, rtol=1e-4, atol=1e-5)
    encoder.train()
    mean = encoder.network.layers[0].norm.mean[...]
    gradient = nnx.jit(nnx.grad(lambda encoder: (encoder(images) ** 2).mean()))(encoder)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    assert len(jax.tree.leaves(gradient)) == len(jax.tree.leaves(nnx.state(encoder, nnx.Param)))
    assert not np.array_equal(mean, encoder.network.layers[0].norm.mean[...])


@pytest.mark.parametrize(
    ("images", "message"),
    [(np.zeros((2, 8, 8, 3), np.float32), r"Expected \(N, H, W, 1\)"),
     (np.zeros((2, 8, 8, 1), np.int32), "Expected uint8, or float in .*'int32'")],
)  # fmt: skip
def test_the_encoder_refuses_what_it_was_not_trained_on(run_of, images, message):
    with pytest.raises(ValueError, match=f"`images`. {message}"):
        load_encoder(run_of("moco").folder.path)(images)


def test_checkpoints_that_are_damaged_or_of_other_runs_are_refused(run_of, tmp_path):
    run = run_of("moco")

    def copied(name):
        return RunFolder(shutil.copytree(run.folder.path, tmp_path / name, symlinks=True))

    def refused(trainer, folder):
        with pytest.raises(ValueError, match=r"`run`. Expected a folder whose checkpoint is whole"):
            trainer.load(folder)

    def hurt(name, damage):
        folder = copied(name)
        files = [path for path in folder.checkpoint.resolve().rglob("*") if path.is_file()]
        assert files
        for path in files:
            damage(path)
        refused(run.trainer, folder)

    hurt("empty", lambda path: path.write_bytes(b""))
    hurt("half", lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]))
    hurt("gone", lambda path: path.unlink())
    other = MethodTrainer(dataclasses.replace(run.settings, width=8), run.trainer.data)
    refused(other, copied("other"))


def test_ctrl_c_comes_out_as_it_went_in(run_of, tmp_path, monkeypatch, capsys):
    """By then there was a checkpoint, and the bar has said what it waits for."""
    run = run_of("moco")
    settings = dataclasses.replace(run.settings, knn_every=1)
    trainer = MethodTrainer(settings, run.trainer.data)
    step = MethodTrainer.step

    def interrupt(trainer, number, item):
        if trainer.history:
            signal.raise_signal(signal.SIGINT)
        return step(trainer, number, item)

    monkeypatch.setattr(MethodTrainer, "step", interrupt)
    folder = RunFolder.create(tmp_path / "run", settings)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(folder, resume=False, progress=True)
    assert len(folder.read_history()) == 1
    shown = capsys.readouterr().err
    for words in ("compiling", "epoch=1/15", "evaluating"):
        assert words in shown


@pytest.mark.slow  # the same error, in a step that is compiled already, is below
@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_diverges_does_not_look_finished(tmp_path, method):
    settings = tiny(method, lr=1e6, epochs=4, warmup_epochs=0)
    with pytest.raises(NonFiniteLossError, match="Try a smaller --lr"):
        fit(settings, RunFolder.create(tmp_path / "run", settings))


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path / "run", tiny("simclr"))
    home = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    old, new = ({"w": np.full(3, value, np.float32)} for value in (1.0, 2.0))
    save_checkpoint(folder, "a", old, {"history": [], "seconds": 1.0})
    for place in ("os.replace", "shutil.rmtree"):

        def die(*args, **options):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(f"fmicl_flax.checkpoints.{place}", die)
            with pytest.raises(KeyboardInterrupt):
                save_checkpoint(folder, "b", new, {"history": [], "seconds": 2.0})
        state, found = load_checkpoint(folder, old, home)
        assert (found.seconds, state["w"].tolist()) == (1.0, [1.0] * 3)
    save_checkpoint(folder, "b", new, {"history": [], "seconds": 2.0})
    state, found = load_checkpoint(folder, old, home)
    assert (found.seconds, state["w"].tolist()) == (2.0, [2.0] * 3)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["b"]


def test_checkpoints_are_saved_beside_the_training_and_their_errors_are_raised(
    tmp_path, monkeypatch
):
    folder = RunFolder.create(tmp_path / "run", tiny("simclr"))
    state, facts = {"w": np.ones(3, np.float32)}, {"history": [{"loss": 1.0}]}
    with pytest.raises(KeyError), Saver() as saver:  # which waits for what it has begun
        saver.save(folder, 1, state, facts)
        raise KeyError
    assert folder.checkpoint.exists()
    assert folder.read_history() == facts["history"]
    monkeypatch.setattr("fmicl_flax.checkpoints.save_checkpoint", lambda *_: 1 / 0)
    for count in (1, 2):
        with pytest.raises(ZeroDivisionError), Saver() as saver:
            for step in range(count):
                saver.save(folder, step, state, facts)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path, capfd):
    """With a limit on the size of files in the place of a full disk."""
    folder = RunFolder.create(tmp_path / "run", tiny("simclr"))
    home = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    small, large = (
        {"w": np.random.default_rng(0).random((side, side), np.float32)} for side in (3, 300)
    )
    facts, limits = {"history": [], "seconds": 1.0}, resource.getrlimit(resource.RLIMIT_FSIZE)
    with Saver() as saver:
        saver.save(folder, 1, small, facts)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        message = "checkpoint of step 2 could not be written: File too large"
        with pytest.raises(NotSaved, match=message), Saver() as saver:
            saver.save(folder, 2, large, facts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    state, _ = load_checkpoint(folder, small, home)
    np.testing.assert_array_equal(state["w"], small["w"])
    assert [path.name for path in (folder.path / STORE).iterdir()] == ["step-1"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_non_finite_loss_stops_and_keeps_the_last_checkpoint(tmp_path):
    """Of a run whose compiled step other tests have."""
    settings = learning("moco")
    folder = RunFolder.create(tmp_path / "run", settings)
    trainer = MethodTrainer(settings, load_images("digits"))
    plan = trainer.plan

    def broken(step, steps, count):
        if step == 30:
            trainer.state = jax.tree.map(
                lambda leaf: leaf * np.nan if leaf.dtype == jnp.float32 else leaf, trainer.state
            )
        return plan(step, steps, count)

    trainer.plan = broken
    said = r"The loss is nan at step 30 \(epoch 2\).*Try a smaller --lr"
    with pytest.raises(NonFiniteLossError, match=said):
        trainer.fit(folder, resume=False, progress=False)
    kept = MethodTrainer(settings, load_images("digits"))
    kept.load(folder)
    assert [row["step"] for row in kept.history] == [22]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept.state))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Neyman")
def test_collapse_is_reported_once(tmp_path):
    settings = tiny("simclr", divergence="neyman", epochs=14, lr=0.01)
    with pytest.warns(UserWarning, match="The features have collapsed by epoch") as caught:
        trainer = fit(settings, RunFolder.create(tmp_path / "run", settings))
    assert sum("have collapsed" in str(w.message) for w in caught) == 1
    assert trainer.history[-1]["embedding_rank"] < 2.0


@pytest.mark.slow
def test_bf16_trains_with_weights_in_float32(tmp_path):
    settings = tiny("moco-v3", precision="bf16")
    trainer = fit(settings, RunFolder.create(tmp_path / "run", settings))
    assert np.isfinite([row["loss"] for row in trainer.history]).all()
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(trainer.state)} == {
        "float32", "int32", "uint32",
    }  # fmt: skip
    view = draw((4, 8, 8, 1))
    assert trainer.method.encoder(view).dtype == jnp.bfloat16
    assert trainer.method.query(view).dtype == jnp.float32


def on_devices(count, settings):
    """Losses of a short run on so many host devices, and the frameworks that were imported."""
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "JAX_ENABLE_X64": "1"}
    command = [sys.executable, DEVICES, json.dumps(settings.to_dict())]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **flags}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("method", "more"), [
    *((method, {}) for method in METHODS), ("simclr", {"views": 4}),
    ("simclr", {"supervised": True}), ("moco", {"supervised": True, "cache": "gpu"}),
    ("simclr", {"loss": "info-nce", "supervised": True}), ("moco-v3", {"loss": "info-nce"}),
    ("simclr", {"loss": "alignment-uniformity"}),
])  # fmt: skip
def test_four_devices_make_the_steps_of_one(method, more):
    """In float64, since rounding would part the runs at the kinks of ReLUs."""
    # Not AdamW, whose first steps have the size of the rate, however small a gradient is.
    settings = tiny(method, epochs=2, limit=128, optimizer="sgd", lr=0.02, precision="64", **more)
    told = on_devices(4, settings)
    one, four = told["losses"]
    assert len(one) == 4
    np.testing.assert_allclose(one, four, rtol=1e-9)
    # A share of the batch on each device, or all images.
    assert told["images"] == ([[128], [128] * 4] if "cache" in more else [[64], [16] * 4])
    assert told["frameworks"] == []  # neither TensorBoard nor anything else brings one in
