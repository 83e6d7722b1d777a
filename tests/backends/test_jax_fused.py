"""The Pallas routine of fmicl_jax, run by Pallas' interpreter, equals the reference.

That Triton's compiler takes what Pallas writes is in test_torch_fused.py.
"""

from functools import partial

import numpy as np
import pytest

from fmicl_core import FMICL, Gaussian, fmicl_reference, forms
from fmicl_core.fused import Tiles
from fmicl_core.pairs import NEGATIVES

jax = pytest.importorskip("jax", reason="these are tests of the JAX backend")
fmicl_jax = pytest.importorskip("fmicl_jax", reason="these are tests of the JAX backend")
fused = pytest.importorskip("fmicl_jax.fused", reason="as above")
fused_pallas = pytest.importorskip("fmicl_jax.fused_pallas", reason="as above")
plan = pytest.importorskip("fmicl_jax.plan", reason="as above")
jnp = jax.numpy
AUTO = jax.sharding.AxisType.Auto

#: Largest errors of the loss and of the gradients.
LOSS = {"float32": 4e-6, "float16": 1e-3, "bfloat16": 8e-3}
GRADIENT = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
collapsing = pytest.mark.filterwarnings("ignore:.*known to collapse:UserWarning")


class Gpu:
    """What JAX says of a GPU."""

    platform, core_count, shared_memory_per_block_optin = "gpu", 132, 1000

    def __init__(self, capability):
        self.compute_capability = capability


@pytest.fixture
def as_on_a_gpu(backend_named, monkeypatch):
    """JAX, taken to be on a GPU while it traces."""
    backend_named("jax")
    monkeypatch.setattr(fused, "device_of", lambda _: Gpu("9.0"))
    fused._formulas_refused.cache_clear()


