"""MoCo and MoCo v3 in Lightning are the methods of their papers, and what they share holds."""

import copy
import dataclasses
import importlib
import pickle
import sys
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the Lightning trainer needs PyTorch")
pytest.importorskip("lightning", reason="the Lightning trainer needs Lightning")

import lightning  # noqa: E402

from fmicl_core import forms  # noqa: E402
from fmicl_core.checks import InvalidArgument  # noqa: E402
from fmicl_core.objective import AUTO  # noqa: E402
from fmicl_lightning import LARS, MethodTrainer, SimCLR, ViT, build_encoder, build_method  # noqa: E402
from fmicl_lightning.callbacks import RunClock, quiet  # noqa: E402
from fmicl_lightning.encoders import feature_width  # noqa: E402
from fmicl_lightning.optimizers import build_optimizer, warmup_cosine  # noqa: E402
from fmicl_lightning.shards import options_over_devices  # noqa: E402
from fmicl_recipes import RunFolder, resolve  # noqa: E402
from fmicl_recipes.choices import ALPHA_STRENGTHS, METHODS  # noqa: E402
from fmicl_recipes.data import load_images  # noqa: E402
from fmicl_recipes.draws import initial_queue, key_order  # noqa: E402
from fmicl_recipes.history import knn  # noqa: E402
from fmicl_recipes.momentum import ema_schedule  # noqa: E402
from fmicl_recipes.run import train_run  # noqa: E402
from fmicl_recipes.settings import TrainSettings  # noqa: E402
from fmicl_recipes.trainer import NonFiniteLossError  # noqa: E402
from fmicl_torch import (  # noqa: E402
    FMICLLoss,
    alignment_uniformity_loss,
    dcl_loss,
    fmicl_loss,
    info_nce_loss,
)

MOMENTUM = ("moco", "moco-v3")
#: The weight of the negatives in MoCo and MoCo v3.
WEIGHT = {"alpha": AUTO, "strength": ALPHA_STRENGTHS["moco"]}
pytestmark = pytest.mark.usefixtures("short_maps")
DDP = Path(__file__).parent / "ranks" / "lightning_ddp.py"


def tiny(method, **options):
    small = {"width": 8, "batch_size": 64, "limit": 256, "epochs": 3, "warmup_epochs": 1,
             "projection_hidden": 16, "projection_dim": 8, "device": "cpu"}  # fmt: skip
    queue = {"queue_size": 100} if method == "moco" else {}
    return resolve("digits", {"method": method, **small, **queue, **options})


def build(method, **options):
    """A method in float64, and two views of it."""
    module = build_method(tiny(method, **options), (8, 8, 1)).double()
    views = torch.rand(2, 64, 1, 8, 8, dtype=torch.float64, generator=torch.manual_seed(1))
    return module, *views


def move_queries(module):
    """Take encoder and head away from their copies, as a step of the optimiser does."""
    with torch.no_grad():
        for weight in [*module.encoder.parameters(), *module.head.parameters()]:
            weight.add_(0.1 * torch.randn_like(weight))


def at_step(module, step, steps):
    """Let the method believe that it stands at a step of a run."""
    module._trainer = type("Stub", (), {"global_step": step, "global_rank": 0})()
    module._fabric = None
    module.steps = steps
    return module


def fit(settings, out, **resume):
    folder = RunFolder(out) if resume else RunFolder.create(out, settings)
    data = load_images("digits", limit=settings.limit, seed=settings.seed)
    trainer = MethodTrainer(settings, data)
    trainer.fit(folder, resume=bool(resume), progress=False)
    return trainer


# The momentum encoder


@pytest.mark.parametrize("method", MOMENTUM)
def test_the_key_network_follows_exactly_before_the_keys_are_made(method):
    module, v1, v2 = build(method, **({"bn_splits": 1} if method == "moco" else {}))
    move_queries(module)
    before = copy.deepcopy(module)
    at_step(module, 3, 10)
    _, _, k = module.contrast(v1, v2, **module.plan(len(v1)))
    m = 0.99 if method == "moco" else ema_schedule(0.99, 3, 10)
    pairs = ((before.key_encoder, before.encoder, module.key_encoder),
             (before.key_head, before.head, module.key_head))  # fmt: skip
    for slow, fast, after in pairs:
        for a, b, c in zip(slow.parameters(), fast.parameters(), after.parameters(), strict=True):
            torch.testing.assert_close(c, m * a + (1.0 - m) * b, rtol=1e-14, atol=1e-16)
    assert not torch.allclose(k, before.key(v2), atol=1e-6)
    torch.testing.assert_close(k, module.key(v2))


