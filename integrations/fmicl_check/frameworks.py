"""Which frameworks can be checked here, and why the others cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from fmicl_check.adapters import ADAPTERS
from fmicl_check.base import DEVICES, Adapter, describe
from fmicl_core.checks import InvalidArgument, check_choice


@dataclass(frozen=True)
class Absent:
    """A framework that cannot be checked.

    Args:
        framework: name of the framework.
        state: "missing" if it is not installed, "broken" if it is but fails, "no device" if it does
            not see the device that was asked for.
        detail: its own words, or how to install it.
    """

    framework: str
    state: str
    detail: str


def open_frameworks(
    names: Sequence[str] = (), device: str = "cpu"
) -> tuple[list[Adapter], list[Absent]]:
    """Adapters of the frameworks that work, and what is wrong with the others.

    Args:
        names: names of the frameworks, or none for all.
        device: device, "cpu" or "gpu".

    Raises:
        ValueError: a name or the device is unknown.
    """
    check_choice("device", device, DEVICES)
    chosen = [check_choice("framework", name, ADAPTERS) for name in dict.fromkeys(names)]
    opened = [open_framework(name, device) for name in chosen or ADAPTERS]
    adapters = [found for found in opened if isinstance(found, Adapter)]
    return adapters, [found for found in opened if isinstance(found, Absent)]


def open_framework(name: str, device: str) -> Adapter | Absent:
    """The adapter of a framework, or what is wrong with it; nothing an import raises gets out."""
    try:
        import_module(name)
    except Exception as error:  # what a broken installation raises is anyone's guess
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return Absent(name, "missing", f"not installed; pip install 'fmicl[{name}]'")
        return Absent(name, "broken", describe(error))
    try:
        return ADAPTERS[name](device)
    except InvalidArgument as error:
        return Absent(name, "no device", str(error))
    except Exception as error:
        return Absent(name, "broken", describe(error))


def is_failure(absent: Sequence[Absent], adapters: Sequence[Adapter], names: Sequence[str]) -> bool:
    """Whether what is absent fails the check.

    A framework that was asked for by name must work, one that is installed must not be broken, and
    a check of nothing has shown nothing.
    """
    return not adapters or any(a.framework in names or a.state == "broken" for a in absent)
