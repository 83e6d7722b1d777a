"""Random views: the strengths and constants that the augmentations of three frameworks share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fmicl_core.checks import check_number, invalid

#: The augmentations by name: for pictures of any kind, and for handwritten characters.
VIEWS = ("photo", "digits")
#: What images in [0, 1] are standardised by, whatever the data set.
MEAN, DEVIATION = 0.5, 0.25
#: Share of the images whose colours "photo" jitters.
JITTERED = 0.8
#: Deviation of the Gaussian blur in pixels, drawn evenly.
BLUR_SIGMA = (0.1, 2.0)
#: From RGB to luminance and two chrominances, in whose plane hue is an angle (NTSC).
YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], np.float32
)
RGB = np.linalg.inv(YIQ).astype(np.float32)


class Photo(NamedTuple):
    """Strengths of "photo", SimCLR's augmentation (Chen et al. 2020, appendix A).

    Args:
        crop_scale: least share of the area that a random crop keeps, in (0, 1].
        jitter: strength s of the colour jitter in [0, 1]: brightness, contrast and saturation by
            up to 0.8 s, hue by up to 0.2 s of a turn. Saturation and hue need colour.
        blur: probability of a Gaussian blur.
        grayscale: probability of grey in the place of colour.
        flip: probability of the mirror image.
    """

    crop_scale: float = 0.2
    jitter: float = 0.5
    blur: float = 0.0
    grayscale: float = 0.2
    flip: float = 0.5

    def checked(self) -> Photo:
        """These strengths.

        Raises:
            ValueError: one of them is out of range; the message names it.
        """
        if not 0.0 < check_number("crop_scale", self.crop_scale) <= 1.0:
            raise invalid("crop_scale", "a number in (0, 1]", self.crop_scale)
        for name in ("jitter", "blur", "grayscale", "flip"):
            if not 0.0 <= check_number(name, getattr(self, name)) <= 1.0:
                raise invalid(name, "a number in [0, 1]", getattr(self, name))
        return self

    def differing(self) -> Photo:
        """These strengths.

        Raises:
            ValueError: all are off, and the two views of an image would be the same.
        """
        if self == OFF:
            raise invalid("augmentation", "at least one of " + ", ".join(Photo._fields) + " on",
                          tuple(self), what="strengths",
                          why="Otherwise the two views of an image are the same.")  # fmt: skip
        return self

    @property
    def aspect(self) -> tuple[float, float]:
        """Bounds of the crop's width / height, of which the logarithm is drawn evenly.

        3/4 to 4/3; less where a longer side would be cut to that of the image and leave less of
        the area than `crop_scale`.
        """
        return max(3.0 / 4.0, self.crop_scale), min(4.0 / 3.0, 1.0 / self.crop_scale)

    @property
    def factors(self) -> tuple[float, float]:
        """Bounds of the factors of brightness, contrast and saturation."""
        return 1.0 - 0.8 * self.jitter, 1.0 + 0.8 * self.jitter

    @property
    def turn(self) -> float:
        """Bound of the change of hue, in turns."""
        return 0.2 * self.jitter


#: The default: strength 0.5 and no blur, as SimCLR has for CIFAR-10.
PHOTO = Photo()
OFF = Photo(crop_scale=1.0, jitter=0.0, blur=0.0, grayscale=0.0, flip=0.0)


def blur_radius(side: int) -> int:
    """Pixels to either side that a blur takes in: a tenth of the image with the pixel itself."""
    return max(side // 20, 1)


class Digits(NamedTuple):
    """Strengths of "digits", for handwritten characters."""

    #: Bounds of rotation and of horizontal shear.
    degrees: float = 12.0
    #: Bound of the shift, as a share of the side.
    shift: float = 0.12
    scale: tuple[float, float] = (0.85, 1.15)
    #: Deviation of the noise.
    noise: float = 0.08
    #: Share of the images of which a box becomes black, its share of the area, width / height.
    erased: float = 0.3
    erased_area: tuple[float, float] = (0.02, 0.12)
    erased_aspect: tuple[float, float] = (0.3, 3.3)


DIGITS = Digits()


def chosen_augmentation(name: str, data: str) -> str:
    """What the augmentation `name` is for a data set: "auto" is "digits" or "photo"."""
    if name != "auto":
        return name
    return "digits" if data == "digits" else "photo"
