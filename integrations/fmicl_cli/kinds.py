"""What the commands need to know of runs on images, and of runs on texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmicl_recipes.shared_settings import SharedSettings

#: From settings, folder and whether to resume to the metrics of a run without its test data.
Trial = Callable[[Any, Path, bool], dict[str, Any]]


@dataclass(frozen=True)
class Kind:
    """Runs on images, or runs on texts.

    Args:
        methods: training methods by name, with a line each.
        settings: class of the settings.
        presets: options of each preset, by its name.
        resolve: function from a preset's name, or None, and the options given to settings.
        name: function from settings to the folder's name that a run has by default.
        train: function from settings and folder, `resume`, `baselines` and whether to draw
            `pictures`, to metrics.
        evaluate: function from the folder of a run to metrics.
        trials: function from settings to the `Trial` of a search for alpha.
        about: what training does, for its help.
        searching: what a search does, for its help.
        examples: options of commands that train, by method.
        search_example: options of a command that searches.
        files: files of a run.
        rewritten: files that an evaluation writes again.
        measure: key of the score that a search compares.
        score: name of that score.
        start: first alpha of a search.
        check: function that checks what needs no framework.
        follows: function that says whether another process writes the run of settings.
    """

    methods: Mapping[str, str]
    settings: type[SharedSettings]
    presets: Mapping[str, dict[str, Any]]
    resolve: Callable[[str | None, dict[str, Any]], Any]
    name: Callable[[Any], str]
    train: Callable[..., dict[str, Any]]
    evaluate: Callable[[Path], dict[str, Any]]
    trials: Callable[[Any], Trial]
    about: str
    searching: str
    examples: Mapping[str, tuple[str, ...]]
    search_example: str
    files: str
    rewritten: str
    measure: str
    score: str
    start: float
    check: Callable[[Any], None] = lambda settings: None
    follows: Callable[[Any], bool] = lambda settings: False
