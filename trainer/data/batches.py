"""The batch of a step, gathered from the spool by one take per column."""

import queue
import threading
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import numpy as np

from trainer.data.sampler import Sampler
from trainer.data.spool import Spool
from trainer.losses import split_keys

Array = Any  # np.ndarray as gathered, jax.Array inside the step


class Batch(NamedTuple):
    """B images with one caption each; row i of every field belongs together.

    Attributes:
        image_embeddings: float16 or float32 [B, D], raw, as stored.
        text: tokens int32 [B, L], or features float32 [B, H] of a frozen backbone.
        image_keys: uint32 [B, 2], a 64-bit name of the encoded image.
        caption_keys: uint32 [B, 2], a 64-bit name of the caption's wording.
    """

    image_embeddings: Array
    text: Array
    image_keys: Array
    caption_keys: Array


def gather(spool: Spool, sampler: Sampler, step: int) -> Batch:
    """The batch of one step (from 0), the same however often and in whatever order it is asked for."""
    drawn = sampler.rows(step)
    rows = np.take(spool.rows, drawn)
    offsets = spool.images["caption_offsets"]
    firsts = np.take(offsets, rows)
    captions = firsts + sampler.caption_choice(step, drawn, np.take(offsets, rows + 1) - firsts)
    templates = sampler.template_choice(step, drawn, spool.num_templates)
    embeddings = spool.images["embeddings"]
    num_images, num_views, dim = embeddings.shape
    views = sampler.view_choice(step, drawn, num_views)
    return Batch(
        image_embeddings=np.take(
            embeddings.reshape(num_images * num_views, dim), rows * num_views + views, axis=0
        ),
        text=np.take(spool.text, captions * spool.num_templates + templates, axis=0),
        image_keys=split_keys(np.take(spool.images["image_key"], rows)),
        caption_keys=split_keys(np.take(spool.images["caption_key"], captions)),
    )


def ahead(make: Callable[[int], Batch], steps: range, depth: int = 2) -> Generator[Batch]:
    """Make the batches of `steps` in order in a second thread, up to `depth` of them before they are wanted.

    An exception in that thread is raised here, at the step it belongs to. Closing the iterator ends the thread.
    """
    made: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def work() -> None:
        for step in steps:
            item: Batch | BaseException
            try:
                item = make(step)
            except Exception as error:
                item = error
            while not closed.is_set():
                try:
                    made.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if closed.is_set() or isinstance(item, Exception):
                return

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        for _ in steps:
            item = made.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        thread.join()
