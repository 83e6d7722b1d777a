"""Image folders: which files are images, and what their folders say of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from fmicl_core.checks import callers_level
from fmicl_recipes.data.splits import Split, split_word

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"
)  # fmt: skip


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, through links, but for hidden ones."""
    for root, folders, names in os.walk(folder, followlinks=True):
        here = Path(root).resolve()
        folders[:] = sorted(
            name for name in folders
            if _visible(name) and not (
                os.path.islink(os.path.join(root, name))  # to a folder above: it has no end
                and here.is_relative_to(os.path.realpath(os.path.join(root, name)))
            )
        )  # fmt: skip
        yield from (Path(root, name) for name in sorted(names) if _visible(name))


def _visible(name: str) -> bool:
    return not name.startswith((".", "__"))


def image_splits(source: Path, pictures: Sequence[Path]) -> dict[str, Split]:
    """The splits of an image folder; each is read on its own, with or without classes.

    Args:
        source: the folder.
        pictures: paths of all images below it.
    """
    top, parts = source, [file.relative_to(source).parts for file in pictures]
    while (  # folders around the only one are passed through
        len({part[0] for part in parts}) == 1
        and all(len(part) > 2 for part in parts)
        and split_word(parts[0][0]) is None
    ):
        top, parts = top / parts[0][0], [part[1:] for part in parts]
    words = {part[0]: split_word(part[0]) for part in parts if len(part) > 1}
    if not _are_splits(set(words.values()), any(len(part) == 1 for part in parts)):
        return {"train": _classes(source, top, pictures, parts, 0)}
    splits: dict[str, list[int]] = {}
    left: dict[str, int] = {}
    for index, part in enumerate(parts):
        key = words.get(part[0])
        if key is None:
            place = f"{part[0]}/" if len(part) > 1 else "no folder"
            left[place] = left.get(place, 0) + 1
        else:
            splits.setdefault(key, []).append(index)
    if left:
        listed = ", ".join(f"{count} in {place}" for place, count in left.items())
        warnings.warn(f"Images beside the splits of {top} are left out: {listed}.",
                      UserWarning, stacklevel=callers_level())  # fmt: skip
    return {
        key: _classes(source, top, [pictures[i] for i in rows], [parts[i] for i in rows], 1)
        for key, rows in splits.items()
    }


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


def _classes(
    source: Path, top: Path, pictures: Sequence[Path], parts: Sequence[tuple[str, ...]], depth: int
) -> Split:
    """A split whose classes are the folders at a depth, if every image lies in such a folder.

    Args:
        source: folder from which images are named.
        top: folder of the splits or classes.
        pictures: paths of the images.
        parts: the same paths, as names of folders and file from `top` on.
        depth: number of folders above those of the classes.
    """
    names = [file.relative_to(source).as_posix() for file in pictures]
    loose = sum(len(part) == depth + 1 for part in parts)
    if loose == 0:
        return Split([str(f) for f in pictures], names, [part[depth] for part in parts])
    if loose < len(parts):
        where = "/".join([str(top), *parts[0][:depth]])
        warnings.warn(
            f"{loose} of {len(parts)} images in {where} are in no sub-folder, so the sub-folders"
            " are not taken for classes: there are no labels.",
            UserWarning, stacklevel=callers_level(),
        )  # fmt: skip
    return Split([str(f) for f in pictures], names)
