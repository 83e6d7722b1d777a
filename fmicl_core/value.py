"""Value: equality, hash and repr by what an object holds."""

from __future__ import annotations


class Value:
    """Base class of what is compared by its class and its fields, as a dataclass is.

    The library's own subclasses are frozen dataclasses, which bring methods of their own. A user's
    plain class gets these, so that two objects that hold different things are never taken for equal
    where compiled code is kept by them.
    """

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return bool(vars(self) == vars(other))

    def __hash__(self) -> int:
        return hash((type(self), *sorted(vars(self))))  # a value may have no hash; its name has

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__qualname__}({fields})"
