"""The Hugging Face hub: whether it can give a data set, or an earlier copy of it is here."""

from __future__ import annotations

import os
from pathlib import Path

from fmicl_core.checks import InvalidArgument, invalid

#: Short names of hub data sets.
ALIASES = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "mnist": "ylecun/mnist"}
#: Seconds to wait for the hub to answer whether it has a data set.
TIMEOUT = 5.0
#: Data sets that the hub has said to have, so that it is asked once in a process.
_reached: set[str] = set()


def check_reachable(source: str) -> str | None:
    """Check that a data set can come from the hub, or from the copy of an earlier time.

    Returns:
        None if the hub has it; otherwise why the hub cannot be asked, so that only a copy will do.

    Raises:
        ValueError: the hub does not give it, and there is no copy.
    """
    name = ALIASES.get(source, source)
    failure = _failure(name)
    if failure and not _perhaps_cached(name):
        raise not_found(source, failure)
    return failure


def not_found(source: str, why: str) -> InvalidArgument:
    """The error for a name that is no path, and of which the hub gives nothing."""
    return invalid(
        "data", "a path that exists, or a data set of the hub that can be reached", source,
        why=f"No file or folder of that name is here. {why} Without access to the hub give a local"
        " path: a folder of images or of parquet files.",
    )  # fmt: skip


def _failure(name: str) -> str | None:
    """Why the hub cannot give a data set, after one short try; None if it can."""
    from huggingface_hub import HfApi

    if name in _reached:
        return None
    try:
        HfApi().dataset_info(name, timeout=TIMEOUT)
    except Exception as error:  # of the hub's, its client's and the system's many kinds
        if type(error).__name__ == "RepositoryNotFoundError":
            return "The hub has no data set of that name, or none that is open to all."
        lines = str(error).splitlines() or [""]
        return f"The hub could not be reached: {type(error).__name__}: {lines[0]}."
    _reached.add(name)
    return None


def _perhaps_cached(name: str) -> bool:
    """Whether `datasets` may have a copy of a hub data set from an earlier time."""
    from huggingface_hub import constants

    folder = os.environ.get("HF_DATASETS_CACHE") or os.path.join(constants.HF_HOME, "datasets")
    return any(Path(folder).expanduser().glob(f"{name.partition('/')[0]}___*"))
