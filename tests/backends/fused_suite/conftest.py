"""Triton decides at import whether it interprets; without that, ../test_torch_fused.py runs this.

TRITON_INTERPRET=1 python -m pytest tests/backends/fused_suite     # by hand
"""

import os
from dataclasses import fields

import numpy as np
import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]


@pytest.fixture
def set_tiles(monkeypatch):
    """Let the fused tiles have these rows, columns and width, and cut columns into parts."""
    from fmicl_core.fused import Tiles
    from fmicl_torch import fused

    def set_to(rows=16, columns=16, width=16, parts=2):
        for name in ("tiles_for", "weight_tiles"):
            monkeypatch.setattr(fused, name, lambda *_: Tiles(rows, columns, width, 4, 1))
        monkeypatch.setattr(fused, "parts_for", lambda _, n, k, *__: min(parts, -(-k // columns)))

    set_to()
    return set_to


@pytest.fixture
def deterministic():
    """Switch PyTorch's deterministic mode; it is off again after the test."""
    import torch

    yield torch.use_deterministic_algorithms
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def errors():
    """Relative errors of loss and gradients against the float64 reference of the same numbers."""
    import torch

    from fmicl_core import fmicl_reference
    from fmicl_torch import FMICLLoss

    def measured(objective, x, y=None, bank=None, implementation="fused", **ids):
        given = {"x": x, "y": y, "bank": bank}
        leaves = {k: v.detach().requires_grad_() for k, v in given.items() if v is not None}
        options = {field.name: getattr(objective, field.name) for field in fields(objective)}
        scalars = {k: torch.tensor(v, requires_grad=True) for k, v in options.items()
                   if k.startswith("logit") and v is not None}  # fmt: skip
        loss = FMICLLoss(**options | scalars, implementation=implementation)
        value = loss(leaves["x"], leaves.get("y"), leaves.get("bank"), **ids)
        grads = torch.autograd.grad(value, [*leaves.values(), *scalars.values()])
        arrays = {k: v.detach().double().numpy() for k, v in leaves.items()}
        truth = fmicl_reference(
            **arrays, objective=objective, **{k: v.numpy() for k, v in ids.items()}
        )
        size = abs(truth.score) + truth.alpha * abs(truth.penalty)
        wanted = [getattr(truth, f"grad_{name}") for name in leaves]
        scale = max(np.abs(w).max() for w in wanted) or 1.0
        of_scalars = [getattr(truth, name.replace("logit", "grad")) for name in scalars]
        apart = [np.abs(g.double().numpy() - w).max() / max(scale, np.abs(w).max())
                 for g, w in zip(grads, wanted + of_scalars, strict=True)]  # fmt: skip
        return abs(value.item() - truth.loss) / size, float(np.max(apart))  # NaN if there is one

    return measured
