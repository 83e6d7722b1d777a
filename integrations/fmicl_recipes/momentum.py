"""The momentum with which MoCo v3's key encoder follows: the same schedule in every framework."""

from __future__ import annotations

import math


def ema_schedule(start: float, step: int, steps: int) -> float:
    """Momentum of MoCo v3's key encoder: 1 - (1 - start) (1 + cos(pi step / steps)) / 2.

    Args:
        start: momentum of the first step.
        step: number of the step, from 0.
        steps: number of steps of the whole run.

    Source: Chen et al. (2021), section 4.3 and its code.
    """
    return 1.0 - (1.0 - start) * (1.0 + math.cos(math.pi * step / steps)) / 2.0
