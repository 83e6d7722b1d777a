"""Weights that are written down for wide features in JAX, by Pallas' interpreter."""

import numpy as np
import pytest

from fmicl_core import FMICL, Gaussian, fmicl_reference
from fmicl_core.fused import Tiles

jax = pytest.importorskip("jax", reason="these are tests of the JAX backend")
fmicl_jax = pytest.importorskip("fmicl_jax", reason="as above")
fused = pytest.importorskip("fmicl_jax.fused", reason="as above")
fused_pallas = pytest.importorskip("fmicl_jax.fused_pallas", reason="as above")
fused_weights = pytest.importorskip("fmicl_jax.fused_weights", reason="as above")
AUTO = jax.sharding.AxisType.Auto


class Gpu:
    """What JAX says of a GPU."""

    platform, core_count, shared_memory_per_block_optin = "gpu", 132, 232448
    compute_capability = "9.0"


@pytest.fixture
def backend(backend_named, monkeypatch):
    """JAX, with weights written down at every width, in slabs of 32 rows of 32 columns."""
    monkeypatch.setattr(fused, "INTERPRET", True)
    # As a fact of the device, which is among what is compiled for: nothing compiled is taken over.
    monkeypatch.setattr(fused, "_facts", lambda _: (7, 7))
    monkeypatch.setattr(fused_pallas, "writes_weights", lambda *_: True)
    monkeypatch.setattr(fused_weights, "weight_tiles", lambda _: Tiles(16, 16, 16, 4, 1))
    monkeypatch.setattr(fused_weights, "SLAB_BYTES", 2 * 16 * 32 * 4)
    return backend_named("jax")


CASES = {
    "cross": FMICL("js", negatives="cross"),
    "all": FMICL("kl", negatives="all"),
    "raw": FMICL("vlc", Gaussian(20.0), negatives="all", normalize=False),
    "learned": FMICL("js", negatives="all", logit_scale=3.0, logit_bias=-1.0),
}


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float32") for name in CASES), ("raw", "bfloat16")]
)
def test_the_loss_equals_the_reference(name, dtype, draw, backend, distance):
    objective = CASES[name]
    x, y, _ = draw(3, n=37, d=20)
    x, y = (backend.rounded(v, dtype) for v in (x, y))
    truth = fmicl_reference(x, y, objective)
    got = backend.evaluate(x, y, None, objective, dtype, "fused", compiled=True)
    size = abs(truth.score) + objective.alpha * abs(truth.penalty)
    assert abs(got.loss - truth.loss) <= (4e-6 if dtype == "float32" else 8e-3) * size
    assert distance(got, truth) <= (2e-5 if dtype == "float32" else 1.6e-2)


def test_a_bank_and_ids(draw, backend, distance):
    x, y, bank = draw(3, n=21, k=35)
    for more, ids in ((bank, {}), (None, {"ids": np.arange(21, dtype=np.int32) % 5})):
        truth = fmicl_reference(x, y, FMICL("js"), more, **ids)
        got = backend.evaluate(x, y, more, FMICL("js"), "float32", "fused", compiled=True, **ids)
        assert distance(got, truth) <= 2e-5


def test_the_gradient_in_one_side_alone_and_many_losses_at_once(draw, backend):
    x, y = (v.astype(np.float32) for v in draw(3, n=21)[:2])

    def loss(x, y):
        return fmicl_jax.fmicl_loss(x, y, negatives="cross", implementation="fused")

    both = jax.grad(loss, argnums=(0, 1))(x, y)
    for i in (0, 1):
        np.testing.assert_allclose(jax.grad(loss, argnums=i)(x, y), both[i], rtol=1e-6, atol=1e-8)
    many = jax.vmap(jax.grad(loss))(np.stack([x, y]), np.stack([y, x]))
    np.testing.assert_allclose(many[0], both[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("more", ["bank", "ids", "bias"])
def test_pallas_takes_what_varies_over_a_mesh(more, backend_named, monkeypatch):
    """One launch in a loop over slabs, and none for the other side; the interpreter cannot."""
    backend_named("jax")
    monkeypatch.setattr(fused, "device_of", lambda _: Gpu())
    P, bf16 = jax.sharding.PartitionSpec, jax.numpy.bfloat16
    rows = jax.ShapeDtypeStruct((40, 300), bf16)
    given = {"bank": (rows, P()), "ids": (jax.ShapeDtypeStruct((40,), np.int32), P("batch")),
             "bias": (jax.ShapeDtypeStruct((), np.float32), P())}[more]  # fmt: skip
    name = {"bias": "logit_bias"}.get(more, more)

    def loss(x, y, value):
        options = {name: value, "implementation": "fused", "axis_name": "batch"}
        return fmicl_jax.fmicl_loss(x, y, negatives="cross", **options)

    mesh = jax.make_mesh((1,), ("batch",), axis_types=(AUTO,))
    specs = P("batch"), P("batch"), given[1]
    mapped = jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=P())
    traced = jax.jit(jax.grad(mapped, (0, 1))).trace(rows, rows, given[0])
    code = traced.lower(lowering_platforms=("cuda",)).as_text()
    positives = 2 if more == "ids" else 0
    assert code.count("gpu.triton") == 1 + positives
