"""A line a step, "ok", "warning", "not checked" or "failed", and the summary at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

STATES = ("ok", "warning", "not checked", "failed")


class Failed(Exception):
    """What is checked is not as it should be: what was expected, and what is there."""


class Warned(Exception):
    """The release may go on, but whoever makes it should know."""


class Skipped(Exception):
    """What could not be checked here, and why."""


class Report:
    """Runs the steps and keeps what became of each."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str, str]] = []
        self.began = time.monotonic()

    def step(self, name: str, check: Callable[[], str | None]) -> bool:
        """Run a check, whose result is a remark; whether the steps that build on it can go on."""
        began = time.monotonic()
        try:
            state, remark = "ok", check() or ""
        except Failed as error:
            state, remark = "failed", str(error)
        except Warned as error:
            state, remark = "warning", str(error)
        except Skipped as error:
            state, remark = "not checked", str(error)
        self._say(state, name, remark, time.monotonic() - began)
        return state != "failed"

    def skip(self, name: str, reason: str) -> None:
        self._say("not checked", name, reason, 0.0)

    def _say(self, state: str, name: str, remark: str, seconds: float) -> None:
        self.steps.append((state, name, remark))
        took = f" ({seconds:.0f} s)" if seconds >= 1 else ""
        print(f"{state:<11}  {name}{took}{': ' if remark else ''}{remark}", flush=True)

    @property
    def failed(self) -> bool:
        return any(state == "failed" for state, _, _ in self.steps)

    def summary(self) -> str:
        """How many steps ended how, then again all that is not ok, by name."""
        counts = Counter(state for state, _, _ in self.steps)
        minutes = (time.monotonic() - self.began) / 60
        line = ", ".join(f"{counts[state]} {state}" for state in STATES)
        names = {
            state: [name for found, name, _ in self.steps if found == state] for state in STATES[1:]
        }
        return "\n".join(
            [
                "",
                f"release-check: {line}; {minutes:.1f} minutes",
                *(f"  {state}: {'; '.join(found)}" for state, found in names.items() if found),
                "This cannot be released." if self.failed else "This can be released.",
            ]
        )
