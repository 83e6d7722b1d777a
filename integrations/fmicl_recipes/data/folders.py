"""Image folders: which files are images, and what their folders say of them."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from fmicl_core.checks import callers_level
from fmicl_recipes.data.splits import Split, split_word
from fmicl_recipes.data.texts import Texts

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"
)  # fmt: skip


def files_below(folder: Path) -> Iterator[str]:
    """Paths from a folder of all files below it, through links, but for hidden ones."""
    for root, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(root)
        folders[:] = sorted(
            name for name in folders
            if _visible(name) and not (
                os.path.islink(os.path.join(root, name))  # to a folder above: it has no end
                and Path(here).is_relative_to(os.path.realpath(os.path.join(root, name)))
            )
        )  # fmt: skip
        below = Path(root).relative_to(folder).as_posix()
        inside = "" if below == "." else f"{below}/"
        yield from (inside + name for name in sorted(names) if _visible(name))


def suffix(name: str) -> str:
    """The ending of the name of a file, in small letters."""
    return os.path.splitext(name)[1].lower()


def in_order(names: Sequence[str]) -> list[str]:
    """Paths in the order of folder after folder, as `Path` has it."""
    return sorted(names, key=lambda name: name.replace("/", "\0"))


def _visible(name: str) -> bool:
    return not name.startswith((".", "__"))


def image_splits(source: Path, names: Sequence[str]) -> dict[str, Split]:
    """The splits of an image folder; each is read on its own, with or without classes.

    Args:
        source: the folder.
        names: paths from the folder of all images below it.
    """
    top = _only_folder(names)
    heads = [_folder(name, len(top)) for name in names]
    words = {head: split_word(head) for head in set(heads) if head}
    if not _are_splits(set(words.values()), "" in heads):
        return {"train": _classes(source, names, [len(top)] * len(names))}
    splits: dict[str, list[int]] = {}
    left: dict[str, int] = {}
    for index, head in enumerate(heads):
        key = words.get(head)
        if key is None:
            place = f"{head}/" if head else "no folder"
            left[place] = left.get(place, 0) + 1
        else:
            splits.setdefault(key, []).append(index)
    if left:
        listed = ", ".join(f"{count} in {place}" for place, count in left.items())
        warnings.warn(f"Images beside the splits of {source / top} are left out: {listed}.",
                      UserWarning, stacklevel=callers_level())  # fmt: skip
    return {
        key: _classes(source, [names[i] for i in rows], [len(top + heads[i]) + 1 for i in rows])
        for key, rows in splits.items()
    }


def _folder(name: str, start: int) -> str:
    """The folder that begins at a place of a path; an empty text if a file does."""
    end = name.find("/", start)
    return sys.intern(name[start:end]) if end >= 0 else ""


def _only_folder(names: Sequence[str]) -> str:
    """The folders around the only one that holds all others, which are passed through."""
    top = ""
    while len(folders := {_folder(name, len(top)) for name in names}) == 1:
        (folder,) = folders
        deeper = f"{top}{folder}/"
        if not folder or split_word(folder) or not all(_folder(n, len(deeper)) for n in names):
            break
        top = deeper
    return top


def _are_splits(found: set[str | None], loose: bool) -> bool:
    """Whether folders are splits rather than classes, one of which may be "train" beside "bus".

    Args:
        found: the splits that the folders' names stand for, with None if one stands for none.
        loose: whether there are images beside the folders.
    """
    known = found - {None}
    if None in found:
        return "train" in known and len(known) > 1
    return "train" in known or (bool(known) and not loose)


def _classes(source: Path, names: Sequence[str], starts: Sequence[int]) -> Split:
    """A split whose classes are the folders at a depth, if every image lies in such a folder.

    Args:
        source: folder from which images are named.
        names: paths of the images from there.
        starts: places in the paths where the folders of classes begin.
    """
    texts = Texts(names)
    pictures = texts.prefixed(os.path.join(source, ""))
    labels = [_folder(name, start) for name, start in zip(names, starts, strict=True)]
    loose = sum(not label for label in labels)
    if loose == 0:
        return Split(pictures, texts, labels)
    if loose < len(names):
        where = source / names[0][: starts[0]]
        warnings.warn(
            f"{loose} of {len(names)} images in {where} are in no sub-folder, so the sub-folders"
            " are not taken for classes: there are no labels.",
            UserWarning, stacklevel=callers_level(),
        )  # fmt: skip
    return Split(pictures, texts)
