"""The captions of one part as flat columns: which are usable, their keys, kinds and languages."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from schemas.digests import caption_key


@dataclass(frozen=True)
class PartCaptions:
    """The usable captions of n images, image by image.

    Attributes:
        counts: int64 [n], captions of each image.
        texts: [m], as they were written.
        keys: uint64 [m], `schemas.digests.caption_key` of each.
        kinds, langs: int32 [m], places in `kind_names` and `lang_names`.
        kind_names, lang_names: "" where a caption has none.
    """

    counts: np.ndarray
    texts: list[str]
    keys: np.ndarray
    kinds: np.ndarray
    langs: np.ndarray
    kind_names: list[str]
    lang_names: list[str]


def part_captions(column: pa.ChunkedArray) -> PartCaptions:
    """Flatten a column of captions; one that is null or blank is not usable.

    Args:
        column: list<struct<text, kind, lang>> [n], as in `schemas.pairs`.
    """
    lists = column.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):  # of no chunk at all
        lists = pa.concat_arrays(lists.chunks) if lists.chunks else pa.array([], column.type)
    owners = np.repeat(
        np.arange(len(lists)), lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    )
    texts, kinds, langs = lists.flatten().flatten()
    written = texts.to_pylist()
    usable = np.array([text is not None and bool(text.strip()) for text in written], bool)
    kept = [text for text, good in zip(written, usable, strict=True) if good]
    kind_places, kind_names = _encode(kinds, usable)
    lang_places, lang_names = _encode(langs, usable)
    return PartCaptions(
        counts=np.bincount(owners[usable], minlength=len(lists)).astype(np.int64),
        texts=kept,
        keys=np.array([caption_key(text) for text in kept], np.uint64),
        kinds=kind_places,
        langs=lang_places,
        kind_names=kind_names,
        lang_names=lang_names,
    )


def _encode(words: pa.StringArray, usable: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Each usable word's place in the list of all that occur."""
    coded = words.fill_null("").filter(pa.array(usable)).dictionary_encode()
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int32), coded.dictionary.to_pylist()
