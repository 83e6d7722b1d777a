"""Triton decides at import whether it interprets; without that, ../test_torch_fused.py runs this.

TRITON_INTERPRET=1 python -m pytest tests/backends/fused_suite     # by hand
"""

import os

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
        monkeypatch.setattr(fused, "tiles_for", lambda *_: Tiles(rows, columns, width, 4, 1))
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

    def measured(objective, x, y, bank=None, implementation="fused"):
        leaves = {"x": x, "y": y} | ({} if bank is None else {"bank": bank})
        leaves = {name: v.detach().requires_grad_() for name, v in leaves.items()}
        loss = FMICLLoss(
            divergence=objective.divergence, similarity=objective.similarity,
            alpha=objective.alpha, negatives=objective.negatives,
            normalize=objective.normalize, implementation=implementation,
        )(*leaves.values())  # fmt: skip
        grads = torch.autograd.grad(loss, list(leaves.values()))
        arrays = [v.detach().double().numpy() for v in leaves.values()]
        truth = fmicl_reference(*arrays[:2], objective, *arrays[2:])
        size = abs(truth.score) + objective.alpha * abs(truth.penalty)
        wanted = [truth.grad_x, truth.grad_y, truth.grad_bank]
        scale = max(np.abs(w).max() for w in wanted if w is not None) or 1.0
        apart = [np.abs(g.double().numpy() - w).max() / scale
                 for g, w in zip(grads, wanted, strict=False)]  # fmt: skip
        return abs(loss.item() - truth.loss) / size, float(np.max(apart))  # NaN if there is one

    return measured
