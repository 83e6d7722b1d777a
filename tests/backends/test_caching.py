"""`cached_loss` is the loss of the whole batch, with its gradient, in memory of a mini-batch."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
IDS = np.arange(10) % 4


@pytest.fixture
def torch(require):
    return require("torch")


@pytest.fixture
def library(backend_named):
    return backend_named("torch").library


@pytest.fixture
def encoder(torch):
    """Convolutions with group norm and dropout, and an MLP; of images (N, 3, 8, 8)."""
    nn = torch.nn
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Dropout(0.2),
              nn.Conv2d(8, 8, 3, stride=2), nn.Flatten(), nn.Linear(72, 32), nn.GELU(),
              nn.Linear(32, 6))  # fmt: skip
    return nn.Sequential(*layers)


@pytest.fixture
def images(torch):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 10, 3, 8, 8, generator=generator, dtype=torch.float64)


def gradients(loss, module):
    """The loss, and the gradients in the parameters of a module in one vector."""
    module.zero_grad()
    loss.backward()
    return loss.item(), np.concatenate([p.grad.double().flatten() for p in module.parameters()])


def check(got, want, within):
    assert got[0] == pytest.approx(want[0], rel=within)
    assert np.linalg.norm(got[1] - want[1]) < within * np.linalg.norm(want[1])


def run_with_same_dropout(torch, size, encode, images):
    """Views embedded in mini-batches at once, which draw the numbers of dropout as caching does."""
    torch.manual_seed(5)
    return [torch.cat([encode(part) for part in view.split(size)]) for view in images]


LOSSES = {
    "f-MICL": ("fmicl_loss", {"divergence": "js", "negatives": "all"}),
    "tiled": ("fmicl_loss", {"implementation": "tiled", "ids": "int64"}),
    "InfoNCE": ("info_nce_loss", {"temperature": 0.2}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 4, 10, 64])
@pytest.mark.parametrize("loss", LOSSES)
def test_it_is_one_large_batch(torch, library, encoder, images, loss, size, dtype):
    """Convolutions, group norm, MLP and the same dropout; a last mini-batch that is shorter."""
    name, options = LOSSES[loss]
    options = options | ({"ids": torch.from_numpy(IDS)} if "ids" in options else {})
    encoder, images = encoder.to(getattr(torch, dtype)), images.to(getattr(torch, dtype))
    function = getattr(library, name)
    views = run_with_same_dropout(torch, size, encoder, images)
    want = gradients(function(*views, **options), encoder)
    torch.manual_seed(5)
    got = library.cached_loss(function, encoder, *images, mini_batch_size=size, **options)
    after = torch.get_rng_state()
    check(gradients(got, encoder), want, 1e-6 if dtype == "float32" else 1e-12)
    assert torch.equal(torch.get_rng_state(), after)
    assert encoder.training
    with torch.no_grad():
        torch.manual_seed(5)
        value = library.cached_loss(function, encoder, *images, mini_batch_size=size, **options)
    assert value.item() == pytest.approx(want[0], rel=1e-6)
    assert not value.requires_grad


def test_a_second_backward_pass_accumulates_and_factors_arrive(torch, library, encoder, images):
    """As gradient scalers, accumulation and losses in a sum do it."""
    encoder = encoder.double().eval()
    loss = library.cached_loss(library.fmicl_loss, encoder, *images, mini_batch_size=3)
    once = gradients(loss, encoder)
    twice = library.cached_loss(library.fmicl_loss, encoder, *images, mini_batch_size=3)
    penalty = sum(p.square().sum() for p in encoder.parameters())
    (8.0 * twice + penalty).backward()
    want = 9.0 * once[1] + 2.0 * np.concatenate(
        [p.detach().flatten() for p in encoder.parameters()]
    )
    grads = np.concatenate([p.grad.flatten() for p in encoder.parameters()])
    np.testing.assert_allclose(grads, want, rtol=1e-9, atol=1e-12)


class Pixels(NamedTuple):
    pixels: object
    weight: object


def test_inputs_are_trees_and_two_towers_learn_with_the_loss(torch, library, encoder, images):
    """A dictionary with what is no tensor, a named tuple; SigLIP's scale and bias learn, too."""
    encoder, loss = encoder.double().eval(), library.SigLIPLoss().double()
    other = torch.nn.Linear(192, 6).double()
    towers = torch.nn.ModuleList([encoder, other, loss])
    weights = torch.linspace(0.5, 2.0, 10, dtype=torch.float64)[:, None]

    def of_named(inputs):
        return inputs.weight * encoder(inputs.pixels)

    def of_mapping(inputs):
        assert inputs["kind"] == "image"
        return other(inputs["pixels"][0].flatten(1))

    want = gradients(loss(weights * encoder(images[0]), other(images[1].flatten(1))), towers)
    inputs = Pixels(images[0], weights), {"pixels": [images[1]], "kind": "image"}
    encoders = of_named, of_mapping
    got = library.cached_loss(loss, encoders, *inputs, mini_batch_size=4)
    check(gradients(got, towers), want, 1e-12)


