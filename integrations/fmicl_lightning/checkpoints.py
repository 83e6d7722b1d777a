"""Checkpoints of Lightning, which run no code when read and are written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from fmicl_core.checks import InvalidArgument
from fmicl_recipes.archives import check_archive
from fmicl_recipes.files import write_atomically
from fmicl_recipes.run_folder import unreadable_checkpoint
from fmicl_recipes.run_state import RunState
from fmicl_recipes.stopping import RunStopped, saving

#: Entries that every checkpoint of a run has.
_NEEDED = {"state_dict", "history", "callbacks"}
#: Entries that a run goes on from. Others are left, above all the state of Lightning's callback: it
#: names files, of which Lightning removes some, in other folders, too.
_TAKEN = _NEEDED | {
    "losses", "optimizer_states", "lr_schedulers", "loops", "epoch", "global_step",
    "pytorch-lightning_version",
}  # fmt: skip


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a run's checkpoint, on the CPU; no code in the file is run.

    Raises:
        ValueError: the file is damaged, no checkpoint of a run, or holds more than tensors and
            plain values.
    """
    found = _read(path)
    if not isinstance(found, dict) or not found.keys() >= _NEEDED:
        raise unreadable_checkpoint(path)
    check_content(found, path)
    return found


def check_content(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Check the types of weights and facts in a checkpoint.

    Raises:
        ValueError: weights are no tensors, or facts no numbers.
    """
    weights = checkpoint["state_dict"]
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided
        for name, value in weights.items()
    ):
        raise unreadable_checkpoint(path)
    read_state(checkpoint, path)


def read_state(checkpoint: dict[str, Any], path: str | Path) -> RunState:
    """How far a run is, as its checkpoint says.

    Raises:
        ValueError: it does not say so.
    """
    callbacks = checkpoint.get("callbacks")
    clock = callbacks.get("RunClock") if isinstance(callbacks, dict) else None
    seconds = clock.get("seconds") if isinstance(clock, dict) else None
    return RunState.of(checkpoint | {"seconds": seconds}, path)


def _read(path: str | Path) -> Any:
    try:
        check_archive(Path(path))
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the library below says of a damaged file
        raise unreadable_checkpoint(path) from error


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Give a module the weights of a checkpoint.

    Raises:
        ValueError: the checkpoint is of another module.
    """
    try:
        module.load_state_dict(weights)
    except (RuntimeError, AttributeError) as error:
        raise unreadable_checkpoint(path) from error


def check_optimizers(optimizers: Iterable[torch.optim.Optimizer], path: str | Path) -> None:
    """Check that what optimisers keep of each weight has its shape, or is one number.

    Raises:
        ValueError: it has another, so that the checkpoint is of another run.
    """
    for optimizer in optimizers:
        for weight, kept in optimizer.state.items():
            for value in kept.values():
                if isinstance(value, torch.Tensor) and value.shape not in (weight.shape, ()):
                    raise unreadable_checkpoint(path)


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written whole or not at all.

    Attributes:
        taken: path of a run's checkpoint that has been read, until training has begun with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken: str | None = None

    @contextmanager
    def as_taken(self) -> Iterator[None]:
        """Tell errors in what Lightning takes from a checkpoint, before training begins, as its."""
        try:
            yield
        except (InvalidArgument, RunStopped, OSError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if self.taken is None:
                raise
            raise unreadable_checkpoint(self.taken) from error

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        """Write beside `path`, then replace it.

        Raises:
            NotSaved: it could not be written.
        """
        with saving(checkpoint.get("global_step", 0)):
            write_atomically(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The content of a file, on the CPU; no code in it is run, whatever `weights_only` says.

        Lightning's processes also hand weights alone to each other through files.

        Raises:
            ValueError: the file is damaged, or holds more than tensors and plain values.
        """
        found: dict[str, Any] = _read(path)
        if isinstance(found, dict) and found.keys() >= _NEEDED:
            self.taken = str(path)
            check_content(found, path)
            callbacks = {"RunClock": found["callbacks"]["RunClock"]}
            return {k: v for k, v in found.items() if k in _TAKEN} | {"callbacks": callbacks}
        return found