@pytest.mark.parametrize("method", MOMENTUM)
def test_no_gradient_reaches_keys_queue_or_key_network(method):
    module, v1, v2 = build(method)
    move_queries(module)
    loss, q, k = module.contrast(v1, v2)
    loss.backward()
    assert q.requires_grad
    assert not k.requires_grad
    slow = {n for n, _ in module.named_parameters() if n.startswith("key_")}
    assert slow
    for name, weight in module.named_parameters():
        assert (weight.grad is None) == (name in slow), name
        assert weight.requires_grad == (name not in slow)
    groups = build_optimizer(module, "sgd", 0.1, 0.9, 0.0).param_groups
    trained = [p for group in groups for p in group["params"]]
    assert len(trained) == len(list(module.parameters())) - len(slow)
    assert not any(buffer.requires_grad for buffer in module.buffers())


def test_key_norms_keep_statistics_of_their_own():
    module, v1, v2 = build("moco")
    for _ in range(2):
        move_queries(module)
        module.contrast(v1, v2)
    own, key = module.encoder[1].running_mean, module.key_encoder[1].running_mean
    assert key.abs().max() > 0
    assert not torch.allclose(own, key)
    assert module.key_encoder[1].num_batches_tracked == 2 * module.bn_splits


# MoCo's queue


@given(counts=st.lists(st.sampled_from([1, 3, 4, 7, 12, 25]), min_size=1, max_size=6))
def test_the_queue_is_what_writing_one_key_after_another_gives(counts):
    """With the label of every key, -1 for the random rows at first."""
    module, _, _ = build("moco", queue_size=10, supervised=True)
    expected, labels, place = module.queue.clone(), [-1] * 10, 0
    for number, count in enumerate(counts):
        keys = torch.randn(count, 8, dtype=torch.float64, generator=torch.manual_seed(number))
        module.enqueue(keys, 100 * number + torch.arange(count, dtype=torch.int32))
        for i, key in enumerate(keys):
            expected[place], labels[place] = key / key.norm(), 100 * number + i
            place = (place + 1) % 10
    torch.testing.assert_close(module.queue, expected)
    assert module.queue_labels.tolist() == labels
    assert module.pointer == place


@pytest.mark.parametrize(
    ("queue", "keys"), [("float32", "bfloat16"), ("bfloat16", "float32"), ("float64", "float32")]
)
def test_keys_of_another_dtype_enter_the_queue_in_its_own(queue, keys):
    """As an encoder under autocast makes them; only the narrower dtype's own rounding is lost."""
    module = build("moco", queue_size=10)[0].to(getattr(torch, queue))
    before = module.queue.clone()
    rows = torch.randn(4, 8, generator=torch.manual_seed(0)).to(getattr(torch, keys))
    with torch.autocast("cpu", torch.bfloat16):
        module.enqueue(rows)
    assert module.queue.dtype == before.dtype
    exact = torch.nn.functional.normalize(rows.double()).to(before.dtype)
    torch.testing.assert_close(module.queue[:4], exact)
    assert torch.equal(module.queue[4:], before[4:])


def test_the_queue_starts_with_unit_vectors_drawn_from_the_seed():
    queue = initial_queue(500, 8, seed=3)
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(queue, initial_queue(500, 8, seed=3))
    assert not np.array_equal(queue, initial_queue(500, 8, seed=4))
    assert abs(queue.mean()) < 0.02
    np.testing.assert_array_equal(build("moco")[0].queue, initial_queue(100, 8, seed=0))


@pytest.mark.parametrize(("loss", "of", "options"), [
    ("fmicl", fmicl_loss, WEIGHT), ("info-nce", info_nce_loss, {}),
    ("dcl", dcl_loss, {"temperature": TrainSettings.temperature}),
])  # fmt: skip
def test_moco_takes_its_negatives_from_the_queue_and_enters_the_keys_after(loss, of, options):
    module, v1, v2 = build("moco", loss=loss)
    move_queries(module)
    queue = module.queue.clone()
    value, q, k = module.contrast(v1, v2)
    torch.testing.assert_close(value, of(q, k, bank=queue, **options))
    value.backward()  # the queue that the gradient needs has not changed
    torch.testing.assert_close(module.queue[:64], torch.nn.functional.normalize(k))
    torch.testing.assert_close(module.queue[64:], queue[64:])


