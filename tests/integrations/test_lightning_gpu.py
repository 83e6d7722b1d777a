"""What lets a GPU work without pause: images on it, no step that waits for it, one compiled graph.

As far as a CPU shows it. Tensors on PyTorch's device "meta" have no numbers: whatever would wait
for some of a GPU, such as `.item()`, `.cpu()` or a mask as an index, is an error there.
"""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the Lightning trainer needs PyTorch")
pytest.importorskip("lightning", reason="the Lightning trainer needs Lightning")

from functorch.compile import make_boxed_func  # noqa: E402
from torch._dynamo.backends.common import aot_autograd  # noqa: E402
from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from fmicl_core.checks import InvalidArgument  # noqa: E402
from fmicl_lightning import MethodTrainer, build_augmentation, build_method, compiled  # noqa: E402
from fmicl_lightning.augment import as_float  # noqa: E402
from fmicl_lightning.callbacks import RunClock  # noqa: E402
from fmicl_lightning.late import LateLosses  # noqa: E402
from fmicl_recipes import RunFolder, resolve  # noqa: E402
from fmicl_recipes.choices import METHODS  # noqa: E402
from fmicl_recipes.data import load_images  # noqa: E402
from fmicl_recipes.trainer import NonFiniteLossError  # noqa: E402

DATA = load_images("digits", limit=256)


def tiny(method="simclr", **options):
    small = {"width": 4, "batch_size": 64, "limit": 256, "epochs": 2, "warmup_epochs": 0,
             "projection_hidden": 16, "projection_dim": 8, "device": "cpu"}  # fmt: skip
    queue = {"queue_size": 100} if method == "moco" else {}
    return resolve("digits", {"method": method, **small, **queue, **options})


def fit(settings, out, resume=False):
    folder = RunFolder(out) if resume else RunFolder.create(out, settings)
    trainer = MethodTrainer(settings, DATA)
    trainer.fit(folder, resume=resume, progress=False)
    return trainer


