"""Random views: the strengths and constants that the augmentations of three frameworks share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fmicl_core.checks import invalid
from fmicl_recipes.checks import unit_interval

#: The augmentations by name: for pictures of any kind, and for handwritten characters.
VIEWS = ("photo", "digits")
#: What images in [0, 1] are standardised by, whatever the data set.
MEAN, DEVIATION = 0.5, 0.25
#: Share of the images whose colours "photo" jitters.
JITTERED = 0.8
#: Bounds of the Gaussian blur's standard deviation in pixels, which is drawn evenly.
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
        """Return these strengths.

        Raises:
            ValueError: one of them is out of range; the message names it.
        """
        for name, value in self._asdict().items():
            STRENGTHS[name](name, value)
        return self

    def check_views_differ(self) -> None:
        """Check that not all strengths are off.

        Raises:
            ValueError: the two views of an image would be the same.
        """
        if self == OFF:
            raise invalid("augmentation", "at least one of " + ", ".join(Photo._fields) + " on",
                          tuple(self), what="strengths",
                          why="Otherwise the two views of an image are the same.")  # fmt: skip

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


#: The check of each strength.
STRENGTHS = dict.fromkeys(Photo._fields, unit_interval("[]")) | {"crop_scale": unit_interval("(]")}
#: The default: strength 0.5 and no blur, as SimCLR has for CIFAR-10.
PHOTO = Photo()
OFF = Photo(crop_scale=1.0, jitter=0.0, blur=0.0, grayscale=0.0, flip=0.0)


def blur_radius(side: int) -> int:
    """Pixels that a blur takes in to either side; with the pixel itself, a tenth of the image."""
    return max(side // 20, 1)


class Digits(NamedTuple):
    """Strengths of "digits", for handwritten characters."""

    #: Bound of the rotation and of the horizontal shear, in degrees.
    degrees: float = 12.0
    #: Bound of the shift, as a share of the side.
    shift: float = 0.12
    #: Bounds of the factor of the size.
    scale: tuple[float, float] = (0.85, 1.15)
    #: Standard deviation of the Gaussian noise.
    noise: float = 0.08
    #: Share of the images in which a box becomes black.
    erased: float = 0.3
    #: Bounds of the box's share of the area, and of its width / height.
    erased_area: tuple[float, float] = (0.02, 0.12)
    erased_aspect: tuple[float, float] = (0.3, 3.3)


DIGITS = Digits()


def chosen_augmentation(name: str, data: str) -> str:
    """The augmentation for a data set: "auto" becomes "digits" or "photo", others stay."""
    if name != "auto":
        return name
    return "digits" if data == "digits" else "photo"
