"""Which form computes a loss: settings say what the loss is, `implementation` how it is computed.

"dense" holds all pairs at once, "tiled" a tile of them at a time, "fused" is the tiled form in one
routine of an accelerator, and "auto" chooses among them by the number of pairs.
"""

from __future__ import annotations

from collections.abc import Collection

from fmicl_core.checks import check_choice
from fmicl_core.renamed import warn_renamed

#: What `implementation` may be in every backend.
IMPLEMENTATIONS = ("auto", "dense", "tiled")
#: One routine for all of a tile, in the backends that have one.
FUSED = "fused"
WITH_FUSED = (*IMPLEMENTATIONS, FUSED)
#: What "fused" was called in version 0.1.
OLD_FUSED = "kernel"
#: Up to this many pairs in a block the dense form is as fast and its memory does not matter.
DENSE_PAIRS = 512 * 512


def name_of_today(implementation: str) -> str:
    """Return `implementation` by its name of today.

    Warns:
        DeprecationWarning: it was called by its old name.
    """
    if implementation != OLD_FUSED:
        return implementation
    warn_renamed(f"implementation={OLD_FUSED!r}", f"implementation={FUSED!r}")
    return FUSED


def check_implementation(implementation: str, choices: Collection[str] = IMPLEMENTATIONS) -> str:
    """Return `implementation` when it is one of `choices`.

    Raises:
        ValueError: it is unknown; the message lists the names.
    """
    return check_choice("implementation", implementation, choices)


def choose_form(implementation: str, n: int | None, k: int | None, fused: bool = False) -> str:
    """The form that computes blocks of at most n x k pairs: "dense", "tiled" or "fused".

    Args:
        implementation: name of a form, or "auto".
        n: rows of the largest block; None while the size is unknown.
        k: columns of the largest block; None while the size is unknown.
        fused: whether there is a fused routine for these features.

    Raises:
        ValueError: `implementation` is unknown; the message lists the names.
    """
    implementation = check_implementation(implementation, WITH_FUSED if fused else IMPLEMENTATIONS)
    if implementation != "auto":
        return implementation
    if n is not None and k is not None and n * k <= DENSE_PAIRS:
        return "dense"
    return FUSED if fused else "tiled"
