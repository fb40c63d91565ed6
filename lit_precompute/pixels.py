"""Encoded bytes to what the tower takes."""

from dataclasses import dataclass

import numpy as np

from lit_precompute.decode import DecodeLimits, decode
from lit_precompute.views import Views


@dataclass(frozen=True)
class Pixels:
    """An image as the tower takes it.

    Attributes:
        width, height: of the image before preprocessing, upright.
        values: uint8 [V, S, S, 3] of most towers: its views.
    """

    width: int
    height: int
    values: np.ndarray


def pixels_of(image: bytes, id: str, views: Views, limits: DecodeLimits) -> Pixels:
    """Encoded bytes, and the id they go by -> the tower's input. Raises DecodeError."""
    decoded = decode(image, limits, views.family)
    return Pixels(decoded.width, decoded.height, views(decoded, id))