# More views, and labels


@pytest.mark.parametrize(
    ("loss", "views", "supervised"),
    [("fmicl", 2, True), ("info-nce", 4, False), ("fmicl", 4, False), ("info-nce", 3, True)],
)
def test_simclr_says_by_ids_which_views_and_images_belong_together(loss, views, supervised):
    module, *_ = build("simclr", loss=loss, views=views, supervised=supervised)
    drawn = torch.rand(views, 64, 1, 8, 8, dtype=torch.float64)
    labels = torch.arange(64) % 5
    value, x, y = module.contrast(*drawn, **({"ids": labels} if supervised else {}))
    every = module.query(drawn.flatten(0, 1)).unflatten(0, (views, 64))
    torch.testing.assert_close(torch.stack([x, y]), every[:2])
    weight = {"alpha": AUTO, "strength": ALPHA_STRENGTHS["simclr"]} if loss == "fmicl" else {}
    of = partial(fmicl_loss if loss == "fmicl" else info_nce_loss, negatives="all", **weight)
    ids = labels if supervised else torch.arange(64)
    want = of(x, y, ids=ids) if views == 2 else of(every.flatten(0, 1), ids=ids.repeat(views))
    torch.testing.assert_close(value, want)


def test_two_views_without_labels_are_two_arrays_and_nothing_else():
    """A loss of one's own needs no ids; labels that come all the same are left aside."""
    module, v1, v2 = build("simclr")
    del module.loss  # which is a module
    module.loss = lambda x, y: (x - y).square().mean()
    assert torch.isfinite(module.contrast(v1, v2)[0])
    at_step(module, 0, 10).log = lambda *_, **__: None
    images = torch.randint(0, 256, (64, 8, 8, 1), dtype=torch.uint8)
    losses = []
    for batch in (images, [images], (images, torch.arange(64))):
        torch.manual_seed(0)
        losses.append(module.float().training_step(batch).item())
    assert losses == [losses[0]] * 3


def test_more_views_begin_with_the_same_two():
    module = build("simclr", views=4)[0].float()
    images = torch.randint(0, 256, (64, 8, 8, 1), dtype=torch.uint8)
    drawn = []
    for count in (2, module.view_count):
        torch.manual_seed(0)
        drawn.append(torch.stack(module.views(images, count)))
    assert torch.equal(drawn[0], drawn[1][:2])
    assert len(drawn[1]) == 4