def test_autocast_is_as_it_was(torch, library, encoder, images):
    encoder, images = encoder.eval(), images.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        want = library.fmicl_loss(*map(encoder, images))
        got = library.cached_loss(library.fmicl_loss, encoder, *images, mini_batch_size=10)
    check(gradients(got, encoder), gradients(want, encoder), 1e-6)


def test_second_derivatives_are_those_of_the_loss(torch, library, encoder, images):
    """The dense form has them; the tiled form says that it has not."""
    encoder = encoder.double().eval()

    def curvature(loss):
        parameters = list(encoder.parameters())
        grads = torch.autograd.grad(loss, parameters, create_graph=True)
        return gradients(sum(g.square().sum() for g in grads), encoder)

    want = curvature(library.fmicl_loss(*map(encoder, images)))
    run = functools.partial(library.cached_loss, library.fmicl_loss, encoder, *images)
    check(curvature(run(mini_batch_size=4)), want, 1e-9)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        curvature(run(mini_batch_size=4, implementation="tiled"))


def test_batch_norm_is_refused_by_name(torch, library, images):
    nn, images = torch.nn, images.float()

    class Own(nn.BatchNorm2d):
        pass

    def with_norm(norm):
        body = nn.Sequential(nn.Conv2d(3, 4, 3), norm)
        return nn.Sequential(body, nn.Flatten(), nn.LazyLinear(5))

    def calls(encoder):
        return lambda view: encoder(view)  # read by name alone

    run = functools.partial(library.cached_loss, library.fmicl_loss, mini_batch_size=4)
    for norm in (nn.BatchNorm2d(4), Own(4), nn.LazyBatchNorm2d(), nn.SyncBatchNorm(4)):
        encoder = with_norm(norm)
        wrapped = [encoder, encoder.forward, functools.partial(encoder), calls(encoder)]
        for encode in (*wrapped, (nn.Flatten(), encoder)):
            name = rf"`encode`. Expected no batch norm .*`0.1` \({type(norm).__name__}\)"
            with pytest.raises(ValueError, match=name):
                run(encode, *images)
    frozen = with_norm(nn.BatchNorm2d(4)).eval()
    assert run(frozen, *images).isfinite()
    for fine in (nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)):
        assert run(with_norm(fine), *images).isfinite()
    with pytest.raises(ValueError, match="Expected no batch norm"):  # which has no statistics
        run(with_norm(nn.BatchNorm2d(4, track_running_stats=False)).eval(), *images)
    many = nn.Sequential(*(nn.BatchNorm1d(5) for _ in range(5)))
    with pytest.raises(ValueError, match=r"`2` .* and 2 more"):
        run(many, *torch.randn(2, 8, 5))


