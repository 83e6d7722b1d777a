"""Objectives by number, because a compiled graph can hold a number but not a specification."""

from __future__ import annotations

import torch

from fmicl_core import FMICL, Divergence, Similarity

_objectives: list[FMICL] = []
_numbers: dict[FMICL, int] = {}


def register(objective: FMICL) -> int:
    """The number of an objective; equal ones share it."""
    if objective not in _numbers:
        _numbers[objective] = len(_objectives)
        _objectives.append(objective)
    return _numbers[objective]


@torch.compiler.assume_constant_result
def register_options(
    divergence: Divergence | str,
    similarity: Similarity | str,
    alpha: float,
    negatives: str,
    normalize: bool,
) -> int:
    """The number of the objective with these options; while compiling, found once.

    Raises:
        ValueError: an option is unknown or out of range.
    """
    return register(FMICL(divergence, similarity, alpha, negatives, normalize))


def objective_of(number: int) -> FMICL:
    """The objective with that number."""
    return _objectives[number]