@pytest.mark.parametrize("loss", ["fmicl", "info-nce"])
def test_supervised_moco_keeps_the_labels_of_its_keys(loss):
    module, v1, v2 = build("moco", loss=loss, supervised=True)
    of = fmicl_loss if loss == "fmicl" else info_nce_loss
    options = WEIGHT if loss == "fmicl" else {}
    for step in range(2):
        bank, bank_ids = module.queue.clone(), module.queue_labels.clone()
        labels = (torch.arange(64, dtype=torch.int32) + step) % 5
        value, q, k = module.contrast(v1, v2, ids=labels)
        want = of(q, k, bank=bank, ids=labels, bank_ids=bank_ids, **options)
        torch.testing.assert_close(value, want)
    value.backward()  # the labels that the gradient needs have not changed
    assert module.queue_labels[:28].tolist() == labels[36:].tolist()  # 128 keys in 100 slots
    assert sorted(set(bank_ids.tolist())) == [-1, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("method", ["simclr", "moco"])
def test_alpha_that_is_found_from_batches_is_in_the_history(tmp_path, method):
    """SimCLR's is that of the loss; MoCo's is near it, of the batch's keys, not the queue's."""
    options = {"alpha": "auto", "strength": 4.0, "divergence": "js", "supervised": True}
    settings = tiny(method, epochs=2, **options)
    trainer = fit(settings, tmp_path / "run")
    x, y = trainer.module.last
    bank = {} if method == "simclr" else {"bank": trainer.module.queue,
                                          "bank_ids": trainer.module.queue_labels}  # fmt: skip
    alpha = trainer.module.loss.terms(x, y, ids=trainer.module.last_ids, **bank).alpha.item()
    assert all(row["alpha"] > 0 for row in trainer.history)
    assert trainer.history[-1]["alpha"] == pytest.approx(
        alpha, rel=1e-4 if method == "simclr" else 0.5
    )


@pytest.mark.parametrize("options", [
    {"views": 4}, {"supervised": True}, {"views": 3, "supervised": True, "loss": "info-nce"},
    {"method": "moco", "supervised": True}, {"supervised": True, "loss": "siglip"},
    {"method": "moco-v3", "loss": "siglip"},
], ids=str)  # fmt: skip
def test_runs_with_more_views_and_labels_train_and_evaluate(tmp_path, options):
    settings = tiny(options.pop("method", "simclr"), **options, epochs=2)
    trainer = fit(settings, tmp_path / "run")
    assert np.isfinite([row["loss"] for row in trainer.history]).all()
    assert all(rows.shape == (64, 8) for rows in trainer.module.last)
    x, y = trainer.project(trainer.data.test_images[:9])
    assert x.shape == y.shape == (9, 8)


def test_a_supervised_method_needs_labels():
    module, *_ = build("moco", supervised=True)
    images = torch.zeros(64, 8, 8, 1, dtype=torch.uint8)
    for batch in (images, [images]):
        with pytest.raises(InvalidArgument, match=r"`labels`. Expected labels of the images, \(N"):
            module.training_step(batch)


# Batch norm must not give the key away


def record_parts(module, name):
    """Let `module.query` or `module.key` return its input, and note the parts it got."""
    parts = []

    def seen(view):
        parts.append(view.flatten().tolist())
        return view.flatten(1)

    setattr(module, name, seen)
    return parts


def test_keys_are_encoded_in_other_groups_than_their_queries():
    module, _, _ = build("moco")
    number = torch.arange(64.0, dtype=torch.float64).reshape(64, 1, 1, 1)
    keys = record_parts(module, "key")
    out = module.keys(number, module.plan(64)["order"])
    assert torch.equal(out, number.flatten(1))  # put back in place
    queries = [part.flatten().tolist() for part in module.parts(number)]
    assert [len(part) for part in keys] == [len(part) for part in queries] == [16] * 4
    assert sorted(np.concatenate(keys)) == np.concatenate(queries).tolist()
    shared = [len(set(k) & set(q)) for k in keys for q in queries]
    assert max(shared) < 12  # a query's group is spread over the groups of the keys
    module.keys(number, at_step(module, 1, 10).plan(64)["order"])
    assert keys[:4] != keys[4:]


def test_parts_have_statistics_of_their_own_and_any_size():
    module, v1, _ = build("moco", bn_splits=3)
    q = module.contrast(v1, v1)[1]
    parts = [v1[:22], v1[22:43], v1[43:]]
    torch.testing.assert_close(q, torch.cat([module.query(part) for part in parts]))
    assert not torch.allclose(q, module.query(v1), atol=1e-3)


def test_methods_without_batch_norm_are_not_split():
    module, v1, v2 = build("moco", encoder="vit-s6", head_norm="none")
    assert len(module.parts(v1)) == 1
    keys = record_parts(module, "key")
    module.contrast(v1, v2[:, :, :, :1].mean((2, 3), keepdim=True).repeat(1, 8, 1, 1))
    assert len(keys) == 1


@given(seed=st.integers(0, 99), step=st.integers(0, 99))
def test_key_orders_are_permutations_that_depend_on_seed_and_step(seed, step):
    order = key_order(64, seed, step)
    assert sorted(order) == list(range(64))
    assert np.array_equal(order, key_order(64, seed, step))
    assert not np.array_equal(order, key_order(64, seed, step + 1))
    assert not np.array_equal(order, key_order(64, seed + 1, step))


# MoCo v3


@pytest.mark.parametrize("loss", ["fmicl", "info-nce"])
def test_moco_v3_predicts_the_keys_of_the_other_view(loss):
    module, v1, v2 = build("moco-v3", loss=loss)
    move_queries(module)
    value, q1, k2 = module.contrast(v1, v2)
    q2, k1 = module.predictor(module.query(v2)), module.key(v1)
    of = fmicl_loss if loss == "fmicl" else info_nce_loss
    torch.testing.assert_close(q1, module.predictor(module.query(v1)))
    torch.testing.assert_close(k2, module.key(v2))
    options = WEIGHT if loss == "fmicl" else {}
    want = sum(of(q, k, negatives="cross", **options) for q, k in ((q1, k2), (q2, k1)))
    torch.testing.assert_close(value, want)


def test_moco_v3_does_not_care_which_view_is_which():
    module, v1, v2 = build("moco-v3")
    torch.testing.assert_close(module.contrast(v1, v2)[0], module.contrast(v2, v1)[0])


@pytest.mark.parametrize(("norm", "kinds"), [("batch", 4), ("none", 3)])
def test_mocos_head_ends_in_a_norm_or_as_in_the_paper(norm, kinds):
    module, v1, v2 = build("moco", head_norm=norm)
    assert len(module.head) == kinds
    q = module.contrast(v1, v2)[1]
    centred = q[:16].mean(0).abs().max() < 1e-9
    assert centred == (norm == "batch")


def test_projector_and_predictor_have_the_layers_of_the_paper():
    module, _, _ = build("moco-v3")
    for mlp, linear, norms in ((module.head, 3, 3), (module.predictor, 2, 2)):
        kinds = [type(layer).__name__ for layer in mlp]
        assert kinds.count("Linear") == linear
        assert kinds.count("BatchNorm1d") == norms
        assert [layer.affine for layer in mlp if hasattr(layer, "affine")][-1] is False
        assert kinds[-1] == "BatchNorm1d"


@pytest.mark.parametrize(
    ("method", "patch_projection", "frozen"),
    [("moco-v3", "frozen", True), ("moco-v3", "learned", False), ("moco", "frozen", False)],
)
def test_only_moco_v3_freezes_the_patch_projection(method, patch_projection, frozen):
    module, v1, v2 = build(method, encoder="vit-s6", patch_projection=patch_projection)
    module.contrast(v1, v2)[0].backward()
    assert (module.encoder.patches.weight.grad is None) == frozen
    assert module.encoder.token.grad is not None


@given(start=st.floats(0.0, 0.9999), steps=st.integers(2, 500))
def test_the_momentum_rises_by_a_cosine_to_one(start, steps):
    values = [ema_schedule(start, step, steps) for step in range(steps + 1)]
    assert values[0] == pytest.approx(start)
    assert values[-1] == pytest.approx(1.0)
    assert (np.diff(values) >= -1e-12).all()
    if steps % 2 == 0:
        assert values[steps // 2] == pytest.approx((1.0 + start) / 2.0)


# Optimiser and schedule


def test_lars_moves_by_hand():
    """Two steps of a weight and of a bias, against the update written out in NumPy."""
    weight, bias = torch.nn.Parameter(torch.tensor([[3.0, 4.0]])), torch.nn.Parameter(torch.ones(2))
    optimizer = LARS([weight, bias], lr=0.5, momentum=0.9, weight_decay=0.1, trust=0.01)
    w, b, v, u = np.array([[3.0, 4.0]]), np.ones(2), 0.0, 0.0
    for g in (np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]])):
        weight.grad, bias.grad = torch.tensor(g, dtype=torch.float32), torch.tensor([0.5, -0.5])
        optimizer.step()
        d = g + 0.1 * w
        v = 0.9 * v + d * 0.01 * np.linalg.norm(w) / np.linalg.norm(d)
        u = 0.9 * u + np.array([0.5, -0.5])
        w, b = w - 0.5 * v, b - 0.5 * u
    np.testing.assert_allclose(weight.detach(), w, rtol=1e-6)
    np.testing.assert_allclose(bias.detach(), b, rtol=1e-6)


