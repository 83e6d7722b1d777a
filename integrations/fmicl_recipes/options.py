"""Options: fields of settings with what the command line and the error messages say of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Self

from fmicl_core import FMICL, get_divergence, get_similarity
from fmicl_core.checks import check_at_least, check_choice, check_name, invalid, spelled

#: Options that decide where and how fast a run goes, but not what it computes.
NEUTRAL = ("device",)

#: Values that other options need for an option to have an effect.
Needs = Mapping[str, Collection[Any]]


def option(
    default: Any,
    help: str,
    group: str,
    choices: tuple[str, ...] = (),
    only: tuple[Needs, ...] = (),
) -> Any:
    """A field with what the command line says about it.

    Args:
        default: its value unless given; None where the settings find one that fits.
        help: a sentence or two for the command line.
        group: the heading under which the command line shows it.
        choices: the texts it can be; empty for anything.
        only: the option has an effect where one of these holds; always, if there is none.
    """
    metadata = {"help": help, "group": group, "choices": choices, "only": only}
    return dataclasses.field(default=default, metadata=metadata)


def has_effect(only: tuple[Needs, ...], values: Mapping[str, Any]) -> bool:
    """Whether an option with these needs has an effect beside the values of the others."""
    return not only or any(all(values[k] in found for k, found in n.items()) for n in only)


def _needed(only: tuple[Needs, ...]) -> str:
    """The needs in words: "loss = 'fmicl' and similarity = 'gaussian'"."""
    cases = [
        " and ".join(f"{k} = {' or '.join(map(repr, found))}" for k, found in needs.items())
        for needs in only
    ]
    return "; or ".join(cases)


def check_seed(value: Any) -> int:
    """Return `value` when it is a whole number in [0, 2^32), which every framework takes."""
    if check_at_least("seed", value, 0) >= 2**32:
        raise invalid("seed", "a whole number in [0, 2^32)", value)
    return int(value)


def recipe(name: str | None, recipes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The options of one of `recipes`, none for None.

    Raises:
        ValueError: the name is unknown; the message lists the names.
    """
    return {} if name is None else recipes[check_name("preset", name, recipes)]


def combined(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a recipe and, above them, those that are given.

    If a run is given so few epochs that the recipe's warm-up would not end before the last one, the
    warm-up keeps its share of the run instead.
    """
    options = {**recipe, **given}
    warmup, epochs = recipe.get("warmup_epochs"), given.get("epochs")
    if warmup and epochs and "warmup_epochs" not in given and warmup >= epochs:
        options["warmup_epochs"] = warmup * epochs // recipe["epochs"]
    return options


class Settings:
    """What every kind of settings can do; subclasses are frozen dataclasses of `option` fields."""

    def check_choices(self) -> None:
        """Check every option that has a list of choices, and that texts are texts.

        Names of choices are taken with "-" and with "_", and kept as the list has them.
        """
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, choices = getattr(self, field.name), field.metadata["choices"]
            if choices and not (value is None and field.default is None):
                value = check_name(field.name, value, choices)
                object.__setattr__(self, field.name, value)
            elif field.type == "str" and not isinstance(value, str):
                raise invalid(field.name, "a string", value)
            elif field.type == "str | None" and not isinstance(value, str | None):
                raise invalid(field.name, "a string or None", value)

    def check_effects(self) -> None:
        """Refuse every option that is not at its default and has no effect beside the others."""
        values = vars(self)
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            only, value = field.metadata["only"], values[field.name]
            if value != field.default and not has_effect(only, values):
                raise invalid(field.name, f"{_needed(only)} beside it", value,
                              why="Elsewhere the option has no effect.")  # fmt: skip

    def applies(self, name: str) -> bool:
        """Whether an option has an effect beside the others."""
        return has_effect(type(self).__dataclass_fields__[name].metadata["only"], vars(self))  # type: ignore[attr-defined]

    def objective(self) -> FMICL:
        """The f-MICL settings of this run."""
        tsallis = {"order": self.order} if self.divergence == "tsallis" else {}
        kernel = {
            "gaussian": {"sigma2": self.sigma2, "mu": self.mu},
            "cosine": {"temperature": self.temperature},
        }.get(self.similarity, {"scale": self.scale, "mu": self.mu})
        return FMICL(
            get_divergence(self.divergence, **tsallis),
            get_similarity(self.similarity, **kernel),
            self.alpha,
            self.negatives,
        )

    @property
    def loss_title(self) -> str:
        """Short name of the loss."""
        return f"{self.divergence}-micl" if self.loss == "fmicl" else self.loss

    @property
    def title(self) -> str:
        """Short name of method and loss for tables and plots."""
        return f"{self.method} {self.loss_title}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values by option name."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], optional: Collection[str] = ()) -> Self:
        """Settings from plain values.

        Args:
            values: by the name of the option; others are at their defaults.
            optional: names in `values` that are left out where they have no effect, as those of a
                recipe, which is for several methods and losses.

        Raises:
            ValueError: a name is unknown (the message lists the names) or a value does not fit.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for name in values:
            check_choice("option", name, fields)
        every = {name: field.default for name, field in fields.items()} | dict(values)
        every = {k: spelled(v, fields[k].metadata["choices"]) for k, v in every.items()}
        idle = [n for n in optional if not has_effect(fields[n].metadata["only"], every)]
        return cls(**{name: value for name, value in values.items() if name not in idle})


def difference(a: Settings, b: Settings) -> dict[str, tuple[Any, Any]]:
    """Options that change the result and differ, with both values."""
    return changes(a.to_dict(), b.to_dict())


def changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Of two sets of plain values with equal names, what `difference` gives of settings."""
    return {n: (a[n], b[n]) for n in a if n not in NEUTRAL and a[n] != b[n]}
