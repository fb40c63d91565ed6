"""Encoded bytes to what the tower takes."""

from dataclasses import dataclass

import numpy as np

from lit_precompute.decode import DecodeLimits, decode
from lit_precompute.preprocess import Preprocess


@dataclass(frozen=True)
class Pixels:
    """An image as the tower takes it.

    Attributes:
        width, height: of the image before preprocessing, upright.
        values: uint8 [S, S, 3] of most towers.
    """

    width: int
    height: int
    values: np.ndarray


def pixels_of(image: bytes, preprocess: Preprocess, limits: DecodeLimits) -> Pixels:
    """Encoded bytes -> the tower's input. Raises DecodeError."""
    decoded = decode(image, limits, preprocess.family)
    return Pixels(decoded.width, decoded.height, preprocess(decoded))
