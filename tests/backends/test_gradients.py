"""`loss_and_gradients` is what the framework's own differentiation gives, and nothing else."""

import numpy as np
import pytest

IDS = np.array([3, 1, 1, 3, 2, 1, 2, 3, 1, 1, 2])
#: Loss, options, and what it is given beside x.
CASES = [
    ("fmicl_loss", {"divergence": "js", "negatives": "all"}, ("y",)),
    ("fmicl_loss", {"negatives": "within", "implementation": "tiled"}, ("y", "bank")),
    ("fmicl_loss", {"implementation": "tiled"}, ("ids",)),
    ("info_nce_loss", {"temperature": 0.2}, ("y",)),
    ("alignment_uniformity_loss", {}, ("y",)),
    ("siglip_loss", {}, ("y", "ids")),
]


@pytest.mark.many_compilations
@pytest.mark.parametrize(("name", "options", "given"), CASES, ids=str)
def test_it_equals_differentiation_and_leaves_no_graph(backend, draw, name, options, given):
    x, y, bank = draw(0, k=9)
    arrays = {"x": x} | {k: v for k, v in (("y", y), ("bank", bank)) if k in given}
    ids = {"ids": IDS} if "ids" in given else {}
    want = backend.call(name, arrays, ids=ids, **options)
    leaves = {k: backend.array(v) for k, v in arrays.items()}
    more = {k: leaves[k] for k in ("bank",) if k in leaves} | options
    more |= {k: backend.array(v, "int64") for k, v in ids.items()}
    loss = getattr(backend.library, name)
    got = backend.library.loss_and_gradients(leaves["x"], leaves.get("y"), loss=loss, **more)
    assert float(got.loss) == pytest.approx(want.loss, rel=1e-12)
    for side in ("x", "y"):
        grad = getattr(got, side)
        assert (grad is None) == (side not in arrays)
        if grad is not None:
            np.testing.assert_allclose(backend.numpy(grad), want.grads[side], rtol=1e-12)
            assert not getattr(grad, "requires_grad", False)


def test_an_object_serves_and_gradients_have_the_dtype_of_the_features(backend, draw):
    x, y = (backend.array(v, "bfloat16") for v in draw(0)[:2])
    loss = backend.library.FMICLLoss(divergence="js")
    got = backend.library.loss_and_gradients(x, y, loss=loss)
    assert isinstance(got, backend.library.LossAndGradients)
    assert [str(v.dtype).split(".")[-1] for v in (got.x, got.y)] == [
        str(x.dtype).split(".")[-1]
    ] * 2
    assert float(got.loss) == float(loss(x, y))


def test_it_is_compiled_and_what_learns_is_a_constant(backend_named, draw):
    jax, tensorflow = backend_named("jax"), backend_named("tensorflow")
    x, y = draw(0)[:2]

    def of_jax(x, y, scale):
        return jax.library.loss_and_gradients(x, y, logit_scale=scale, implementation="tiled")

    def of_tensorflow(x, y, scale):
        return tensorflow.library.loss_and_gradients(x, y, logit_scale=scale)

    a, b = jax.array(x), jax.array(y)
    got = jax.framework.jit(of_jax)(a, b, 2.0)
    tf = tensorflow.framework
    spec = [tf.TensorSpec([None, 5], tf.float64)] * 2 + [tf.TensorSpec([], tf.float64)]
    theirs = tf.function(of_tensorflow, input_signature=spec)(x, y, 2.0)
    for mine, other in zip(got, theirs, strict=True):
        np.testing.assert_allclose(np.asarray(mine), other.numpy(), rtol=1e-10)
    assert jax.framework.grad(lambda s: of_jax(a, b, s).x.sum())(2.0) == 0.0
    scale = tf.Variable(2.0, dtype=tf.float64)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(of_tensorflow(x, y, scale).x)
    assert tape.gradient(value, scale) is None


@pytest.mark.parametrize("context", ["no_grad", "inference_mode"])
def test_it_works_without_a_graph_around_it(backend_named, draw, context):
    backend, (x, y, bank) = backend_named("torch"), draw(0, k=9)
    want = backend.library.loss_and_gradients(*map(backend.array, (x, y)), bank=backend.array(bank))
    with getattr(backend.framework, context)():
        x, y, bank = (backend.array(v) for v in (x, y, bank))
        got = backend.library.loss_and_gradients(x, y, bank=bank)
    for mine, theirs in zip(got, want, strict=True):
        assert backend.framework.equal(mine, theirs)
        assert not mine.is_inference()


def test_what_else_learns_has_no_gradient_and_keeps_its_own(backend_named, draw):
    backend = backend_named("torch")
    x, y = (backend.array(v).requires_grad_() for v in draw(0)[:2])
    loss = backend.library.SigLIPLoss()
    loss(x, y).backward()
    leaves = x, y, *loss.parameters()
    before = [leaf.grad.clone() for leaf in leaves]
    got = backend.library.loss_and_gradients(2.0 * x, y, loss=loss)
    assert all(map(backend.framework.equal, before, (leaf.grad for leaf in leaves)))
    assert not got.loss.requires_grad


def test_what_is_wrong_is_named(backend, draw):
    x, y = (backend.array(v) for v in draw(0)[:2])
    whole = backend.array(np.ones((3, 2)), "int64")
    run = backend.library.loss_and_gradients
    terms = backend.library.fmicl_terms
    for given, options, message in (
        ((x, y), {"loss": lambda x, y: x}, r"`loss`. Expected .* a scalar. .*=\(11, 5\)"),
        ((x, y), {"loss": terms}, r"`loss`. Expected .* a scalar. Received: .*='FMICLTerms'"),
        ((whole, y), {}, r"`x`. Expected a dtype among float16.* x.dtype='int64'"),
        ((x, [1.0]), {}, r"`y`. Expected a \w+.\w+. Received: type\(y\)='list'"),
        ((x, y), {"alpha": -1}, r"`alpha`. Expected a finite number > 0"),
        ((x,), {}, r"`y`. Expected the second view"),
    ):
        with pytest.raises(ValueError, match=message):
            run(*given, **options)


@pytest.mark.parametrize("name", ["torch", "tensorflow"])
def test_a_constant_is_no_loss(backend_named, draw, name):
    backend = backend_named(name)
    x, y = (backend.array(v) for v in draw(0)[:2])
    with pytest.raises(ValueError, match=r"`loss`. Expected a function with a gradient"):
        backend.library.loss_and_gradients(x, y, loss=lambda x, y: backend.array(3.0))
