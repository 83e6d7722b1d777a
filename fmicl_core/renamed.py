"""Names of the last version, which work for one more version with a warning."""

from __future__ import annotations

import warnings
from typing import Any

from fmicl_core.checks import callers_level


def warn_renamed(old: str, new: str) -> None:
    """Warn that a public name is another one now."""
    warnings.warn(
        f"`{old}` is called `{new}` now; the old name goes with the next version.",
        DeprecationWarning,
        stacklevel=callers_level(),
    )


def renamed_attribute(old: str, new: str) -> property:
    """An attribute called `old` that warns and gives the one called `new`."""

    def get(self: Any) -> Any:
        warn_renamed(old, new)
        return getattr(self, new)

    return property(get, doc=f"`{new}` by its name of the last version.")
