"""The views of an image: the tower's own first, then seeded random crops that are the same wherever they are made.

A further view is what the Inception networks were trained with (arXiv 1409.4842, section 6), in the settings of the
LiT authors' `inception_crop` (5 to 100 % of the image) with `flip_lr`: a box whose share of the image's area is drawn
evenly, and whose aspect is drawn evenly from 3/4 to 4/3, anywhere in the image, squeezed to the square the tower takes;
then half of them, by chance, are mirrored. A box that does not fit is drawn again.

The draws are bits of sha256(view, id), so no library's generator has a say, nor does the run, the batch or the machine;
arithmetic on them is only what IEEE 754 rounds exactly. Rules that give other crops get another number: it is part of
what a job is, so that no store holds crops of two kinds.
"""

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from lit_precompute.decode import Family
from lit_precompute.preprocess import Preprocess

RULES = 1  # recorded in the manifest as view_rules; of all that is below
AREA = (0.05, 1.0)  # of the image
ASPECT = (3 / 4, 4 / 3)  # width / height, in pixels of the image
TRIES = 100  # then the whole image is taken, as of a thin stripe


@dataclass(frozen=True)
class Views:
    """How an image becomes all of its views.

    Attributes:
        preprocess: of the tower.
        count: V.
    """

    preprocess: Preprocess
    count: int = 1

    @property
    def family(self) -> Family:
        """Whose rules of decoding hold."""
        return self.preprocess.family

    def __call__(self, image: Image.Image, id: str) -> np.ndarray:
        """All views of an image.

        Args:
            image: RGB.
            id: the record's.

        Returns:
            uint8 [V, S, S, 3] of most towers; view 0 is `preprocess(image)`.
        """
        first = self.preprocess(image)
        if self.count == 1:
            return first[None]
        # Already cut: a crop is squeezed, or keeps its aspect where the tower takes any.
        squeeze = replace(self.preprocess, resize="full")
        others = (squeeze(random_crop(image, id, view)) for view in range(1, self.count))
        return np.stack([first, *others])


def view_rules(views: int) -> int:
    """Number of the rules that decide further views; 0 where there are none."""
    return RULES if views > 1 else 0


def random_crop(image: Image.Image, id: str, view: int) -> Image.Image:
    """The part of the image that a view shows, mirrored or not."""
    crop = image.crop(crop_box(image.width, image.height, id, view))
    mirrored = _draws(id, view, TRIES)[0] >= 0.5
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else crop


def crop_box(width: int, height: int, id: str, view: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of an image that a view shows, in pixels; right and bottom not in it."""
    for number in range(TRIES):
        area, aspect, across, down = _draws(id, view, number)
        pixels = (AREA[0] + (AREA[1] - AREA[0]) * area) * width * height
        ratio = ASPECT[0] + (ASPECT[1] - ASPECT[0]) * aspect
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 1 <= w <= width and 1 <= h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    return 0, 0, width, height


def _draws(id: str, view: int, number: int) -> tuple[float, ...]:
    """Four numbers in [0, 1), multiples of 2⁻⁵³."""
    digest = hashlib.sha256(f"view {view} draw {number} of {id}".encode()).digest()
    return tuple(float(bits >> 11) * 2.0**-53 for bits in np.frombuffer(digest, "<u8").tolist())
