"""Options: the fields of settings, each with its check, its help and where it has an effect."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from fmicl_core.checks import InvalidArgument, check_choice, check_name, invalid, spelled
from fmicl_recipes.checks import Check

#: Options that decide where and how fast a run goes, but not what it computes.
NEUTRAL = ("device", "compile", "workers", "checkpoint_every")

#: Values that other options need for an option to have an effect.
Needs = Mapping[str, Collection[Any]]


def option(
    default: Any,
    help: str,
    group: str,
    check: Check | Collection[str],
    *,
    methods: Collection[str] = (),
    only: tuple[Needs, ...] = (),
    by_method: Mapping[str, Any] | None = None,
) -> Any:
    """A field of settings, with its check and what the command line says about it.

    Args:
        default: value of the option unless one is given. None stands for no value, or for the
            method's own.
        help: a sentence or two for the command line.
        group: heading under which the command line shows the option.
        check: function from name and value to the value as it is kept, or the names that the value
            can be, which may be written with "-" or with "_".
        methods: training methods that the option applies to; empty for all that have the settings.
        only: alternatives of needs, of which one must hold for an effect; empty for none.
        by_method: the default of each method, where it is not the same for all.
    """
    choices = () if callable(check) else tuple(check)
    if methods:
        only = tuple({"method": tuple(methods), **needs} for needs in only or ({},))
    metadata = {
        "help": help,
        "group": group,
        "check": check if callable(check) else partial(check_name, names=choices),
        "choices": choices,
        "methods": tuple(methods),
        "only": only,
        "by_method": by_method or {},
    }
    return dataclasses.field(default=default, metadata=metadata)


def has_effect(only: tuple[Needs, ...], values: Mapping[str, Any]) -> bool:
    """Whether an option with these needs has an effect beside the values of the others."""
    return not only or any(all(values[k] in found for k, found in n.items()) for n in only)


def without_effect(name: str, value: Any, only: tuple[Needs, ...]) -> InvalidArgument:
    """Build the error for an option that is given where it has no effect."""
    cases = [
        " and ".join(f"{k} = {' or '.join(map(repr, found))}" for k, found in needs.items())
        for needs in only
    ]
    return invalid(name, f"{'; or '.join(cases)} beside it", value,
                   why="Elsewhere the option has no effect.")  # fmt: skip


def preset_options(name: str | None, presets: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The options of the preset with this name; no options for None.

    Raises:
        ValueError: the name is unknown; the message lists the names.
    """
    return {} if name is None else presets[check_name("preset", name, presets)]


def combined(preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a preset, replaced by those that are given.

    If a run is given so few epochs that the preset's warm-up would not end before the last one, the
    warm-up keeps its share of the run instead.
    """
    options = {**preset, **given}
    warmup, epochs = preset.get("warmup_epochs"), given.get("epochs")
    if warmup and epochs and "warmup_epochs" not in given and warmup >= epochs:
        options["warmup_epochs"] = warmup * epochs // preset["epochs"]
    return options


@dataclass(frozen=True)
class Settings:
    """Options by name, each of them checked; subclasses declare their fields by `option`."""

    method: str

    def check_each(self) -> None:
        """Check every option alone, and fill in defaults that depend on the method."""
        for name, field in self.options().items():
            value, own = getattr(self, name), field.metadata["by_method"]
            if value is None and own:
                value = own[self.method]  # which comes first and is checked by now
            if value is not None or field.default is not None:
                object.__setattr__(self, name, field.metadata["check"](name, value))

    def check_effects(self) -> None:
        """Refuse every option that is not at its default and has no effect beside the others."""
        for name, field in self.options().items():
            value = getattr(self, name)
            if value != default_of(field, self.method) and not self.applies(name):
                raise without_effect(name, value, field.metadata["only"])

    def applies(self, name: str) -> bool:
        """Whether an option has an effect beside the others."""
        return has_effect(self.options()[name].metadata["only"], vars(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain values by option name."""
        return dataclasses.asdict(self)

    @classmethod
    def options(cls) -> dict[str, dataclasses.Field[Any]]:
        """The fields by name."""
        return cls.__dataclass_fields__

    @classmethod
    def changed(cls, name: str, **changes: Any) -> Any:
        """The option of that name for a subclass that declares it again, with some changes.

        Args:
            name: name of the option in this class.
            changes: `default`, and what of `help`, `only` and `by_method` differs.
        """
        field = cls.options()[name]
        default = changes.pop("default", field.default)
        return dataclasses.field(default=default, metadata={**field.metadata, **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], optional: Collection[str] = ()) -> Self:
        """Settings from plain values.

        Args:
            values: values by option name; options that are left out are at their defaults.
            optional: names in `values` that are left out where they have no effect, such as those
                of a preset, which is for several methods and losses.

        Raises:
            ValueError: a name is unknown (the message lists the names) or a value does not fit.
        """
        fields = cls.options()
        for name in values:
            check_choice("option", name, fields)
        every = {name: field.default for name, field in fields.items()} | dict(values)
        every = {k: spelled(v, fields[k].metadata["choices"]) for k, v in every.items()}
        idle = [n for n in optional if not has_effect(fields[n].metadata["only"], every)]
        return cls(**{name: value for name, value in values.items() if name not in idle})

    @classmethod
    def from_preset(cls, preset: Mapping[str, Any], given: Mapping[str, Any]) -> Self:
        """Settings from options that are given, then those of a preset, then the defaults.

        Raises:
            ValueError: a name is unknown (the message lists the names) or a value does not fit.
        """
        options = combined(preset, given)
        return cls.from_dict(options, optional=options.keys() - given.keys())


def default_of(option: dataclasses.Field[Any], method: str) -> Any:
    """The default of an option for a method."""
    return option.metadata["by_method"].get(method, option.default)


def difference(a: Settings, b: Settings) -> dict[str, tuple[Any, Any]]:
    """Options that change the result and differ, with both values."""
    return changes(a.to_dict(), b.to_dict())


def changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What `difference` gives, for settings as plain values."""
    return {n: (a[n], b[n]) for n in a if n not in NEUTRAL and not _same(n, a[n], b[n])}


def _same(name: str, a: Any, b: Any) -> bool:
    """Whether two values of an option have the same result."""
    if name == "cache":  # crops of images on disk are made in another way
        return "auto" in (a, b) or (a == "disk") == (b == "disk")
    return bool(a == b)
