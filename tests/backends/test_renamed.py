"""Names of the last version work for one more, and say how they are called now."""

import numpy as np
import pytest

from fmicl_core import fmicl_reference

OLD_TERMS = {"alignment": "score", "uniformity": "penalty"}


@pytest.mark.parametrize(("old", "new"), OLD_TERMS.items())
def test_the_terms_of_the_loss(backend, draw, old, new):
    x, y, _ = draw(0)
    here = backend.library.fmicl_terms(backend.array(x), backend.array(y))
    for terms in (here, fmicl_reference(x, y)):
        with pytest.warns(DeprecationWarning, match=rf"\.{old}` is called `{new}` now"):
            assert getattr(terms, old) is getattr(terms, new)


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_the_fused_form(backend_named, name):
    backend = backend_named(name)
    x = backend.array(np.eye(3, dtype=np.float32))
    with pytest.warns(DeprecationWarning, match="`implementation='fused'` now"):
        loss = backend.library.FMICLLoss(implementation="kernel")
    assert loss.implementation == "fused"
    # On a CPU there is none, under either name.
    with (
        pytest.warns(DeprecationWarning, match="`implementation='fused'` now"),
        pytest.raises(ValueError, match="Received: implementation='fused'"),
    ):
        backend.library.fmicl_loss(x, x, implementation="kernel")
