"""A record's bytes to network input, or the reason why there is none."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from lit_precompute.decode import DecodeError
from lit_precompute.pixels import Pixels
from lit_precompute.records import Record
from schemas.failures import Failure
from schemas.ids import id_problem


@dataclass
class Prepared:
    """A record after decoding: the pixels of its views, uint8 [V, S, S, 3] of most towers; or the reason why not."""

    record: Record
    sha256: bytes = b""
    width: int | None = None
    height: int | None = None
    pixels: np.ndarray | None = None
    failure: Failure | None = None


def prepare(record: Record, decode_image: Callable[[bytes, str], Pixels]) -> Prepared:
    """A record with its pixels, or with its failure.

    Args:
        record: with its encoded image, which is let go of.
        decode_image: encoded bytes, id -> pixels; raises DecodeError.
    """
    if record.problem is not None:
        return Prepared(record, failure=failure_of(record, *record.problem))
    if record.image is None:
        return Prepared(record, failure=failure_of(record, "read", "missing", "no image bytes"))
    digest = hashlib.sha256(record.image).digest()
    light = replace(record, image=None)  # encoded bytes are not kept past this point
    try:
        pixels = decode_image(record.image, record.id or "")
        return Prepared(light, digest, pixels.width, pixels.height, pixels.values)
    except DecodeError as error:
        return Prepared(light, digest, failure=failure_of(record, "decode", error.reason, error.detail))


def failure_of(record: Record, stage: str, reason: str, detail: str) -> Failure:
    id = None if id_problem(record.id) else record.id
    return Failure(id, record.position, record.locator, stage, reason, detail)
