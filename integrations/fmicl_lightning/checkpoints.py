"""Checkpoints of Lightning, which run no code when read and are written whole or not at all."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from fmicl_recipes.files import write_atomically
from fmicl_recipes.run_folder import unreadable_checkpoint
from fmicl_recipes.stopping import saving

#: Entries that every checkpoint of a run has.
_NEEDED = {"state_dict", "history", "callbacks"}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a run's checkpoint, on the CPU; no code in the file is run.

    Raises:
        ValueError: the file is damaged, no checkpoint of a run, or holds more than tensors and
            plain values.
    """
    found = _read(path)
    if not isinstance(found, dict) or not found.keys() >= _NEEDED:
        raise unreadable_checkpoint(path)
    return found


def _read(path: str | Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, OSError, RuntimeError) as error:
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


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written whole or not at all."""

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
        return found
