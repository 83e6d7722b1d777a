"""Command-line options made from the fields of settings, so that each is written down once."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fmicl_recipes import settings, text
from fmicl_recipes.options import Settings
from fmicl_recipes.settings import TrainSettings

#: Of images, and of texts.
EVERY_METHOD = (*settings.METHODS, *text.METHODS)


def with_settings(
    command: Callable[..., None], kind: type[Settings] = TrainSettings
) -> Callable[..., None]:
    """Give a command an option for every field of `kind` but `method`.

    The command receives the options a user gave as the dictionary `overrides`.
    """
    own = inspect.signature(command, eval_str=True).parameters
    fields = [f for f in dataclasses.fields(kind) if f.name != "method"]
    names = {field.name for field in fields}

    def wrapper(**values: Any) -> None:
        overrides = {k: v for k, v in values.items() if k in names and v is not None}
        data = overrides.get("data")
        if data and data != "digits" and Path(data).exists():
            overrides["data"] = str(Path(data).absolute())  # wherever it is resumed
        rest = {k: v for k, v in values.items() if k not in names}
        command(overrides=overrides, **rest)

    parameters = [p for p in own.values() if p.name != "overrides"]
    hints = typing.get_type_hints(kind)
    parameters += [_parameter(field, hints[field.name]) for field in fields]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    wrapper.__doc__ = command.__doc__
    wrapper.__name__ = command.__name__
    return wrapper


def _parameter(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    kind = hint
    if isinstance(hint, types.UnionType):
        kind = next(t for t in typing.get_args(hint) if t is not type(None))
    choices = field.metadata["choices"]
    text = field.metadata["help"] + (f" One of: {', '.join(choices)}." if choices else "")
    if field.default is not None:  # where it is None the help says what is taken
        text += f" [dim]\\[default: {field.default}, or the preset's][/dim]"
    info = typer.Option(
        f"--{field.name.replace('_', '-')}",
        help=text,
        rich_help_panel=field.metadata["group"],
        show_default=False,
    )
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, info],
    )
