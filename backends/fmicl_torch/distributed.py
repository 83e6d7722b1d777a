"""The argument `distributed` of the losses: which ranks share the batch, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from fmicl_core.checks import invalid
from fmicl_core.ranks import warn_of_ranks
from fmicl_torch.ranks import Ranks

#: False, True for the default group, or a group.
Distributed = bool | dist.ProcessGroup
T = TypeVar("T")
#: What a loss on several ranks that was not told of them says.
REMEDY = (
    "Pass `distributed=True` for the loss of the union, or `distributed=False` if that is meant."
)


def ranks_of(distributed: Distributed | None, x: Any, loss: str) -> Ranks | None:
    """The ranks to take the loss over, or None for this process alone.

    Args:
        distributed: argument of the loss; where it is None and there are several ranks, the loss
            warns that it is of this rank's rows only.
        x: features of this rank, or what was given for them.
        loss: name of the loss.

    Raises:
        ValueError: `distributed` is no bool and no group, or no group has been initialised.
    """
    if distributed is None:
        tell_of_ranks(loss, REMEDY)
        return None
    if distributed is False:
        return None
    if not dist.is_available() or not dist.is_initialized():
        raise invalid("distributed", "False, or torch.distributed to be initialised", distributed)
    group = dist.group.WORLD if distributed is True else distributed
    if not isinstance(group, dist.ProcessGroup):
        raise invalid("distributed", "True, False or a process group", distributed)
    return Ranks(group, x) if dist.get_world_size(group) > 1 else None


def eager_over_ranks(function: Callable[..., T]) -> Callable[..., T]:
    """The function of a name, `distributed` and more; over ranks it is not compiled.

    What ranks say to each other stands in no graph: `torch.compile` ends one before such a loss,
    and begins another behind it.
    """
    eager = torch.compiler.disable(function)

    def chosen(name: str, distributed: Distributed | None, *arguments: Any, **options: Any) -> T:
        shared = distributed is not None and distributed is not False
        shared = shared and not (distributed is True and _is_alone())
        called = eager if shared and torch.compiler.is_compiling() else function
        return called(name, distributed, *arguments, **options)

    return chosen


@torch.compiler.assume_constant_result
def _is_alone() -> bool:
    return not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1


@torch.compiler.assume_constant_result
def tell_of_ranks(loss: str, remedy: str = "") -> bool:
    """Whether there are several ranks; warns, once, that the loss sees its own rank's rows only.

    Args:
        loss, remedy: as for `warn_of_ranks`.
    """
    if several := not _is_alone():
        warn_of_ranks(loss, remedy)
    return several
