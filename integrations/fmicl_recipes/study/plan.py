"""The plan of a study: its file, its entries, and the settings of every run."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from fmicl_core.checks import InvalidArgument, check_choice, invalid
from fmicl_recipes.options import NEUTRAL, default_of
from fmicl_recipes.presets import resolve
from fmicl_recipes.shared_settings import SharedSettings
from fmicl_recipes.text import METHODS as TEXT_METHODS
from fmicl_recipes.text import resolve_text

#: The stage of a run that helps to choose options, by held-out data.
TUNING = "tuning"
#: The stage of a run that is scored on test data.
FINAL = "final"
#: What a file may hold, and what an entry may hold beside options of the runs.
KEYS = ("title", "seeds", "tuning_seed", "tries", "settings", "tuning", "groups", "entries")
OWN = ("group", "like", "tune", "seeds")
GROUP_KEYS = ("title", "baseline")
#: Options that name places: where they are is no part of what a run is.
PLACES = ("data", "model", "sts")
#: The group of entries that name none.
MAIN = "main"


class Group(NamedTuple):
    """Entries that stand in a table of their own.

    Args:
        title: what the table says above it.
        baseline: name of the entry that all others are compared with; "" for the first one.
    """

    title: str
    baseline: str = ""


@dataclass(frozen=True)
class Entry:
    """A row of a table: a loss with its options, trained with every seed.

    Args:
        name: name in the table.
        options: options in which it differs from the settings of the study.
        tune: values to try of options that are chosen by held-out data, by name.
        like: name of the entry whose options it starts from, and whose choice it takes; or "".
        group: name of its group.
        seeds: seeds of its runs on test data, where they are not those of the study.
    """

    name: str
    options: Mapping[str, Any]
    tune: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    like: str = ""
    group: str = MAIN
    seeds: tuple[int, ...] = ()

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """Every combination of the values to try."""
        return [
            dict(zip(self.tune, values, strict=True)) for values in product(*self.tune.values())
        ]


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Args:
        entry: name of the entry.
        stage: `TUNING` or `FINAL`.
        choice: values of the options that are tuned.
        seed: seed of the run.
        settings: all settings of the run.
        named: options that name a place, such as the data, as the study's file has them, wherever
            that is here.
    """

    entry: str
    stage: str
    choice: Mapping[str, Any]
    seed: int
    settings: SharedSettings
    named: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """What names the run: a digest of its stage and of the options that change its result."""
        settings = self.settings
        options = {
            name: getattr(settings, name)
            for name, field in settings.options().items()
            if name not in NEUTRAL and getattr(settings, name) != default_of(field, settings.method)
        }
        text = json.dumps([self.stage, options | dict(self.named)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Study:
    """What there is to train.

    Args:
        title: title of its tables.
        settings: options of every run, a preset's name among them.
        entries: entries by name, in the order of the tables.
        groups: groups by name.
        seeds: seeds of the runs that are scored on test data.
        tries: combinations of values that every entry tries.
        tuning: options in which the runs that choose differ, such as fewer epochs.
        tuning_seed: seed of the runs that choose.
        places: where data, or a model, lie here, by the name of the option, one in `PLACES`, in
            place of what the settings say.

    Raises:
        ValueError: an entry has another number of tries, or refers to one that does not exist, or
            its options do not fit; the message names the entry.
    """

    title: str
    settings: Mapping[str, Any]
    entries: Mapping[str, Entry]
    groups: Mapping[str, Group]
    seeds: tuple[int, ...]
    tries: int
    tuning: Mapping[str, Any] = field(default_factory=dict)
    tuning_seed: int = 1000
    places: Mapping[str, Any] = field(default_factory=dict)
    #: The runs that were asked for, as their settings take long to resolve.
    _jobs: dict[str, Job] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in self.places:
            check_choice("at", name, PLACES)
        for name, entry in self.entries.items():
            self._check_entry(name, entry)
        for name, group in self.groups.items():
            if group.baseline and self.entry(group.baseline).group != name:
                members = [e.name for e in self.members(name)]
                raise invalid("baseline", f"one of {', '.join(members)}", group.baseline)

    def _check_entry(self, name: str, entry: Entry) -> None:
        check_choice("group", entry.group, self.groups)
        if entry.like:
            if self.entry(entry.like).like:
                raise invalid("like", "an entry that is not like another", entry.like)
            if entry.tune:
                raise invalid("tune", f"nothing in {name!r}, whose choice is that of "
                              f"{entry.like!r}", dict(entry.tune))  # fmt: skip
        elif len(entry.candidates) != self.tries:
            expected = f"tries = {self.tries} combinations of values in {name!r}, as in all others"
            raise invalid("tune", expected, dict(entry.tune))
        for job in self.tuning_jobs(entry) if entry.tune else [self._job(entry, FINAL, {}, 0)]:
            _ = job.key

    @classmethod
    def read(cls, path: Path, places: Mapping[str, str] | None = None) -> Study:
        """The study of a TOML file; see docs/study.md for what it may say.

        Raises:
            ValueError: there is no such file, or it says what no study says.
        """
        try:
            text = path.read_text(encoding="utf-8")
            given = tomllib.loads(text)
        except OSError as error:
            raise invalid("file", "a file that can be read", str(path),
                          why=f"{error.strerror}.") from error  # fmt: skip
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise invalid("file", "a TOML file", str(path), why=f"{error}.") from error
        return cls.from_dict(given, places)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], places: Mapping[str, str] | None = None) -> Study:
        """The study of the contents of a file.

        Raises:
            ValueError: they hold what no study holds, or lack what it needs.
        """
        _check_keys("file", given, KEYS, needed=("settings", "entries", "seeds"))
        groups = {MAIN: Group(str(given.get("title", "")))}
        for name, group in given.get("groups", {}).items():
            _check_keys(f"groups.{name}", group, GROUP_KEYS, needed=("title",))
            groups[name] = Group(**group)
        entries: dict[str, Entry] = {}
        for name, values in given["entries"].items():
            options = {k: v for k, v in values.items() if k not in OWN}
            tune = {k: tuple(v) for k, v in values.get("tune", {}).items()}
            like, group = values.get("like", ""), values.get("group", MAIN)
            if like and like in entries:
                options = {**entries[like].options, **options}
            seeds = tuple(values.get("seeds", ()))
            entries[name] = Entry(name, options, tune, like, group, seeds)
        return cls(
            str(given.get("title", "")), given["settings"], entries, groups,
            tuple(given["seeds"]), int(given.get("tries", 1)), given.get("tuning", {}),
            int(given.get("tuning_seed", 1000)), dict(places or {}),
        )  # fmt: skip

    def entry(self, name: str) -> Entry:
        """The entry of that name.

        Raises:
            ValueError: there is none.
        """
        check_choice("entry", name, self.entries)
        return self.entries[name]

    def members(self, group: str) -> list[Entry]:
        """The entries of a group."""
        return [entry for entry in self.entries.values() if entry.group == group]

    def baseline(self, group: str) -> str:
        """Name of the entry that the others of a group are compared with."""
        return self.groups[group].baseline or self.members(group)[0].name

    @cached_property
    def on_texts(self) -> bool:
        """Whether the runs are those of texts, and not of images."""
        return self.settings.get("method") in TEXT_METHODS

    def tuning_jobs(self, entry: Entry) -> list[Job]:
        """The runs that choose the options of an entry, one for each candidate."""
        return [self._job(entry, TUNING, c, self.tuning_seed) for c in entry.candidates]

    def final_jobs(self, entry: Entry, choice: Mapping[str, Any]) -> list[Job]:
        """The runs of an entry that are scored on test data, one for each seed."""
        return [self._job(entry, FINAL, choice, seed) for seed in self.seeds_of(entry)]

    def seeds_of(self, entry: Entry) -> tuple[int, ...]:
        """The seeds of an entry's runs on test data."""
        return entry.seeds or self.seeds

    def _job(self, entry: Entry, stage: str, choice: Mapping[str, Any], seed: int) -> Job:
        which = repr((entry.name, stage, choice, seed))
        if which not in self._jobs:
            self._jobs[which] = self._resolved(entry, stage, choice, seed)
        return self._jobs[which]

    def _resolved(self, entry: Entry, stage: str, choice: Mapping[str, Any], seed: int) -> Job:
        options = {**self.settings, **choice, **entry.options, "seed": seed}
        if stage == TUNING:
            options |= self.tuning
        preset = options.pop("preset", None)
        named = {name: options[name] for name in self.places if name in options}
        try:
            settings = (resolve_text if self.on_texts else resolve)(
                preset, {**options, **self.places}
            )
        except InvalidArgument as error:
            raise InvalidArgument(f"Entry {entry.name!r} of the study: {error}") from error
        return Job(entry.name, stage, choice, seed, settings, named)


def _check_keys(
    what: str, given: Any, known: Collection[str], needed: Collection[str] = ()
) -> None:
    if not isinstance(given, dict):
        raise invalid(what, "a table", given)
    for name in given:
        check_choice(what, name, known)
    for name in needed:
        if name not in given:
            raise invalid(what, f"{name!r} in it", sorted(given))
