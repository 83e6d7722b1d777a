"""What is only for sentences: `settings`, with the presets, and `data`."""

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
