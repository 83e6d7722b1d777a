"""Runs on sentences: their settings with the presets in `settings`, and their data in `data`."""

from fmicl_recipes.text.settings import (
    METHODS,
    TEXT_DEFAULTS,
    TEXT_PRESETS,
    TextSettings,
    resolve_text,
)

__all__ = ["METHODS", "TEXT_DEFAULTS", "TEXT_PRESETS", "TextSettings", "resolve_text"]


def __dir__() -> list[str]:
    return __all__