def test_lars_leaves_a_zero_weight_finite():
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = LARS([weight], lr=1.0, momentum=0.0)
    for gradient, expected in ((0.0, 0.0), (1.0, -1.0)):
        weight.grad = torch.full((2, 2), gradient)
        optimizer.step()
        assert torch.equal(weight.detach(), torch.full((2, 2), expected))


@pytest.mark.parametrize("warmup", [0, 4])
def test_the_rate_warms_up_and_falls_by_a_cosine(warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_cosine(optimizer, 20, warmup)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    t = np.arange(20)
    ramp = 2.0 * (1.0 + (warmup - 1) * t / max(warmup, 1)) / max(warmup, 1)
    cosine = 1.0 + np.cos(np.pi * (t - warmup) / (20 - warmup))
    np.testing.assert_allclose(rates, np.where(t < warmup, ramp, cosine), rtol=1e-9)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_every_optimizer_lowers_a_loss(optimizer):
    rate = {"sgd": 0.01, "adamw": 5e-3, "lars": 0.02}[optimizer]
    module, v1, v2 = build("simclr")
    steps = build_optimizer(module, optimizer, rate, 0.9, 1e-4)
    losses = []
    for _ in range(8):
        steps.zero_grad()
        loss = module.contrast(v1, v1 + 0.1 * v2)[0]
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_a_method_is_made_by_keywords_and_trains_by_lightning_alone():
    """Any encoder, loss, views and batches, without settings and without a run folder."""
    torch.manual_seed(0)
    make = partial(
        SimCLR, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 16)), 16, FMICLLoss(),
        torch.nn.Dropout(0.1), projection_hidden=32, projection_dim=128, lr=1e-2,
    )  # fmt: skip
    images = torch.randint(0, 256, (64, 4, 4, 3), dtype=torch.uint8)

    def trained(module):
        with quiet():
            lightning.Trainer(
                max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False,
            ).fit(module, torch.utils.data.DataLoader(images, batch_size=16))  # fmt: skip
        return module

    module = make(optimizer="adamw", warmup_epochs=1)
    before = module.encoder[1].weight.detach().clone()
    losses = [row["loss"] for row in trained(module).history]
    assert losses[-1] < losses[0]
    assert module.last[0].shape == (16, 128)
    assert not torch.equal(module.encoder[1].weight, before)
    with pytest.raises(InvalidArgument, match=r"`optimizer`. Expected one of .*optimizer='adam'"):
        make(optimizer="adam")
    with pytest.raises(InvalidArgument, match=r"`warmup_epochs`. Expected fewer than max_ep.* = 4"):
        trained(make(warmup_epochs=4))