def assert_same_runs(a, b):
    states = [trainer.module.state_dict() for trainer in (a, b)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    assert [row["loss"] for row in a.history] == [row["loss"] for row in b.history]


# Images on the device


@pytest.mark.parametrize(
    ("method", "options"), [("simclr", {}), ("moco", {"supervised": True}), ("moco-v3", {})]
)
def test_images_on_the_device_train_as_images_in_memory(tmp_path, method, options):
    runs = [fit(tiny(method, cache=c, **options), tmp_path / c) for c in ("memory", "gpu")]
    assert_same_runs(*runs)


def test_images_that_do_not_fit_are_refused_before_training(monkeypatch):
    monkeypatch.setattr(
        "fmicl_lightning.trainer.free_memory", lambda settings: DATA.train_images.nbytes
    )
    MethodTrainer(tiny(), DATA)
    with pytest.raises(InvalidArgument, match=r"`cache`. Expected 'memory' for images that take"):
        MethodTrainer(tiny(cache="gpu"), DATA)


# No step waits for the device


class Transfers(TorchDispatchMode):
    """Counts copies from one device to another for which Python waits."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name, own = function._overloadpacket.__name__, (kwargs or {}).get("non_blocking", False)
        if name == "copy_":
            moved, own = args[0].device != args[1].device, own or (*args, False)[2]
        else:
            moved = name == "_to_copy" and out.device != args[0].device
        self.count += moved and not own
        return out


@pytest.mark.parametrize(
    ("method", "options"),
    [("simclr", {}), ("simclr", {"loss": "info-nce", "optimizer": "lars"}), ("moco", {}),
     ("moco", {"supervised": True}), ("moco-v3", {"optimizer": "adamw"}),
     ("moco-v3", {"encoder": "vit-s6"})],
)  # fmt: skip
def test_a_step_never_waits_for_the_device(monkeypatch, method, options):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # "meta" has none
    settings = tiny(method, augmentation="photo", blur=0.5, **{"encoder": "resnet18", **options})
    module = build_method(settings, (8, 8, 3)).to("meta")
    module.late.put = lambda *_: None
    module.log = lambda *_, **__: None
    stub = {"global_step": 3, "global_rank": 0, "estimated_stepping_batches": 10, "max_epochs": 2}
    module._trainer, module._fabric = type("Stub", (), stub)(), None
    found = module.configure_optimizers()
    batch = torch.empty(64, 8, 8, 3, dtype=torch.uint8, device="meta")
    if settings.supervised:
        batch = batch, torch.empty(64, dtype=torch.int32, device="meta")
    with Transfers() as transfers:
        module.on_train_batch_start(batch, 0)
        module.training_step(batch).backward()
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    assert transfers.count == 0
    with pytest.raises((RuntimeError, NotImplementedError)):
        module.last[0].cpu()  # it would have been noticed


def test_losses_are_read_a_step_late_and_all_of_them(tmp_path, monkeypatch):
    late, read = LateLosses(), []
    for step in range(3):
        late.put(step, torch.tensor(float(step)))
        read.append([loss.step for loss in late.take(leaving=1)])
    assert read == [[], [0], [1]]
    assert list(late.take()) == [(2, 2.0)]
    seen, advance = [], RunClock._advance

    def watch(clock, trainer, module, leaving=0):
        monkeypatch.setattr(clock.bar, "advance", lambda epoch, loss: seen.append((epoch, loss)))
        advance(clock, trainer, module, leaving)

    monkeypatch.setattr(RunClock, "_advance", watch)
    trainer = fit(tiny(), tmp_path / "run")
    assert [epoch for epoch, _ in seen] == [1] * 4 + [2] * 4
    means = [np.mean([loss for e, loss in seen if e == epoch]) for epoch in (1, 2)]
    np.testing.assert_allclose([row["loss"] for row in trainer.history], means, rtol=1e-6)
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = events.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    logged = board.Scalars("loss_step")
    assert [event.step for event in logged] == list(range(8))
    np.testing.assert_allclose([event.value for event in logged], [loss for _, loss in seen])
    assert len(board.Scalars("loss_epoch")) == 2


@pytest.mark.parametrize("step", [0, 3, 4])
def test_a_loss_that_is_not_finite_is_named_with_its_own_step(tmp_path, monkeypatch, step):
    """Also that of the last step of an epoch, 3, of which no checkpoint is then kept."""
    contrast, count = MethodTrainer(tiny(), DATA).module.__class__.contrast, iter(range(9))

    def breaking(method, *views, **plan):
        loss, *others = contrast(method, *views, **plan)
        return loss * (float("nan") if next(count) == step else 1.0), *others

    monkeypatch.setattr("fmicl_lightning.simclr.SimCLR.contrast", breaking)
    with pytest.raises(NonFiniteLossError, match=rf"nan at step {step} \(epoch {step // 4 + 1}\)"):
        fit(tiny(), tmp_path / "run")
    assert RunFolder(tmp_path / "run").checkpoint.exists() == (step > 3)


# One compiled graph


@pytest.fixture
def traced(monkeypatch):
    """The compiled step, traced in full but run by PyTorch's own operators: quick."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    step = torch.compile(compiled._step, dynamic=False, fullgraph=True, backend=counter)
    monkeypatch.setattr(compiled, "_compiled", lambda: step)
    return counter


@pytest.mark.parametrize(
    "method", ["simclr", *(pytest.param(m, marks=pytest.mark.slow) for m in METHODS if "moco" in m)]
)
def test_views_networks_and_loss_are_one_graph_for_all_steps(tmp_path, traced, method):
    """And give what the plain step gives; a run goes on from a checkpoint of the other kind."""
    settings = tiny(method, compile=True)
    graph = fit(settings, tmp_path / "compiled")
    assert traced.frame_count == 1
    plain = fit(replace(settings, compile=False), tmp_path / "plain")
    states = [trainer.module.state_dict() for trainer in (graph, plain)]
    assert states[0].keys() == states[1].keys()
    np.testing.assert_allclose(
        [row["loss"] for row in graph.history], [row["loss"] for row in plain.history], rtol=1e-3
    )
    graph.load(RunFolder(tmp_path / "plain"))
    assert_same_runs(graph, plain)


@pytest.mark.slow
def test_a_compiled_run_that_was_interrupted_goes_on_exactly(tmp_path, traced, power_cut):
    settings = tiny("moco-v3", compile=True)
    whole = fit(settings, tmp_path / "whole")
    with power_cut(1):
        fit(settings, tmp_path / "cut")
    assert_same_runs(whole, fit(settings, tmp_path / "cut", resume=True))


def test_convolutions_of_a_compiled_step_are_bf16_and_channels_last(tmp_path, monkeypatch):
    """Views are made in float32, and cast once."""
    seen = []

    def look(graph, inputs):
        for node in graph.graph.nodes:
            if node.target is torch.ops.aten.convolution.default:
                seen.extend(part.meta["val"] for part in node.args[:2])
            if node.target is torch.ops.aten.grid_sampler_2d.default:
                assert node.meta["val"].dtype == torch.float32
        return make_boxed_func(graph.forward)

    step = torch.compile(compiled._step, fullgraph=True, backend=aot_autograd(fw_compiler=look))
    monkeypatch.setattr(compiled, "_compiled", lambda: step)
    module = build_method(tiny(augmentation="photo", compile=True), (8, 8, 3))
    module._trainer = type("Stub", (), {"global_step": 0, "global_rank": 0})()
    module._fabric, module.log = None, lambda *_, **__: None
    with torch.autocast("cpu", torch.bfloat16):
        module.training_step(torch.zeros(64, 8, 8, 3, dtype=torch.uint8)).backward()
    assert len(seen) == 8
    assert all(part.dtype == torch.bfloat16 for part in seen)
    assert all(part.is_contiguous(memory_format=torch.channels_last) for part in seen)


@pytest.mark.slow
def test_the_compiled_step_draws_what_the_plain_one_draws(tmp_path):
    """By PyTorch's own compiler, which needs one for C++."""
    options = {"augmentation": "photo", "epochs": 1, "limit": 128, "blur": 0.5}
    runs = [fit(tiny(**options, compile=c), tmp_path / str(c)) for c in (False, True)]
    losses = [run.history[0]["loss"] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_where_nothing_can_be_compiled_the_error_names_the_option(tmp_path, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("No working C++ compiler found")

    step = torch.compile(compiled._step, backend=broken)
    monkeypatch.setattr(compiled, "_compiled", lambda: step)
    with pytest.raises(InvalidArgument, match=r"`compile`. Expected False where.*It said: .*C\+\+"):
        fit(tiny(compile=True), tmp_path / "run")


@pytest.mark.parametrize("name", ["photo", "digits"])
def test_an_augmentation_is_one_graph(name):
    augment = build_augmentation(name, (8, 8))
    images = as_float(torch.from_numpy(DATA.train_images[:8]).repeat(1, 1, 1, 3))
    traced = torch.compile(augment, backend="eager", fullgraph=True)
    drawn = [torch.manual_seed(1) and function(images) for function in (augment, traced)]
    torch.testing.assert_close(*drawn)
