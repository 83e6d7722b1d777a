"""Which form computes a loss: settings say what the loss is, `implementation` how it is computed.

"dense" holds all pairs at once, "tiled" a tile of them at a time, "fused" is the tiled form in one
routine of a GPU (`fmicl_core.fused` has its tiles), and "auto" chooses by the number of pairs.
"""

from __future__ import annotations

from collections.abc import Collection

from fmicl_core.checks import check_choice
from fmicl_core.renamed import warn_renamed

#: What `implementation` may be in every backend.
IMPLEMENTATIONS = ("auto", "dense", "tiled")
#: The form that some backends have on a GPU, and what `implementation` may be there.
FUSED = "fused"
WITH_FUSED = (*IMPLEMENTATIONS, FUSED)
#: What "fused" was called in version 0.1.
OLD_FUSED = "kernel"
#: Up to this many pairs in a block the dense form is as fast and its memory does not matter.
DENSE_PAIRS = 512 * 512
#: Rows and columns of a tile, at most. A float32 tile and its temporaries stay in a CPU's L2 cache.
TILE = {"cpu": 512, "accelerator": 4096}
#: The same of tiles in which positives are: in rows sorted by id they lie near the diagonal, where
#: small tiles hold fewer other pairs.
POSITIVE_TILE = {"cpu": 128, "accelerator": 1024}


def check_implementation(implementation: str, choices: Collection[str] = IMPLEMENTATIONS) -> str:
    """Return `implementation`, by its name of today, when it is one of `choices`.

    Raises:
        ValueError: it is unknown; the message lists the names.

    Warns:
        DeprecationWarning: it was called by its old name.
    """
    if implementation == OLD_FUSED and FUSED in choices:
        warn_renamed(f"implementation={OLD_FUSED!r}", f"implementation={FUSED!r}")
        return FUSED
    return check_choice("implementation", implementation, choices)


def choose_form(implementation: str, n: int | None, k: int | None, fused: bool = False) -> str:
    """The form that computes blocks of at most n x k pairs: "dense", "tiled" or "fused".

    Args:
        implementation: name of a form, or "auto"; checked.
        n: rows of the largest block; None while the size is unknown.
        k: columns of the largest block; None while the size is unknown.
        fused: whether there is a fused routine for these features.
    """
    if implementation != "auto":
        return implementation
    if n is not None and k is not None and n * k <= DENSE_PAIRS:
        return "dense"
    return FUSED if fused else "tiled"


def tile_size(device: str) -> int:
    """Rows and columns of a tile, at most, on this kind of device; all but "cpu" are alike."""
    return TILE[_kind(device)]


def positive_tile_size(device: str) -> int:
    """Rows and columns of a tile of positive pairs, at most, on this kind of device."""
    return min(POSITIVE_TILE[_kind(device)], tile_size(device))


def _kind(device: str) -> str:
    return "cpu" if device == "cpu" else "accelerator"