def test_what_is_wrong_is_named(torch, library, images):
    x, y = images.flatten(2)
    run = functools.partial(library.cached_loss, library.fmicl_loss)
    one = torch.nn.Linear(192, 6).double()
    for encode, inputs, size, message in (
        (one, (x, y), 0, "`mini_batch_size`. Expected a whole number >= 1"),
        (one, (), 4, "`inputs`. Expected the inputs of one view or more"),
        ((one,), (x, y), 4, "`encode`. Expected one encoder, or one for each of 2 inputs"),
        (
            one,
            ({"a": x, "b": y[:3]},),
            4,
            r"`inputs`. .* equally many .*=\[\(10, 192\), \(3, 192\)",
        ),
        (one, ("text",), 4, r"`inputs`. Expected arrays of one view .*=\[\]"),
        (lambda v: (one(v),), (x, y), 4, "`encode`. .* features of 4 samples, .*='tuple'"),
        (lambda v: one(v).sum(1), (x, y), 4, r"`encode`. .* features of 4 samples, .*=\(4,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            run(encode, *inputs, mini_batch_size=size)
    with pytest.raises(ValueError, match=r"`loss`. Expected .* a scalar"):
        library.cached_loss(library.fmicl_terms, one, x, y, mini_batch_size=4)


@pytest.mark.slow  # its gradients, in the same mini-batches, are quick
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_peak_memory_is_that_of_a_mini_batch(require, framework):
    """A transformer on 64 images of two views, 8 at a time; one pass takes 200 MiB and more."""
    require(framework)

    def mib(way):
        command = ["-m", "benchmarks.caching", framework, "--probe", way]
        output = subprocess.check_output(
            [sys.executable, *command, "--n", "64", "--mini-batch", "8"], cwd=ROOT, text=True,
            env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
        )  # fmt: skip
        return int(output.split()[-1]) / 2**20

    assert mib("cached") < 1.5 * mib("mini_batch") + 5.0


@pytest.mark.long
def test_ranks_synchronise_once(torch):
    """Two processes, the encoder or the whole module under DistributedDataParallel."""
    command = [sys.executable, "ranks/torch_caching.py"]
    output = subprocess.check_output(command, cwd=Path(__file__).parent, text=True)
    results = json.loads(output.strip().splitlines()[-1])
    assert len(results) == 8
    for name, (value, gradient, messages, plain) in results.items():
        assert value < 1e-12, name
        assert gradient < 1e-12, name
        assert messages == plain, name


@pytest.fixture
def jax(backend_named):
    backend = backend_named("jax")
    return backend.framework, backend.library


def tower(jax):
    """Parameters and an encoder: an MLP whose dropout has a key for each sample."""
    first, second = (0.3 * np.random.default_rng(i).normal(size=s) for i, s in
                     enumerate([(12, 32), (32, 6)]))  # fmt: skip

    def encode(params, inputs):
        hidden = jax.nn.gelu(inputs["x"] @ params["first"])
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 0.8, (32,)))(inputs["key"])
        return (hidden * kept) @ params["second"]

    return {"first": jax.numpy.asarray(first), "second": jax.numpy.asarray(second)}, encode


def views_of(jax, rows=10):
    x = np.random.default_rng(2).normal(size=(2, rows, 12))
    keys = jax.random.split(jax.random.key(0), (2, rows))
    return [{"x": jax.numpy.asarray(side), "key": key} for side, key in zip(x, keys, strict=True)]


@pytest.mark.parametrize("size", [1, 4, 5, 64])
def test_it_is_one_large_batch_in_jax(jax, size):
    """Under jit, with dropout by keys, a shorter last mini-batch, and a scale that learns."""
    jax, library = jax
    params, encode = tower(jax)
    views = views_of(jax)
    params |= {"scale": jax.numpy.asarray(2.0)}
    options = {"divergence": "js", "negatives": "all", "implementation": "tiled"}

    def whole(params):
        features = (encode(params, view) for view in views)
        return library.fmicl_loss(*features, logit_scale=params["scale"], **options)

    def cached(params):
        return library.cached_loss(
            library.fmicl_loss, encode, params, *views, mini_batch_size=size,
            logit_scale=params["scale"], **options,
        )  # fmt: skip

    (a, got), (b, want) = (jax.jit(jax.value_and_grad(f))(params) for f in (cached, whole))
    assert float(a) == pytest.approx(float(b), rel=1e-12)
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-10, atol=1e-12), got, want)