# Vision transformers


def test_vit_s_is_the_standard_one():
    """ViT-S/16 has 22,050,664 parameters with its classifier and learned positions."""
    vit = build_encoder("vit-s12", 3, 64, patch_size=16)
    classifier, positions = 384 * 1000 + 1000, 197 * 384
    assert sum(p.numel() for p in vit.parameters()) == 22_050_664 - classifier - positions


@pytest.mark.parametrize(("name", "side", "patch"), [("vit-s6", 8, 2), ("vit-s12", 32, 8)])
def test_vits_give_features_of_any_image_their_patches_tile(name, side, patch):
    vit = build_encoder(name, 3, 4, patch_size=patch)
    assert len(vit.blocks) == int(name.removeprefix("vit-s"))
    assert feature_width(vit, (3, side, side)) == 24
    assert vit(torch.randn(2, 3, side, 2 * side)).shape == (2, 24)


def test_patches_see_their_place():
    vit = build_encoder("vit-s6", 1, 8, patch_size=4).eval()
    image = torch.randn(1, 1, 8, 8)
    assert not torch.allclose(vit(image), vit(image.roll(4, dims=3)), atol=1e-4)


def test_images_and_widths_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"`patch_size`. Expected a divisor of .* 10 x 8"):
        ViT(1, 4, 1, patch_size=4)(torch.zeros(1, 1, 10, 8))
    with pytest.raises(ValueError, match=r"`width`. Expected an even number"):
        ViT(1, 3, 1, patch_size=4)


# Runs


