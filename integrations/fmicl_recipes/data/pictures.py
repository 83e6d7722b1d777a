"""Decoding: a picture of any kind becomes a uint8 array (H, W, C), and what changed is said."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fmicl_core.checks import InvalidArgument, invalid
from fmicl_recipes.data.splits import Images, Split
from fmicl_recipes.progress import note

if TYPE_CHECKING:
    from PIL.Image import Image

#: What transparent pixels are laid on.
BACKGROUND = "white"
#: The tag of EXIF that says how a picture is turned, and its values by which sides change places.
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)
#: Modes of Pillow, beside those that begin with I, that are grey.
GREY = ("1", "L", "LA", "La")
_SIXTEEN_BITS = 2**16 - 1

#: Left, top, right and bottom in pixels.
Box = tuple[float, float, float, float]
#: From (width, height) of a picture to boxes in it.
Boxes = Callable[[tuple[int, int]], Sequence[Box]]


class CorruptImage(InvalidArgument):
    """A picture that cannot be decoded."""

    @classmethod
    def named(cls, name: str, what: str = "corrupt image", why: str | None = None) -> CorruptImage:
        """The error, of a picture by its name."""
        expected = "images that can be decoded" if why else "an image in every row"
        return cls(str(invalid("data", expected, name, what=what, why=why)))


class Decoder:
    """Decodes pictures one by one and remembers what it had to change.

    Args:
        size: (height, width) to resize to; None leaves every picture its own.
        channels: 1 for grey or 3 for colour; None leaves every picture what it is.
        skip_corrupt: whether `decode` leaves out what cannot be decoded.
        advice: what errors say beside of a picture that cannot be decoded.
    """

    def __init__(
        self, size: tuple[int, int] | None = None, channels: int | None = None,
        skip_corrupt: bool = False, advice: str = "",
    ) -> None:  # fmt: skip
        self.size, self.channels, self.skip_corrupt = size, channels, skip_corrupt
        self.advice = advice
        #: Number of pictures by what was changed in them.
        self.changes: Counter[str] = Counter()
        #: Rows of pictures that were left out, by split.
        self.corrupt: dict[str, list[int]] = {}
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

        check_some(split, key, source)
        with tqdm(
            split.pictures, f"decode {key}", unit="img", disable=not progress, leave=False, delay=1
        ) as bar:
            for row, (name, picture) in enumerate(zip(split.names, bar, strict=True)):
                try:
                    array = self.array(picture, name)
                except CorruptImage:
                    if not self.skip_corrupt:
                        raise
                    self.corrupt.setdefault(key, []).append(row)
                else:
                    yield array

    def tell(self) -> None:
        """Say what was changed, and in how many pictures."""
        for change, count in sorted(self.changes.items()):
            note(f"{count} {'picture' if count == 1 else 'pictures'} {change}")
        if 0 < self._brightest < _SIXTEEN_BITS // 8:
            note(
                f"the brightest pixel of 16 bits is {self._brightest} of {_SIXTEEN_BITS}: of what"
                " the pictures show little is left in 8 bits, so give them the whole range before"
            )

    def array(self, picture: Any, name: str) -> Images:
        """A picture (H, W, C), resized so that it covers `size`, and cut to its centre.

        Args:
            picture: path, bytes of a file, or a uint8 array (H, W, C).
            name: name of the picture, for messages.

        Raises:
            ValueError: it cannot be decoded, or is of floats.
        """
        plain = self._decoded(picture, name)
        if self.size is not None and plain.size != self.size[::-1]:
            from PIL.Image import Resampling

            box = centre(plain.size, self.size[::-1])
            self.changes[f"resized to {self.size[0]} x {self.size[1]} pixels"] += 1
            if box != (0, 0, *plain.size):
                self.changes["of other proportions cut to their centre"] += 1
            plain = plain.resize(self.size[::-1], Resampling.BICUBIC, box)
        return as_array(plain)

    def crops(self, picture: Any, name: str, boxes: Boxes) -> Images:
        """Crops (V, H, W, C) of a picture, each resized bilinearly to `size`.

        Args:
            picture: path, bytes of a file, or a uint8 array (H, W, C).
            name: name of the picture, for messages.
            boxes: function from (width, height) of the picture to V boxes (left, top, right,
                bottom).

        Raises:
            ValueError: it cannot be decoded, or is of floats.
        """
        from PIL.Image import Resampling

        assert self.size is not None
        height, width = self.size
        chosen: Sequence[Box] = ()
        part = 1

        def shrink(image: Image) -> None:
            """Let a JPEG file be decoded at a half or less, where all crops are smaller still."""
            nonlocal chosen, part
            if image.format == "JPEG":
                turn = image.getexif().get(ORIENTATION, 1)
                chosen = boxes(image.size[::-1] if turn in TURNED else image.size)
                spare = min(min((x1 - x0) / width, (y1 - y0) / height)
                            for x0, y0, x1, y1 in chosen)  # fmt: skip
                part = next(
                    k for k in (8, 4, 2, 1)
                    # A part of a pixel stands at the end, which turning would put first.
                    if k <= max(spare, 1) and (turn == 1 or not any(n % k for n in image.size))
                )  # fmt: skip
                image.draft(None, (image.width // part, image.height // part))

        plain = self._decoded(picture, name, shrink)
        chosen = chosen or boxes(plain.size)
        if part > 1:
            chosen = [
                (x0 / part, y0 / part, min(x1 / part, plain.width), min(y1 / part, plain.height))
                for x0, y0, x1, y1 in chosen
            ]
        resized = (plain.resize((width, height), Resampling.BILINEAR, box) for box in chosen)
        return np.stack([*map(as_array, resized)])

    def _decoded(
        self, picture: Any, name: str, before: Callable[[Image], None] | None = None
    ) -> Image:
        """A picture, upright, of 8 bits and of these channels.

        Args:
            picture: path, bytes of a file, or a uint8 array (H, W, C).
            name: name of the picture, for messages.
            before: what is called with the picture when no pixel is read yet.
        """
        if picture is None:
            raise CorruptImage.named(name, "row without one")
        try:
            with opened(picture) as image:
                if before is not None:
                    before(image)
                plain = self._plain(image, name)
        except InvalidArgument:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {error}. {self.advice}".rstrip()
            raise CorruptImage.named(name, why=why) from error
        if self.channels is not None and self.channels != len(plain.getbands()):
            self.changes["made grey" if self.channels == 1 else "made RGB"] += 1
            plain = plain.convert("L" if self.channels == 1 else "RGB")
        return plain

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
        grey = image.mode in GREY
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


def opened(picture: Any) -> Image:
    """A picture by its path, the bytes of its file or its array, of which no pixel is read yet."""
    from PIL import Image as pillow

    if isinstance(picture, np.ndarray):
        return pillow.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    return pillow.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)


def as_array(image: Image) -> Images:
    """The pixels (H, W, C) of a grey or RGB picture."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def centre(size: tuple[int, int], shape: tuple[int, int]) -> Box:
    """The largest box of a shape's proportions in the middle of a picture.

    Args:
        size: (width, height) of the picture.
        shape: (width, height) whose proportions the box has.
    """
    (width, height), (wide, high) = size, shape
    if width * high == height * wide:
        return 0, 0, width, height
    if width * high > height * wide:
        wanted: tuple[float, float] = height * wide / high, height
    else:
        wanted = width, width * high / wide
    left, top = (width - wanted[0]) / 2, (height - wanted[1]) / 2
    return left, top, left + wanted[0], top + wanted[1]


def check_some(split: Split, key: str, source: str) -> None:
    """Check that a split is not empty.

    Raises:
        ValueError: it is.
    """
    if len(split.pictures) == 0:
        raise invalid("data", "at least one image in every split", source,
                      why=f"{key!r} is empty.")  # fmt: skip
