"""Decoding: a picture of any kind becomes a uint8 array (H, W, C), and what changed is said."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fmicl_core.checks import InvalidArgument, invalid
from fmicl_recipes.data.images import Images
from fmicl_recipes.data.splits import Split
from fmicl_recipes.progress import note

if TYPE_CHECKING:
    from PIL.Image import Image

#: What transparent pixels are laid on.
BACKGROUND = "white"
_SIXTEEN_BITS = 2**16 - 1


class Decoder:
    """Decodes pictures one by one and remembers what it had to change.

    Args:
        size: (height, width) to resize to; None leaves every picture its own.
        channels: 1 for grey or 3 for colour; None leaves every picture what it is.
    """

    def __init__(self, size: tuple[int, int] | None = None, channels: int | None = None) -> None:
        self.size, self.channels = size, channels
        #: Number of pictures by what was changed in them.
        self.changes: Counter[str] = Counter()
        self._brightest = 0

    def decode(self, split: Split, key: str, source: str, progress: bool) -> Iterator[Images]:
        """The pictures of a split, in order.

        Args:
            split: what to decode.
            key: name of the split.
            source: name of the data set, for messages.
            progress: whether to show a progress bar.

        Raises:
            ValueError: one cannot be decoded, or is of floats; the message names it.
        """
        from tqdm.auto import tqdm

        if len(split.pictures) == 0:
            raise invalid("data", "at least one image in every split", source,
                          why=f"{key!r} is empty.")  # fmt: skip
        with tqdm(
            split.pictures, f"decode {key}", unit="img", disable=not progress, leave=False
        ) as bar:
            for name, picture in zip(split.names, bar, strict=True):
                yield self._array(picture, name)

    def tell(self) -> None:
        """Say what was changed, and in how many pictures."""
        for change, count in sorted(self.changes.items()):
            note(f"{count} {'picture' if count == 1 else 'pictures'} {change}")
        if 0 < self._brightest < _SIXTEEN_BITS // 8:
            note(
                f"the brightest pixel of 16 bits is {self._brightest} of {_SIXTEEN_BITS}: of what"
                " the pictures show little is left in 8 bits, so give them the whole range before"
            )

    def _array(self, picture: Any, name: str) -> Images:
        if picture is None:
            raise invalid("data", "an image in every row", name, what="row without one")
        try:
            with _opened(picture) as image:
                plain = self._plain(image, name)
        except InvalidArgument:
            raise
        except Exception as error:
            raise invalid("data", "images that can be decoded", name, what="corrupt image",
                          why=f"{type(error).__name__}: {error}.") from error  # fmt: skip
        if self.channels is not None and self.channels != len(plain.getbands()):
            self.changes["made grey" if self.channels == 1 else "made RGB"] += 1
            plain = plain.convert("L" if self.channels == 1 else "RGB")
        if self.size is not None and plain.size != self.size[::-1]:
            from PIL.Image import Resampling

            self.changes[f"resized to {self.size[0]} x {self.size[1]} pixels"] += 1
            plain = plain.resize(self.size[::-1], Resampling.BICUBIC)
        array = np.asarray(plain)
        return array[..., None] if array.ndim == 2 else array

    def _plain(self, image: Image, name: str) -> Image:
        """A picture as its author sees it: upright, of 8 bits, grey or RGB, opaque."""
        from PIL import ImageOps

        if getattr(image, "is_animated", False):
            self.changes["with several frames, of which the first is taken"] += 1
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode == "F":
            raise invalid("data", "pictures of 8 or 16 bits", name, what="picture of floats",
                          why="The range of floats is not known: convert them.")  # fmt: skip
        if image.mode.startswith("I"):
            image = self._of_16_bits(image, name)
        grey = image.mode in ("1", "L", "LA", "La")
        if "A" in image.mode.upper()[1:] or "transparency" in image.info:
            image = self._opaque(image)
        return image.convert("L" if grey else "RGB")

    def _of_16_bits(self, image: Image, name: str) -> Image:
        from PIL import Image as pillow

        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > _SIXTEEN_BITS:
            raise invalid("data", "pictures of 8 or 16 bits", f"values from {low} to {high}",
                          what=name, why="The range of more bits is not known.")  # fmt: skip
        self._brightest = max(self._brightest, high)
        self.changes[f"of 16 bits scaled to 8 (divided by {_SIXTEEN_BITS // 255})"] += 1
        return pillow.fromarray(np.round(values / (_SIXTEEN_BITS // 255)).astype(np.uint8))

    def _opaque(self, image: Image) -> Image:
        from PIL import Image as pillow

        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] == 255:  # the same picture without it
            return image
        self.changes[f"with transparent pixels laid on {BACKGROUND}"] += 1
        return pillow.alpha_composite(pillow.new("RGBA", image.size, BACKGROUND), image)


def _opened(picture: Any) -> Image:
    from PIL import Image as pillow

    if isinstance(picture, np.ndarray):
        return pillow.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    return pillow.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