@pytest.mark.parametrize(("method", "options"), [("moco", {"supervised": True}), ("moco-v3", {})])
def test_an_interrupted_run_resumes_bit_for_bit(tmp_path, power_cut, method, options):
    """A queue also keeps labels."""
    settings = tiny(method, **options, epochs=4)
    whole = fit(settings, tmp_path / "whole")
    with power_cut(2):
        fit(settings, tmp_path / "cut")
    assert len(RunFolder(tmp_path / "cut").read_history()) == 2
    resumed = fit(settings, tmp_path / "cut", resume=True)
    states = [trainer.module.state_dict() for trainer in (whole, resumed)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    if method == "moco":  # 4 batches of 64 an epoch, 4 epochs, 100 slots
        assert resumed.module.pointer == 16 * 64 % 100
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_is_read_but_the_code_it_carries_is_not_run(tmp_path, bomb, method):
    settings, mark = tiny(method, epochs=2, limit=128), tmp_path / "the code has run"
    trained = fit(settings, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    fresh = MethodTrainer(settings, trained.data)
    fresh.load(folder)
    for name, value in trained.module.state_dict().items():
        assert torch.equal(value, fresh.module.state_dict()[name]), name
    assert fresh.history == trained.history
    checkpoint = torch.load(folder.checkpoint, weights_only=True)
    torch.save({**checkpoint, "more": bomb(mark)}, folder.checkpoint)
    refused = r"`run`. Expected a folder whose checkpoint is whole.* Received: run='.*\.ckpt'"
    with pytest.raises(InvalidArgument, match=refused):
        fresh.load(folder)
    with pytest.raises(InvalidArgument, match=refused):
        fit(settings, tmp_path / "run", resume=True)
    assert not mark.exists()
    torch.load(folder.checkpoint, weights_only=False)
    assert mark.exists()  # it would have


def test_half_a_checkpoint_is_refused(tmp_path):
    trained = fit(tiny("simclr", epochs=1, limit=64, warmup_epochs=0), tmp_path / "run")
    file = RunFolder(tmp_path / "run").checkpoint
    whole = file.read_bytes()
    for kept in (0, 100, len(whole) // 2):
        file.write_bytes(whole[:kept])
        with pytest.raises(InvalidArgument, match=r"`run`. Expected a folder whose checkpoint is"):
            trained.load(RunFolder(tmp_path / "run"))


@pytest.mark.parametrize("method", MOMENTUM)
def test_training_beats_the_random_encoder(tmp_path, method):
    options = {"method": method, "epochs": 8, "width": 8, "device": "cpu", "knn_every": 4}
    settings = resolve("digits", options)
    data = load_images("digits")
    before = knn(MethodTrainer(settings, data))["knn_accuracy"]
    trainer = MethodTrainer(settings, data)
    trainer.fit(RunFolder.create(tmp_path / "run", settings), resume=False, progress=False)
    history = RunFolder(tmp_path / "run").read_history()
    assert history == trainer.history
    assert history[-1]["loss"] < history[0]["loss"]
    assert [row["epoch"] for row in history if "knn_accuracy" in row] == [4, 8]
    assert history[-1]["knn_accuracy"] == knn(trainer)["knn_accuracy"] > before
    columns = {"epoch", "step", "loss", "alignment", "uniformity", "embedding_rank"}
    assert all(columns | {"images_per_second"} <= set(row) for row in history)


@pytest.mark.parametrize(
    ("method", "options"),
    [("simclr", {"divergence": "neyman", "alpha": 40.0}),
     ("moco", {"divergence": "reverse_kl", "head_norm": "none", "alpha": 40.0})],
)  # fmt: skip
def test_collapse_is_reported_once(tmp_path, method, options):
    settings = tiny(method, **options, epochs=14, lr=0.01)
    with pytest.warns(UserWarning, match="The features have collapsed by epoch") as caught:
        metrics = train_run(MethodTrainer, settings, tmp_path / "run", progress=False)
    assert sum("have collapsed" in str(w.message) for w in caught) == 1
    assert metrics["collapsed"] is True
    assert metrics["embedding_rank"] < 2.0


def test_a_suitable_divergence_is_not_reported(tmp_path, recwarn):
    trainer = fit(tiny("simclr", epochs=14, lr=0.01), tmp_path / "run")
    assert not [w for w in recwarn if "have collapsed" in str(w.message)]
    assert trainer.history[-1]["embedding_rank"] > 4.0


@pytest.mark.parametrize("method", MOMENTUM)
def test_bf16_trains(tmp_path, method):
    trainer = fit(tiny(method, precision="bf16", epochs=2), tmp_path / "run")
    assert np.isfinite([row["loss"] for row in trainer.history]).all()


@pytest.mark.long
@pytest.mark.parametrize(("method", "options"), [
    ("moco", {"supervised": True, "alpha": "auto"}),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        *((method, {}) for method in METHODS), ("simclr", {"views": 4}),
        ("simclr", {"supervised": True}),
        ("simclr", {"loss": "info-nce"}), ("simclr", {"loss": "alignment-uniformity"}),
        ("simclr", {"supervised": True, "views": 3, "loss": "info-nce"}),
        ("moco", {"supervised": True, "loss": "info-nce"}),
    )),
])  # fmt: skip
def test_two_processes_make_the_step_of_one(tmp_path, monkeypatch, method, options):
    """DDP on two CPU processes, float64: the same history, gradients of ratio 1 and cosine 1."""
    settings = tiny(method, epochs=1, limit=64, warmup_epochs=0, optimizer="sgd", lr=1.0,
                    momentum=0.0, weight_decay=0.0, **options)  # fmt: skip
    # The script changes these for its process, and is imported by the two that are started.
    monkeypatch.setattr(forms, "DENSE_PAIRS", forms.DENSE_PAIRS)
    monkeypatch.setitem(forms.TILE, "cpu", forms.TILE["cpu"])
    monkeypatch.syspath_prepend(DDP.parent)
    monkeypatch.delitem(sys.modules, DDP.stem, raising=False)
    script = importlib.import_module(DDP.stem)
    for devices in (1, 2):
        script.train(dataclasses.replace(settings, devices=devices), tmp_path, str(devices))
    one, two = (torch.load(tmp_path / f"{devices}.pt") for devices in (1, 2))
    assert one["row"].pop("loss") == pytest.approx(two["row"].pop("loss"), rel=1e-12)
    assert one["row"] == pytest.approx(two["row"], rel=1e-5)
    a, b = one["step"], two["step"]
    assert a.norm() > 1e-4
    assert (a @ b / (a @ a)).item() == pytest.approx(1.0, abs=1e-9)
    assert (a @ b / (a.norm() * b.norm())).item() == pytest.approx(1.0, abs=1e-9)
    if method == "moco":
        torch.testing.assert_close(one["queue"], two["queue"])
    if "supervised" in options and method == "moco":
        assert torch.equal(one["queue_labels"], two["queue_labels"])
        assert two["queue_labels"][:64].min() >= 0


def test_only_a_loss_that_knows_no_ranks_gets_gathered_features():
    """What a loss was told when it was made stays."""
    told, alone = {"distributed": True}, {"distributed": False}
    for loss, options in (
        (fmicl_loss, told), (partial(info_nce_loss, temperature=0.2), told),
        (partial(fmicl_loss, **alone), {}), (FMICLLoss(), {}), (FMICLLoss(**alone), {}),
        (alignment_uniformity_loss, None), (lambda x, y: x.sum(), None),
    ):  # fmt: skip
        assert options_over_devices(loss) == options


class NoProcessError(Exception):
    """In place of the processes of a run."""


def test_processes_get_handles_of_the_images_and_no_copies(tmp_path, monkeypatch):
    """What a process is started with is small, and its images are those of this process."""
    digits, copies = load_images("digits"), 16
    data = dataclasses.replace(
        digits,
        train_images=digits.train_images.repeat(copies, axis=0),
        train_labels=digits.train_labels.repeat(copies),
    )
    settings = tiny("moco", devices=2, limit=None)
    trainer, started = MethodTrainer(settings, data), []

    def start(function, args, **options):
        trainer, _, (_, batches, *_), *_ = args  # Lightning's
        started.extend(bytes(ForkingPickler.dumps((trainer, batches))) for _ in range(2))
        raise NoProcessError

    monkeypatch.setattr(torch.multiprocessing, "start_processes", start)
    with pytest.raises(NoProcessError):
        trainer.fit(RunFolder.create(tmp_path / "run", settings), resume=False, progress=False)
    assert max(map(len, started)) < data.train_images.nbytes / 4
    trainer.data.train_images[3] = 7
    for process, batches in map(pickle.loads, started):
        run = next(c.run for c in process.callbacks if isinstance(c, RunClock))
        for name, value in vars(data).items():
            there = getattr(run.data, name)
            assert np.array_equal(there, getattr(trainer.data, name)), name
            assert isinstance(there, type(value))
        assert batches.data is run.data


@pytest.mark.parametrize("kind", [NonFiniteLossError, InvalidArgument])
def test_our_errors_come_out_of_a_process_as_they_are(tmp_path, monkeypatch, kind):
    settings = tiny("simclr", devices=2)
    traceback = f"Traceback ...:\n\n{kind.__module__}.{kind.__name__}: It is over: at once.\n"

    def start(*arguments, **options):
        raise torch.multiprocessing.ProcessRaisedException(traceback, 1, 2)

    monkeypatch.setattr(torch.multiprocessing, "start_processes", start)
    with pytest.raises(kind, match=r"^It is over: at once\.$"):
        fit(settings, tmp_path / "run")


def test_batches_must_divide_among_devices():
    with pytest.raises(ValueError, match=r"`batch_size`. Expected a multiple of devices = 3"):
        dataclasses.replace(tiny("moco"), devices=3)