@pytest.fixture
def set_tiles(monkeypatch):
    """Let the fused tiles have these rows, columns and width, and cut columns into parts."""

    def set_to(rows=16, columns=16, width=16, parts=2):
        # As facts of the device, which are among what the routine is compiled for: none that was
        # compiled with other tiles is taken.
        facts = parts, Tiles(rows, columns, width, 4, 1)
        monkeypatch.setattr(fused, "_facts", lambda _: facts)

    monkeypatch.setattr(fused_pallas, "tiles_for", lambda d, dtype, tf32, memory, atomic: memory)
    monkeypatch.setattr(
        fused_pallas, "parts_for",
        lambda parts, n, k, chunks, tiles: min(parts, -(-k // tiles.columns)),
    )  # fmt: skip
    return set_to


@pytest.fixture
def backend(backend_named, set_tiles, monkeypatch):
    """JAX, with the fused routine interpreted, in tiles of 16."""
    set_tiles()
    monkeypatch.setattr(fused, "INTERPRET", True)
    return backend_named("jax")


@pytest.fixture
def errors(backend, distance):
    """Relative errors of the loss and of all else against the reference of the same features."""

    def of(objective, x, y, bank=None, dtype="float32", **ids):
        arrays = [None if v is None else backend.rounded(v, dtype) for v in (x, y, bank)]
        truth = fmicl_reference(*arrays[:2], objective, arrays[2], **ids)
        got = backend.evaluate(*arrays, objective, dtype, "fused", compiled=True, **ids)
        size = abs(truth.score) + objective.alpha * abs(truth.penalty)
        return abs(got.loss - truth.loss) / size, distance(got, truth)

    return of


@collapsing
def test_every_divergence_similarity_and_scheme(few, draw, errors):
    x, y, bank = draw(3, n=21, k=18 if few.pairs == "bank" else None)
    if not few.objective.normalize:
        x, y, bank = (None if v is None else 0.5 * v for v in (x, y, bank))
    loss, gradient = errors(few.objective, x, y, bank)
    assert loss <= LOSS["float32"]
    assert gradient <= GRADIENT["float32"]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_costs_what_its_rounding_does(dtype, normalize, draw, errors):
    x, y, _ = draw(3, n=21)
    objective = FMICL("js", Gaussian(2.0), negatives="all", normalize=normalize)
    loss, gradient = errors(objective, x, y, dtype=dtype)
    assert loss <= LOSS[dtype]
    assert gradient <= GRADIENT[dtype]
    if normalize:  # which leaves numbers that products have to round
        assert loss > 1e-7


@collapsing
def test_pallas_can_write_every_formula_in_triton(case):
    assert [fused._formulas_refused(case.objective.pairwise, p) for p in (False, True)] == [""] * 2


@pytest.mark.parametrize(
    ("n", "k", "d", "normalize", "tiles"),
    [
        (2, None, 1, False, (16, 16, 16, 1)),
        (33, None, 5, True, (16, 16, 16, 5)),
        (40, None, 100, False, (32, 16, 128, 2)),
        (20, None, 130, True, (16, 32, 32, 1)),
        (17, 70, 40, False, (16, 32, 16, 3)),
        (32, 16, 32, True, (32, 16, 32, 1)),
        (1, 1, 3, False, (16, 16, 16, 1)),
    ],
)
def test_any_size(n, k, d, normalize, tiles, draw, errors, set_tiles):
    """Rows, columns and widths off the tile, of one piece and of several."""
    set_tiles(*tiles)
    # "all" has symmetric blocks and a full one.
    objective = FMICL("js", Gaussian(d / 2.0), negatives="all", normalize=normalize)
    assert max(errors(objective, *draw(0, n, d, k))) < 4e-6


def test_features_far_from_0_lose_no_digits_of_the_gradient(draw, errors):
    """Weighted features and the sum of weights nearly cancel there: weights must be the same."""
    x, y, _ = draw(0, 40, 8)
    objective = FMICL("js", Gaussian(2.0), negatives="all", normalize=False)
    _, gradient = errors(objective, 0.5 * x + 10.0, 0.5 * y + 10.0, dtype="bfloat16")
    assert gradient < GRADIENT["bfloat16"]


def mean_by_hand(how, x, y, counts, pairs):
    """Mean over so many pairs, each counted so many times, and its gradients; float64."""
    a, b, c = how.pairwise.coefficients()
    x, y = np.float64(x), np.float64(y)
    z = a * x @ y.T + b * ((x**2).sum(1)[:, None] + (y**2).sum(1)) + c
    positive = counts.dtype.kind == "f"
    value = how.pairwise.positive(z) if positive else how.pairwise.excess(z)
    slope = how.pairwise.positive_slope(z) if positive else how.pairwise.excess_and_slope(z)[1]
    counts = counts * ~np.eye(*z.shape, dtype=bool) / pairs
    weight = counts * slope
    in_x = a * weight @ y + 2.0 * b * weight.sum(1)[:, None] * x
    in_y = a * weight.T @ x + 2.0 * b * weight.sum(0)[:, None] * y
    return (counts * value).sum(), in_x, in_y


@pytest.mark.parametrize(
    ("positive", "normalize", "is_sorted"),
    [(True, False, False), (True, True, True), (False, False, True)],
)
def test_pairs_by_the_numbers_of_their_rows(positive, normalize, is_sorted, set_tiles, draw):
    """Means over pairs with different numbers, and weighted ones over pairs with equal ones."""
    set_tiles()
    facts = plan.Fused("float32", False, 2, Tiles(16, 16, 16, 4, 1), True)
    how = plan.Plan(FMICL("js", normalize=normalize).pairwise, True, 0, facts)
    run = jax.jit(fused_pallas.fused_mean_and_gradients, static_argnums=(3, 4))
    rng = np.random.default_rng(3)
    x, _, y = (v.astype(np.float32) for v in draw(0, 49, 5, 25))
    numbers = [np.sort(rng.integers(0, 20, size)).astype(np.int32) for size in (49, 25)]
    if not is_sorted:
        numbers = [np.roll(n, 18) for n in numbers]
    by_number = rng.uniform(0.1, 1.0, 20).astype(np.float32)
    for right, sides in ((None, (numbers[0], None)), (y, tuple(numbers))):
        others, theirs = (x, numbers[0]) if right is None else (y, numbers[1])
        weights = by_number[numbers[0]] if positive else None
        counts = numbers[0][:, None] == theirs
        counts = counts * weights[:, None] if positive else ~counts
        pairs = 49 if positive else 49 * (len(others) - 1)
        want, in_x, in_y = mean_by_hand(how, x, others, counts, pairs)
        more = sides, weights
        got, (grad_x, grad_y, _) = run(x, right, None, how, (True, True, False), *more)
        if right is None:
            in_x, got = in_x + in_y, [got, run(x, right, None, how, (False,) * 3, *more)[0]]
        else:
            np.testing.assert_allclose(grad_y, in_y, rtol=1e-4, atol=1e-5 * abs(in_y).max())
        np.testing.assert_allclose(got, want, rtol=1e-5)
        np.testing.assert_allclose(grad_x, in_x, rtol=1e-4, atol=1e-5 * abs(in_x).max())


def test_tiles_without_equal_numbers_are_not_visited(set_tiles, draw):
    """Not a number of theirs is looked at: it would spread over the gradients of other rows."""
    set_tiles()
    facts = plan.Fused("float32", False, 2, Tiles(16, 16, 16, 4, 1), True)
    how = plan.Plan(FMICL("js").pairwise, True, 0, facts)
    x = jnp.asarray(draw(0, 64)[0], jnp.float32).at[32:48].set(jnp.nan)
    numbers, ones = jnp.arange(64, dtype=jnp.int32) // 4, jnp.ones(64)
    run = jax.jit(fused_pallas.fused_mean_and_gradients, static_argnums=(3, 4))
    wanted = True, False, False
    _, (gradient, *_) = run(x, None, None, how, wanted, (numbers, None), ones)
    finite = jnp.isfinite(gradient).all(axis=1)
    assert jnp.array_equal(finite, (numbers < 8) | (numbers >= 12))


def test_pairs_by_id(draw, errors):
    ids = np.random.default_rng(1).integers(-3, 9, 40, np.int32)
    objective = FMICL("js", negatives="all", normalize=False)
    loss, gradient = errors(objective, *draw(0, 40)[:2], dtype="float16", ids=ids)
    assert loss <= LOSS["float16"]
    assert gradient <= GRADIENT["float16"]


@pytest.mark.parametrize(
    ("negatives", "normalize", "dtype", "labelled"),
    [("all", True, "float32", False), ("anchor", False, "bfloat16", False),
     ("cross", True, "float32", True)],
)  # fmt: skip
def test_a_scale_and_a_bias_that_learn(draw, errors, negatives, normalize, dtype, labelled):
    """Gradients in both, in symmetric blocks and in full ones, with ids and without."""
    x, y, _ = draw(2, 40)
    ids = np.random.default_rng(1).integers(0, 12, 40, np.int32) if labelled else None
    learned = {"logit_scale": 2.5, "logit_bias": -0.75}
    objective = FMICL("js", negatives=negatives, normalize=normalize, **learned)
    loss, gradient = errors(objective, 0.5 * x, 0.5 * y, dtype=dtype, ids=ids)
    assert loss <= LOSS[dtype]
    assert gradient <= GRADIENT[dtype]


@pytest.mark.parametrize("negatives", ["anchor", "cross"])
def test_a_bias_that_learns_alone(backend, draw, negatives):
    """Features are frozen: no gradient of theirs is computed, and symmetric blocks are halved."""
    x, y = (jnp.asarray(v, jnp.float32) for v in draw(2, 40)[:2])
    loss = partial(fmicl_jax.fmicl_loss, divergence="js", negatives=negatives)

    def of(bias, implementation):
        return loss(x, y, logit_bias=bias, implementation=implementation)

    got, want = (jax.value_and_grad(of)(jnp.float32(-0.5), form) for form in ("fused", "dense"))
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_the_loss_alone_is_that_with_a_gradient(backend, set_tiles, negatives, draw):
    """Symmetric blocks visit half of their tiles where no gradient is wanted."""
    set_tiles(16, 32, 16, 2)
    x, y = (jnp.asarray(v, jnp.float32) for v in draw(0, 40, 10)[:2])
    loss = jax.jit(partial(fmicl_jax.fmicl_loss, negatives=negatives, implementation="fused"))
    value, gradient = jax.value_and_grad(loss)(x, y)
    assert float(loss(x, y)) == pytest.approx(float(value), rel=1e-6)
    assert jnp.array_equal(gradient, jax.value_and_grad(loss)(x, y)[1])  # to the bit


def test_gradients_are_computed_where_they_are_wanted(backend, draw, monkeypatch):
    launched = []
    sums = fused_pallas.block_sums

    def spy(left, right, plan, grad, *more):
        launched.append((len(left), grad))
        return sums(left, right, plan, grad, *more)

    monkeypatch.setattr(fused_pallas, "block_sums", spy)
    x, y, bank = (jnp.asarray(v, jnp.float32) for v in draw(0, 20, 5, 18))

    def loss(x, y, bank):
        return fmicl_jax.fmicl_loss(x, y, bank=bank, implementation="fused")

    for argnums, want in (
        ((0,), [(20, True)]), ((2,), [(20, False), (18, True)]),
        ((0, 2), [(20, True), (18, True)]), ((1,), [(20, False)]),
    ):  # fmt: skip
        launched.clear()
        jax.make_jaxpr(jax.grad(loss, argnums))(x, y, bank)
        assert launched == want


def test_jit_vmap_and_forward_mode(backend, draw):
    x, y = (jnp.asarray(v, jnp.float32).reshape(2, 2, 10, 5) for v in draw(1, 40)[:2])
    loss = partial(fmicl_jax.fmicl_loss, negatives="cross", implementation="fused")
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    run = jax.value_and_grad(loss, argnums=1)
    value, gradient = run(x[0, 1], y[0, 1])
    values, gradients = jax.jit(jax.vmap(jax.vmap(run)))(x, y)
    close(values[0, 1], value)
    close(gradients[0, 1], gradient)
    close(jax.jit(jax.vmap(run, in_axes=(None, 0)))(x[0, 1], y[0])[1][1], gradient)
    slope = jax.jit(lambda y: jax.jvp(partial(loss, x[0, 1]), (y,), (jnp.cos(y),))[1])(y[0, 1])
    close(slope, (gradient * jnp.cos(y[0, 1])).sum())


def test_a_second_derivative_is_refused(backend, draw):
    x, y = (jnp.asarray(v, jnp.float32) for v in draw(0)[:2])
    with pytest.raises(RuntimeError, match=r"use implementation='dense'"):
        jax.hessian(partial(fmicl_jax.fmicl_loss, implementation="fused"))(x, y)


def test_a_user_s_divergence_is_traced(cubic, quartic, draw, errors):
    objective = FMICL(cubic, quartic, negatives="all")
    assert max(errors(objective, *draw(0)[:2])) < 1e-5


UNWRITABLE = {
    "foreign": lambda L, ops: jnp.exp(L) + 0.0 * jax.scipy.special.digamma(L),
    "branching": lambda L, ops: ops.exp(L) if L < 100.0 else L,  # other for each pair
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_what_cannot_be_written_falls_back(backend, name, kl_by, draw, monkeypatch):
    monkeypatch.setattr(forms, "DENSE_PAIRS", 10)
    x, y = (jnp.asarray(v, jnp.bfloat16) for v in draw(0)[:2])
    divergence = kl_by(UNWRITABLE[name])
    assert fused.fused_for("auto", FMICL(divergence).pairwise, x, "bfloat16", 11, 11) is None
    with pytest.raises(ValueError, match=r"`implementation`. Expected one of 'auto', 'dense', 't.*"
                                         r"Pallas cannot write the formulas \("):  # fmt: skip
        fmicl_jax.fmicl_loss(x, y, divergence=divergence, implementation="fused")


@pytest.mark.parametrize(
    ("dtype", "d", "why"), [("float64", 5, "float64"), ("float32", 1025, "D <= 1024, not 1025")]
)
def test_other_features_are_refused_or_fall_back(backend, dtype, d, why, draw):
    x, y = (jnp.asarray(v, dtype) for v in draw(0, 4, d)[:2])
    with pytest.raises(ValueError, match=f"for this input.*{why}.*Received: implementation='fused"):
        fmicl_jax.fmicl_loss(x, y, implementation="fused")
    assert jnp.isfinite(fmicl_jax.fmicl_loss(x, y))


def test_more_entries_than_pallas_can_count_are_refused(backend, monkeypatch):
    monkeypatch.setattr(fused, "MAX_ENTRIES", 16 * 11)
    x = jnp.eye(11, 5, dtype=jnp.float32)
    with pytest.raises(ValueError, match=r"The fused form takes N D < 176, not 11 x 16."):
        fmicl_jax.fmicl_loss(x, x, implementation="fused")
    assert fused.fused_for("fused", FMICL().pairwise, x, "float32", 10, 10) is not None


def test_auto_takes_the_fused_routine_for_large_batches_on_tensor_cores(backend, draw, monkeypatch):
    taken = []
    sums = fused_pallas.block_sums
    monkeypatch.setattr(
        fused_pallas, "block_sums", lambda *a, **k: taken.append(a[2].fused) or sums(*a, **k)
    )

    def run(dtype):
        taken.clear()
        fmicl_jax.fmicl_loss(*(jnp.asarray(v, dtype) for v in draw(0)[:2]))
        return [(k.dtype, k.tf32) for k in taken]

    assert [run(dtype) for dtype in LOSS] == [[], [], []]
    monkeypatch.setattr(forms, "DENSE_PAIRS", 10)
    want = {"float32": [], "float16": [("float16", False)], "bfloat16": [("bfloat16", False)]}
    assert {dtype: run(dtype) for dtype in LOSS} == want
    with jax.default_matmul_precision("tensorfloat32"):
        assert run("float32") == [("float32", True)]


def test_products_have_the_precision_that_was_asked_for():
    rows = jax.ShapeDtypeStruct((64, 16), jnp.float32)

    def products(dtype, tf32):
        how = plan.Plan(FMICL().pairwise, True, 0, plan.Fused(dtype, tf32, 1, 1 << 20, False))
        sums = partial(fused_pallas.block_sums, plan=how, grad=True, triangle=False)
        text = str(jax.make_jaxpr(sums)(rows, rows))
        return text.count("Precision.HIGHEST"), text.count("Precision.HIGH,"), text.count("bf16[")

    exact, high, _ = products("float32", False)
    assert exact > 0
    assert high == 0
    for dtype, tf32 in (("float32", True), ("float16", False)):
        exact, high, _ = products(dtype, tf32)
        assert exact == 0
        assert high > 0
    exact, high, operands = products("bfloat16", False)
    assert exact == high == 0
    assert operands > 2  # the features, and the weights


def test_what_is_compiled_for_another_device_takes_plain_tiles(as_on_a_gpu, draw):
    """While tracing the device is a guess; both a CPU and a GPU must find their code."""
    loss = partial(fmicl_jax.fmicl_loss, negatives="all", implementation="fused")
    run = jax.jit(jax.vmap(jax.value_and_grad(loss)))
    x, y = (jnp.asarray(v, jnp.bfloat16)[None] for v in draw(0, 40)[:2])
    value, gradient = run(x, y)
    want, slope = jax.value_and_grad(partial(loss, implementation="tiled"))(x[0], y[0])
    assert value[0] == pytest.approx(float(want), rel=1e-6)
    assert jnp.array_equal(gradient[0], slope)
    code = {
        platform: run.trace(x, y).lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cuda", "cpu")
    }
    assert code["cuda"].count("gpu.triton") == 3
    assert "stablehlo.while" not in code["cuda"]
    assert "gpu.triton" not in code["cpu"]


@pytest.mark.parametrize("check", [True, False])
def test_pallas_takes_features_that_vary_over_a_mesh(as_on_a_gpu, check):
    """Those of the batch do and a bank does not; the interpreter cannot be asked."""
    rows, P = jax.ShapeDtypeStruct((40, 5), jnp.bfloat16), jax.sharding.PartitionSpec
    mapped = jax.shard_map(
        lambda x, y, bank: fmicl_jax.fmicl_loss(
            x, y, bank=bank, implementation="fused", axis_name="batch"
        ),
        mesh=jax.make_mesh((1,), ("batch",), axis_types=(AUTO,)),
        in_specs=(P("batch"), P("batch"), P()), out_specs=P(), check_vma=check,
    )  # fmt: skip
    traced = jax.jit(jax.grad(mapped, (0, 2))).trace(rows, rows, rows)
    code = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert code.count("gpu.triton") == 2


def test_pallas_takes_ids_on_a_mesh(as_on_a_gpu):
    """A launch of negatives and two of positives, of which both sides have a gradient."""
    rows, P = jax.ShapeDtypeStruct((40, 5), jnp.bfloat16), jax.sharding.PartitionSpec
    mapped = jax.shard_map(
        lambda x, y, ids: fmicl_jax.fmicl_loss(
            x, y, ids=ids, implementation="fused", axis_name="batch"
        ),
        mesh=jax.make_mesh((1,), ("batch",), axis_types=(AUTO,)),
        in_specs=(P("batch"),) * 3, out_specs=P(),
    )  # fmt: skip
    ids = jax.ShapeDtypeStruct((40,), jnp.int32)
    traced = jax.jit(jax.grad(mapped, (0, 1))).trace(rows, rows, ids)
    code = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert code.count("gpu.triton") == 3


@pytest.mark.parametrize(
    ("capability", "why"),
    [("9.0", ""), ("8.0", ""), ("12.0", ""), ("7.5", "8.0 or more"), ("gfx90a", "not on 'gpu'")],
)
def test_which_gpus_have_the_fused_routine(capability, why):
    refused = fused._refusal(Gpu(capability), "bfloat16")
    assert why in refused
    assert bool(why) == bool(refused)
    assert fused._facts(Gpu(capability)) == (132, 1000)


def test_the_device_is_that_of_the_features_or_the_default(backend_named):
    backend_named("jax")
    x, cpu = jnp.eye(3), jax.local_devices(backend="cpu")[0]
    assert fused.device_of(x) == cpu
    for default in (None, "cpu", cpu):
        with jax.default_device(default):
            assert jax.jit(lambda x: x * (fused.device_of(x) == cpu))(x).sum() == 3
