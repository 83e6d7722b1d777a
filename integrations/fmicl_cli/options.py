"""Command-line options made from the fields of settings, so that each is written down once."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from fmicl_cli.methods import KIND_OF, KINDS
from fmicl_recipes.options import Settings, default_of, without_effect

#: Headings of the help in the order in which they are shown.
PANELS = ("Task", "Data", "Loss", "Model", "Augmentation", "Training", "Evaluation")
#: Options by name, each with its type.
Fields = dict[str, tuple[dataclasses.Field[Any], Any]]


def with_settings(command: Callable[..., None], method: str) -> Callable[..., None]:
    """Give a command the options of a method, and hide those of others, which it refuses.

    The command receives what the user gave as the dictionary `overrides`.
    """
    fields = _fields(method)
    methods = {name: _methods(name) for name in fields}

    def wrapper(**values: Any) -> None:
        overrides = {k: v for k, v in values.items() if k in fields and v is not None}
        for name, value in overrides.items():
            if method not in methods[name]:
                raise without_effect(name, value, ({"method": methods[name]},))
        data = overrides.get("data")
        if data and data != "digits" and Path(data).exists():
            overrides["data"] = str(Path(data).absolute())  # wherever it is resumed
        init = overrides.get("init")
        if init and Path(init).exists():
            overrides["init"] = str(Path(init).absolute())
        rest = {k: v for k, v in values.items() if k not in fields}
        command(overrides=overrides, **rest)

    own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [p for p in own if p.name != "overrides"]
    for name, (field, hint) in fields.items():
        parameters.append(_parameter(field, hint, method, hidden=method not in methods[name]))
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


@cache
def _fields(method: str) -> Fields:
    """The options of all methods in the order of the help, those of `method` as it has them."""
    found: Fields = {}
    for kind in (KIND_OF[method], *KINDS):
        hints = typing.get_type_hints(kind.settings)
        for name, field in kind.settings.options().items():
            found.setdefault(name, (field, hints[name]))
    del found["method"]
    panel = {name: PANELS.index(field.metadata["group"]) for name, (field, _) in found.items()}
    return {name: found[name] for name in sorted(found, key=lambda name: panel[name])}


@cache
def _methods(name: str) -> tuple[str, ...]:
    """The methods that an option applies to."""

    def applies(method: str, settings: type[Settings]) -> bool:
        field = settings.options().get(name)
        return field is not None and method in (field.metadata["methods"] or (method,))

    return tuple(method for method, kind in KIND_OF.items() if applies(method, kind.settings))


def number_or_text(value: str) -> float | str:
    """What was typed, as a number where it is one; the check of the option says what it may be."""
    try:
        return float(value)
    except ValueError:
        return value


def _parameter(
    field: dataclasses.Field[Any], hint: Any, method: str, *, hidden: bool
) -> inspect.Parameter:
    kinds = [t for t in typing.get_args(hint) or (hint,) if t is not type(None)]
    kind = kinds[0]
    mixed: dict[str, Any] = {}
    if kinds == [float, str]:
        mixed = {"parser": number_or_text, "metavar": "<float|str>"}
    choices, default = field.metadata["choices"], default_of(field, method)
    text = field.metadata["help"] + (f" One of: {', '.join(choices)}." if choices else "")
    if default is not None:  # where it is None the help says what is taken
        text += f" [dim]\\[default: {default}, or the preset's][/dim]"
    info = typer.Option(
        f"--{field.name.replace('_', '-')}",
        help=text,
        rich_help_panel=field.metadata["group"],
        show_default=False,
        hidden=hidden,
        **mixed,
    )
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, info],
    )