def test_what_is_wrong_is_named_in_jax(jax, require):
    jax, library = jax
    params, encode = tower(jax)
    views = views_of(jax)
    run = functools.partial(library.cached_loss, library.fmicl_loss)
    statistics = {"params": params, "batch_stats": {"norm": {"mean": np.zeros(3)}}}
    for f, given, message in (
        (encode, statistics, r"`params`. Expected no batch norm .*\['batch_stats'\]\['norm'\]"),
        (lambda p, v: (encode(p, v), p), params, "`encode`. .* features of 4 samples.*'tuple'"),
        ((encode,), params, "`encode`. Expected one encoder, or one for each of 2"),
    ):
        with pytest.raises(ValueError, match=message):
            run(f, given, *views, mini_batch_size=4)
    nnx = pytest.importorskip("flax.nnx", reason="nnx marks the statistics of its batch norms")
    _, state = nnx.split(nnx.BatchNorm(4, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"`params`. .*\['mean'\]` \(BatchStat\)"):
        run(encode, state, *views, mini_batch_size=4)


@pytest.mark.parametrize("way", ["split", "partial", "module"])
def test_batch_norm_of_nnx_that_an_encoder_reads_is_refused_unless_frozen(jax, way):
    jax, library = jax
    nnx = pytest.importorskip("flax.nnx", reason="nnx marks the statistics of its batch norms")
    x, y = (view["x"] for view in views_of(jax))
    for freeze in (False, True):
        norm = nnx.BatchNorm(8, rngs=nnx.Rngs(1))
        model = nnx.Sequential(nnx.Linear(12, 8, rngs=nnx.Rngs(0)), norm)
        model = model.eval() or model if freeze else model
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def merged(rest, params, x, graph=graph):
            return nnx.merge(graph, params, rest)(x)

        encode = {
            "split": lambda params, x, rest=rest, graph=graph: nnx.merge(graph, params, rest)(x),
            "partial": functools.partial(merged, rest, graph=graph),
            "module": lambda params, x, model=model: model(x),
        }[way]
        run = functools.partial(library.cached_loss, library.fmicl_loss, encode, params, x, y)
        if freeze:
            assert np.isfinite(run(mini_batch_size=4))
        else:
            with pytest.raises(ValueError, match=r"`encode`. Expected no .*mean.* \(BatchStat\)"):
                run(mini_batch_size=4)


def test_the_lines_for_nnx_work(jax):
    jax, library = jax
    nnx = pytest.importorskip("flax.nnx", reason="the docstring shows an nnx module")
    model = nnx.Sequential(nnx.Linear(12, 8, rngs=nnx.Rngs(0)), nnx.LayerNorm(8, rngs=nnx.Rngs(1)))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    x, y = (view["x"] for view in views_of(jax))

    def encode(params, x):
        return nnx.merge(graph, params, rest)(x)

    def of(params):
        return library.cached_loss(library.fmicl_loss, encode, params, x, y, mini_batch_size=4)

    loss, grads = jax.jit(jax.value_and_grad(of))(params)
    assert float(loss) == pytest.approx(float(library.fmicl_loss(model(x), model(y))), rel=1e-10)
    assert all(np.isfinite(g).all() and g.any() for g in jax.tree.leaves(grads)[:2])


def test_it_works_inside_of_shard_map(jax):
    """One device here; the axis and its union are those of the loss alone."""
    jax, library = jax
    params, encode = tower(jax)
    views = views_of(jax)
    rows = jax.sharding.PartitionSpec("rows")
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))

    def loss(params, x, y):
        return library.cached_loss(
            library.fmicl_loss, encode, params, x, y, mini_batch_size=4, axis_name="rows"
        )

    everywhere = jax.sharding.PartitionSpec()
    shared = jax.shard_map(loss, mesh=mesh, in_specs=(everywhere, rows, rows), out_specs=everywhere)
    got = jax.jit(jax.grad(shared))(params, *views)
    want = jax.jit(jax.grad(lambda p: library.fmicl_loss(*(encode(p, v) for v in views))))(params)
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-9, atol=1e-12), got, want)
