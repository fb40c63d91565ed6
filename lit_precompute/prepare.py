"""A record's bytes to network input, ahead of the device, in order."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from lit_precompute.decode import DecodeError, DecodeLimits, decode
from lit_precompute.preprocess import Preprocess
from lit_precompute.records import Record
from schemas.failures import Failure
from schemas.ids import id_problem

AHEAD = 32  # records decoded ahead of the device; 32 photographs of 12 MP are about 1.2 GB while they decode


@dataclass
class Prepared:
    """A record after decoding: pixels, or the reason why not."""

    record: Record
    sha256: bytes = b""
    width: int | None = None
    height: int | None = None
    pixels: np.ndarray | None = None
    failure: Failure | None = None


def prepare(record: Record, preprocess: Preprocess, limits: DecodeLimits) -> Prepared:
    """Bytes -> uint8 [S, S, 3]. Runs in the decode threads."""
    if record.problem is not None:
        return Prepared(record, failure=failure_of(record, *record.problem))
    if record.image is None:
        return Prepared(record, failure=failure_of(record, "read", "missing", "no image bytes"))
    digest = hashlib.sha256(record.image).digest()
    light = replace(record, image=None)  # encoded bytes are not kept past this point
    try:
        image = decode(record.image, limits, preprocess.family)
        return Prepared(light, digest, image.width, image.height, preprocess(image))
    except DecodeError as error:
        return Prepared(light, digest, failure=failure_of(record, "decode", error.reason, error.detail))


def decode_ahead(
    pool: ThreadPoolExecutor, records: Iterable[Record], preprocess: Preprocess, limits: DecodeLimits
) -> Iterator[Prepared]:
    """Decodes ahead in the pool, a bounded number of records at a time, in order."""
    window: deque[Future[Prepared]] = deque()
    for record in records:
        window.append(pool.submit(prepare, record, preprocess, limits))
        if len(window) >= AHEAD:
            yield window.popleft().result()
    while window:
        yield window.popleft().result()


def failure_of(record: Record, stage: str, reason: str, detail: str) -> Failure:
    id = None if id_problem(record.id) else record.id
    return Failure(id, record.position, record.locator, stage, reason, detail)
