"""The batch of a step, gathered from the spools by one take per column and store."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from trainer.data.mixture import Mixture
from trainer.data.rows import take_rows
from trainer.data.sampler import Sampler
from trainer.data.spools import Spool
from trainer.losses import split_keys

Array = Any  # np.ndarray as gathered, jax.Array inside the step


class Batch(NamedTuple):
    """B images with one caption each, or one of each of G kinds; row i of every field belongs together.

    Attributes:
        image_embeddings: float16 or float32 [B, D], raw, as stored.
        text: tokens int32 [B, L], or features float32 [B, H] of a frozen backbone; [B, G, L or H] where captions
            are drawn jointly.
        image_keys: uint32 [B, 2], a 64-bit name of the encoded image.
        caption_keys: uint32 [B, 2], a 64-bit name of the caption's wording; [B, G, 2] where drawn jointly.
    """

    image_embeddings: Array
    text: Array
    image_keys: Array
    caption_keys: Array


def gather(
    spools: Sequence[Spool],
    mixture: Mixture,
    step: int,
    part: slice = slice(None),
    empty: Callable[[tuple[int, ...], np.dtype], np.ndarray] = np.empty,
) -> Batch:
    """The batch of one step (from 0), the same however often and in whatever order it is asked for.

    Args:
        spools: one for each sampler of the mixture.
        mixture: says which rows.
        step: from 0.
        part: of the B rows those that are wanted, such as one process's own; the step must be 1.
        empty: makes the arrays, such as `Buffers.empty`.
    """
    chosen = [
        _choose(spool, sampler, step, rows)
        for spool, sampler, rows in zip(
            spools, mixture.samplers, parts_of(mixture.rows(step), part), strict=True
        )
    ]
    keys = [(spool.images["image_key"], one.slots) for spool, one in zip(spools, chosen, strict=True)]
    captions = [
        (spool.images["caption_key"], spool.captions.stored(one.captions))
        for spool, one in zip(spools, chosen, strict=True)
    ]
    return Batch(
        image_embeddings=take_all(
            [(_flat(spool), one.image_rows) for spool, one in zip(spools, chosen, strict=True)], empty
        ),
        text=take_all(
            [(spool.text, one.text_rows) for spool, one in zip(spools, chosen, strict=True)], empty
        ),
        image_keys=split_keys(take_all(keys, empty)),
        caption_keys=split_keys(take_all(captions, empty)),
    )


class _Chosen(NamedTuple):
    """What a step shows of one store: places in its columns, int64 [B_s], or [B_s, G] of captions drawn jointly."""

    slots: np.ndarray
    image_rows: np.ndarray
    captions: np.ndarray
    text_rows: np.ndarray


def _choose(spool: Spool, sampler: Sampler, step: int, rows: np.ndarray) -> _Chosen:
    slots = take_rows(spool.rows, rows)
    captions = spool.captions.draw(sampler, step, rows, slots, spool.draw)
    templates = sampler.template_choice(step, rows, spool.num_templates)
    num_views = spool.images["embeddings"].shape[1]
    return _Chosen(
        slots=slots,
        image_rows=slots * num_views + sampler.view_choice(step, rows, num_views),
        captions=captions,
        text_rows=captions * spool.num_templates + templates.reshape(-1, *[1] * (captions.ndim - 1)),
    )


def _flat(spool: Spool) -> np.ndarray:
    """[N, V, D] -> [N * V, D]."""
    embeddings = spool.images["embeddings"]
    return embeddings.reshape(-1, embeddings.shape[-1])


def take_all(
    sources: Sequence[tuple[np.ndarray, np.ndarray]],
    empty: Callable[[tuple[int, ...], np.dtype], np.ndarray] = np.empty,
) -> np.ndarray:
    """Rows of several arrays below each other, copied once.

    Args:
        sources: arrays [n_s, ...] of like rows, each with the places int64 [b_s, ...] to take from it.
        empty: makes the array.

    Returns:
        [sum of b_s, ...], of the widest dtype.
    """
    array, places = sources[0]
    count = sum(len(places) for _, places in sources)
    dtype = np.result_type(*(array for array, _ in sources))
    out = empty((count, *places.shape[1:], *array.shape[1:]), dtype)
    first = 0
    for array, places in sources:
        here = out[first : first + len(places)]
        if array.dtype == dtype:
            np.take(array, places, axis=0, out=here, mode="clip")  # mode="raise" would copy twice
        else:
            here[...] = np.take(array, places, axis=0)
        first += len(places)
    return out


def parts_of(rows: Sequence[np.ndarray], part: slice) -> Iterator[np.ndarray]:
    """Cut arrays as their concatenation is cut by `part`, whose step must be 1."""
    begin, end, step = part.indices(sum(map(len, rows)))
    assert step == 1, f"part: must be without gaps, found {part}"
    first = 0
    for one in rows:
        yield one[max(begin - first, 0) : max(end - first, 0)]
        first += len(one)


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
