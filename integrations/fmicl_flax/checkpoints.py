"""Checkpoints by Orbax, replaced in such a way that there is a whole one at every moment."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from fmicl_recipes.files import parse_json, read_text
from fmicl_recipes.run_folder import RunFolder, unreadable_checkpoint
from fmicl_recipes.run_state import RunState
from fmicl_recipes.stopping import NotSaved

#: Folder inside the run's that holds the checkpoint; the link `RunFolder.checkpoint` points there.
STORE = "checkpoints"
#: Files of a checkpoint in JSON, which Orbax reads.
_METADATA = ("_METADATA", "_CHECKPOINT_METADATA")
#: How the library that writes arrays tells the operating system's errors.
_CODE = re.compile(r"os_error_code='(\d+)'")


def save_checkpoint(folder: RunFolder, name: str, state: Any, facts: dict[str, Any]) -> None:
    """Replace the folder's checkpoint.

    Orbax checkpoints are directories, and no system call replaces one by another. So the new one is
    written beside the old one, and a symbolic link, `folder.checkpoint`, then moves to it in one
    step.

    Args:
        folder: folder of the run.
        name: name of the checkpoint, another than that of the one before.
        state: nested dictionaries of arrays.
        facts: values that JSON can hold, kept beside the arrays.
    """
    store = folder.path.absolute() / STORE
    try:
        store.mkdir(exist_ok=True)
        shutil.rmtree(store / name, ignore_errors=True)  # what a run that was killed may have left
        with _untold(), ocp.StandardCheckpointer(multiprocessing_options=_alone()) as writer:
            writer.save(store / name, state, custom_metadata=facts)
        link = folder.path / f".{folder.checkpoint.name}"
        link.unlink(missing_ok=True)
        link.symlink_to(f"{STORE}/{name}", target_is_directory=True)
        os.replace(link, folder.checkpoint)
    finally:
        whole = folder.checkpoint.resolve()
        for other in store.iterdir() if store.exists() else ():
            if other != whole:
                shutil.rmtree(other, ignore_errors=True)


@contextmanager
def _untold() -> Iterator[None]:
    """Keep Orbax from printing the tracebacks of errors that it raises as well."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _alone() -> ocp.options.MultiprocessingOptions:
    """That this process reads or writes without the others of a run."""
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process-{index}"
    )


def system_error(error: BaseException | None) -> OSError | None:
    """The operating system's error that an error comes of, if it does."""
    while error is not None and not isinstance(error, OSError):
        if code := _CODE.search(str(error)):
            return OSError(int(code[1]), os.strerror(int(code[1])))
        error = error.__cause__ or error.__context__
    return error


class Saver:
    """Saves checkpoints and histories in a thread, one at a time, while training goes on.

    The block waits for the last one, also where it ends in an error. An error of saving is raised
    by the next call of `save`, by `wait`, or at the end.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def save(self, folder: RunFolder, step: int, state: Any, facts: dict[str, Any]) -> None:
        """Replace the folder's checkpoint, see `save_checkpoint`, then its history.

        Args:
            folder: folder of the run.
            step: number of steps done, another than that of the checkpoint before.
            state: nested dictionaries of arrays in the host's memory.
            facts: values that JSON can hold, kept beside the arrays; among them the `history`.
        """

        def write() -> None:
            try:
                save_checkpoint(folder, f"step-{step}", state, facts)
                folder.write_history(facts["history"])
            except Exception as error:
                if (cause := system_error(error)) is None:
                    raise
                raise NotSaved.because(cause, step) from error

        self.wait()
        self._last = self._thread.submit(write)

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            NotSaved: it could not be written.
        """
        if self._last is not None:
            self._last.result()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()


def load_checkpoint(
    folder: RunFolder, like: Any, sharding: jax.sharding.Sharding
) -> tuple[Any, RunState]:
    """Arrays of the folder's checkpoint, and how far the run is.

    Args:
        folder: folder of the run.
        like: arrays of the same structure, shapes and dtypes.
        sharding: devices that the arrays go to.

    Raises:
        ValueError: the checkpoint is damaged, or of another state.
    """
    path = folder.checkpoint.resolve()
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like)
    places = jax.tree.map(lambda x: ocp.ArrayRestoreArgs(sharding=sharding), target)
    how = ocp.args.PyTreeRestore(target, restore_args=places)
    try:
        for name in _METADATA:
            parse_json(read_text(path / name))
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone())
        with ocp.Checkpointer(handler, multiprocessing_options=_alone()) as reader:
            known = reader.metadata(path)
            if not _holds(known.item_metadata, like):
                raise unreadable_checkpoint(path)
            state = reader.restore(path, args=how)
        facts = dict(known.custom_metadata)
    except Exception as error:  # whatever the libraries below say of a damaged file
        raise unreadable_checkpoint(path) from error
    if jax.tree.map(np.shape, state) != jax.tree.map(np.shape, like):
        raise unreadable_checkpoint(path)
    return state, RunState.of(facts, path)


def _holds(stored: Any, like: Any) -> bool:
    """Whether arrays that are stored have the shapes of others, in no larger chunks.

    Orbax makes arrays of the shapes and chunks that a checkpoint says, whatever is asked for.
    """
    shapes = {_name(path): np.shape(x) for path, x in jax.tree_util.tree_leaves_with_path(like)}
    kept = getattr(stored, "tree", stored)
    found = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(kept)}
    for name, shape in shapes.items():
        chunk = getattr(getattr(found.get(name), "storage", None), "chunk_shape", None)
        if getattr(found.get(name), "shape", None) != shape or chunk is None:
            return False
        if math.prod(chunk) > max(1, math.prod(shape)):
            return False
    return True


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
