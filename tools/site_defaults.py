"""Griffe's part of the site: defaults of the specification by their values, as `"kl"`."""

from __future__ import annotations

import re
from typing import Any

import griffe

from fmicl_core.family import FAMILY_DEFAULTS
from fmicl_core.objective import DEFAULTS
from fmicl_core.related import RELATED_DEFAULTS

TABLES = {
    "DEFAULTS": DEFAULTS, "RELATED_DEFAULTS": RELATED_DEFAULTS, "FAMILY_DEFAULTS": FAMILY_DEFAULTS
}  # fmt: skip


class Defaults(griffe.Extension):
    """Show the value of a default in the place of where it is written down."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """The parameters of a function, with the values of their defaults."""
        for parameter in func.parameters:
            named = re.fullmatch(r"(\w+)\.(\w+)", str(parameter.default))
            if named and named[1] in TABLES:
                value = getattr(TABLES[named[1]], named[2])
                parameter.default = f'"{value}"' if isinstance(value, str) else repr(value)
