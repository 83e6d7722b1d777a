"""alpha is a number or an array; x, y and the bank may have different dtypes."""

import numpy as np
import pytest

from fmicl_core import FMICL, fmicl_reference

forms = pytest.mark.parametrize("implementation", ["dense", "tiled"])


@forms
def test_alpha_may_be_an_array(backend, draw, implementation):
    x, y, _ = draw(0)
    objective = FMICL("js", alpha=7.5)
    truth = fmicl_reference(x, y, objective)
    alpha = backend.array(np.array(7.5))
    options = {"divergence": "js", "alpha": alpha, "implementation": implementation}
    got = backend.call("fmicl_terms", {"x": x, "y": y}, **options)
    assert got.loss == pytest.approx(truth.loss, rel=1e-12)
    np.testing.assert_allclose(got.grads["x"], truth.grad_x, rtol=1e-9, atol=1e-12)
    loss = backend.library.FMICLLoss(**options)
    assert float(loss(backend.array(x), backend.array(y))) == pytest.approx(truth.loss, rel=1e-12)
    assert loss.objective == objective
    assert "alpha=7.5," in repr(loss) or "alpha=Array(7.5" in repr(loss)


def test_alpha_of_another_dtype_leaves_that_of_the_loss(backend, draw):
    with backend.precision("float64"):
        x = backend.array(draw(0)[0], "float32")
        loss = backend.library.fmicl_loss(x, x, alpha=backend.array(np.array(3.0), "float64"))
        assert "float32" in str(loss.dtype)


#: dtypes of x, y and, if there is one, the bank, and that of the loss.
MIXED = [
    ("bfloat16", "float32", None, "float32"),
    ("float32", "float64", None, "float64"),
    ("float32", "bfloat16", "float16", "float32"),
    ("bfloat16", "float32", "float64", "float64"),
]


@forms
@pytest.mark.parametrize(("x", "y", "bank", "wide"), MIXED)
def test_other_dtypes_are_promoted(backend, draw, x, y, bank, wide, implementation):
    """A student in bfloat16 against a teacher in float32."""
    kinds = {"x": x, "y": y} | ({"bank": bank} if bank else {})
    arrays = dict(zip(("x", "y", "bank"), draw(1, k=9), strict=True))
    objective = FMICL("pearson", negatives="cross")
    with backend.precision("float64"):
        given = {name: backend.array(arrays[name], kind) for name, kind in kinds.items()}
        rounded = [backend.rounded(arrays[name], kind) for name, kind in kinds.items()]
        truth = fmicl_reference(*rounded[:2], objective, *rounded[2:])

        def value(leaves):
            more = {"bank": leaves["bank"]} if bank else {}
            loss = backend.library.fmicl_loss(
                leaves["x"], leaves["y"], divergence="pearson", negatives="cross",
                implementation=implementation, **more,
            )  # fmt: skip
            return (loss,)

        (loss,), gradients = backend.gradients(value, given, compiled=False)
        assert wide in str(loss.dtype)
        number = float(backend.numpy(loss))
        assert number == pytest.approx(truth.loss, rel=1e-12 if wide == "float64" else 1e-5)
        for name, want in (("x", truth.grad_x), ("y", truth.grad_y), ("bank", truth.grad_bank)):
            if name in gradients:
                assert kinds[name] in str(gradients[name].dtype)
                got = backend.numpy(gradients[name]).astype(np.float64)
                assert np.abs(got - want).max() <= 2e-2 * np.abs(want).max()


def test_related_losses_promote_too(backend, draw):
    with backend.precision("float64"):
        x, y = draw(2)[:2]
        mixed = backend.array(x), backend.array(y, "float32")
        wide = backend.array(x), backend.array(backend.rounded(y, "float32"))
        for name in ("info_nce_loss", "alignment_uniformity_loss", "spectral_contrastive_loss"):
            got, want = (getattr(backend.library, name)(*given) for given in (mixed, wide))
            assert "float64" in str(got.dtype)
            assert float(got) == pytest.approx(float(want), rel=1e-12)
