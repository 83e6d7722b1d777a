"""How strong random views are: the numbers that the augmentations of three frameworks share."""

from __future__ import annotations

from typing import NamedTuple


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


#: The default: strength 0.5 and no blur, as SimCLR has for CIFAR-10.
PHOTO = Photo()
