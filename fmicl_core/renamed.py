"""Names of the last version, which work for one more version with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from fmicl_core.checks import callers_level

T = TypeVar("T")


def warn_renamed(old: str, new: str) -> None:
    """Warn that a public name is another one now."""
    warnings.warn(
        f"`{old}` is called `{new}` now; the old name goes with the next version.",
        DeprecationWarning,
        stacklevel=callers_level(),
    )


def with_old_names(**names: str) -> Callable[[type[T]], type[T]]:
    """Let a class have attributes by the names of the last version, which warn; old=new."""

    def give(cls: type[T]) -> type[T]:
        for old, new in names.items():
            setattr(cls, old, property(partial(_renamed, f"{cls.__name__}.{old}", new)))
        return cls

    return give


def _renamed(old: str, new: str, instance: object) -> Any:
    warn_renamed(old, new)
    return getattr(instance, new)
