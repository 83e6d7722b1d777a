"""Random views: strengths, draws, constants and conventions that three frameworks share.

A view is a function of an image and of the numbers that were drawn for it, which `PhotoDraws` and
`DigitDraws` name. Equal images and draws give equal views in PyTorch, JAX and Keras, whose
`augment.py` keep to what follows; tests/integrations/test_same_views.py compares them.

A draw u in [0, 1) stands for the number a + (b - a) u, where a and b are the bounds that `Photo` or
`Digits` gives; of an aspect, height / width, for its logarithm. A step that is taken by chance is
taken where its draw is less than its probability.

Pixels are squares of side 1: the centre of the pixel in row i and column j, both counted from 0, is
at (i + 0.5, j + 0.5) of an image that reaches from 0 to its height H and its width W, rows
downwards. Between centres an image is read bilinearly.

"photo" takes its steps in this order:

1. Crop. Let A be the share of the area and r the root of the aspect. The box is H min(1, r sqrt(A))
   high and W min(1, sqrt(A) / r) wide; of what is left of a side the shares `top` and `left` lie
   before the box. The centre of pixel i of n in the view lies at (i + 0.5) / n of the box. Beyond
   the centres of the image's outermost pixels, their values continue.
2. Flip: left and right change places.
3. Jitter: the values are multiplied by the brightness; then m + c (x - m) takes the place of each
   value x, where c is the contrast and m the mean luminance of the image; then the chrominances I
   and Q of NTSC's YIQ are multiplied by the saturation and turned by the hue, from I towards Q.
   Values are cut to [0, 1] once, after all four. Without colour, C != 3, there are only the first
   two, and m is the mean of all values.
4. Grey: the luminance Y takes the place of each colour. Without colour there is no such step.
5. Blur: weights proportional to exp(-d^2 / (2 sigma^2)), at distances d of at most `blur_radius`
   pixels, along columns and along rows. The image is mirrored at the centres of its outermost
   pixels.

"digits" takes these:

1. An affine map about the centre (H / 2, W / 2), in one interpolation: the image is turned
   clockwise by the angle; then sheared, by which a point moves to the right by tan(shear) times its
   distance below the centre; then magnified by the scale; then shifted by W `right` to the right
   and by H `down` downwards. Negative numbers do the opposite. Outside of the image there are
   zeros, from the centre of the outermost pixel to that of its neighbour outside in a linear way.
2. Noise is added, the standard normal numbers `noise` times `Digits.noise`.
3. Erasure: pixels with centres within a box become 0. The box is found by area, aspect, top and
   left as that of the crop; its upper and left edges belong to it, its lower and right ones do not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
#: The map of colours of a hue of angle t and a saturation s is the sum of these three (3, 3),
#: times 1, s cos(t) and s sin(t): the luminance, the plane of the chrominances, and that plane
#: turned by a quarter.
TURNS = np.stack(
    [
        np.linalg.inv(YIQ) @ np.array(part, np.float32) @ YIQ
        for part in (
            [[1, 0, 0], [0, 0, 0], [0, 0, 0]],
            [[0, 0, 0], [0, 1, 0], [0, 0, 1]],
            [[0, 0, 0], [0, 0, -1], [0, 1, 0]],
        )
    ]
)


class PhotoDraws(NamedTuple):
    """What is drawn for a view by "photo": numbers in [0, 1), or arrays of one for every image."""

    #: Share of the area, aspect and place of the crop.
    area: Any
    aspect: Any
    top: Any
    left: Any
    #: Whether the view is mirrored.
    flip: Any
    #: Whether the colours are jittered, and by which factors and turn.
    jitter: Any
    brightness: Any
    contrast: Any
    saturation: Any
    hue: Any
    #: Whether the view is grey.
    grey: Any
    #: Whether the view is blurred, and the blur's standard deviation.
    blur: Any
    sigma: Any


class DigitDraws(NamedTuple):
    """What is drawn for a view by "digits": numbers in [0, 1), and the noise of every pixel."""

    #: The affine map.
    angle: Any
    shear: Any
    scale: Any
    right: Any
    down: Any
    #: Whether a box is erased, and its share of the area, aspect and place.
    erased: Any
    area: Any
    aspect: Any
    top: Any
    left: Any
    #: Standard normal numbers, of the shape of the images.
    noise: Any


class Photo(NamedTuple):
    """Strengths of "photo", SimCLR's augmentation (Chen et al. 2020, appendix A).

    Attributes:
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
        """Bounds of the crop's aspect, of which the logarithm is drawn evenly.

        That is height / width, each a share of the side of the image; the bounds are inverse to
        each other, so that those of width / height are the same. 3/4 to 4/3; less where a longer
        side would be cut to that of the image and leave less of the area than `crop_scale`.
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
    #: Bounds of the box's share of the area, and of its aspect, see `Photo.aspect`.
    erased_area: tuple[float, float] = (0.02, 0.12)
    erased_aspect: tuple[float, float] = (0.3, 3.3)


DIGITS = Digits()


def chosen_augmentation(name: str, data: str) -> str:
    """The augmentation for a data set: "auto" becomes "digits" or "photo", others stay."""
    if name != "auto":
        return name
    return "digits" if data == "digits" else "photo"
