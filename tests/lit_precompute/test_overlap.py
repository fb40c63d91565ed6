"""Decoding goes on while the tower computes: each of the two waits for the other, and neither waits in vain."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from lit_precompute.decode import DecodeLimits
from lit_precompute.decode_pool import DecodePool
from lit_precompute.embedder import Embedder
from lit_precompute.preprocess import Preprocess
from lit_precompute.records import Record
from lit_precompute.tally import Tally
from lit_precompute.towers.tower import Tower
from schemas.manifest import TowerInfo
from tests.conftest import square

BATCH, IMAGES, PATIENCE = 4, 24, 20.0


class Meeting:
    """What has happened so far, in order; batches and images wait here for each other."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self._changed = threading.Condition()

    def note(self, what: str, number: int) -> None:
        with self._changed:
            self.events.append((what, number))
            self._changed.notify_all()

    def wait_for(self, what: str, number: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: (what, number) in self.events, PATIENCE)


@dataclass(frozen=True)
class Waiting(Preprocess):
    """Waits with the first image that two full batches leave over until the tower has begun with the batch before."""

    meeting: Any = None

    def __call__(self, image: Image.Image) -> np.ndarray:
        number = image.width - 16
        batch = number // BATCH - 2
        if batch >= 0 and not self.meeting.wait_for("begun", batch):
            raise AssertionError(f"image {number} was wanted before batch {batch} was begun")
        self.meeting.note("decoded", number)
        return super().__call__(image)


def test_images_are_decoded_while_the_tower_works() -> None:
    meeting, met, calls = Meeting(), [], iter(range(1000))

    def sleep_till_decoded(pixels: np.ndarray) -> np.ndarray:
        """A tower that sleeps, until an image of the batch after the next is decoded."""
        batch = next(calls)
        meeting.note("begun", batch)
        if (batch + 2) * BATCH < IMAGES:
            met.append(meeting.wait_for("decoded", (batch + 2) * BATCH))
        meeting.note("done", batch)
        return pixels.mean((1, 2)).astype(np.float32)

    def forward(params: Any, pixels: jax.Array) -> jax.Array:
        shape = jax.ShapeDtypeStruct((BATCH, 3), jnp.float32)
        return jax.pure_callback(sleep_till_decoded, shape, pixels)

    info = TowerInfo("sleeper", {}, "random:0", "mean", {}, 3)
    preprocess = Waiting("pillow", 8, meeting=meeting)
    embedder = Embedder(Tower(info, preprocess, {}, forward), BATCH)

    def records() -> Iterator[Record]:
        for n in range(IMAGES):
            yield Record(n, f"x#{n}", f"id-{n}", square(n / IMAGES, 16 + n))

    tally = Tally(1.0)
    with DecodePool(1, preprocess, DecodeLimits(), 60) as pool:
        images = tally.images(pool.stream(tally.accept(records())))
        found = [item.record.position for item, _ in embedder.stream_views(images)]
    assert found == list(range(IMAGES))
    assert met == [True] * 4
    order = {event: place for place, event in enumerate(meeting.events)}
    for batch in range(IMAGES // BATCH - 2):  # what was decoded in the middle of a forward pass
        assert order["begun", batch] < order["decoded", (batch + 2) * BATCH] < order["done", batch]
