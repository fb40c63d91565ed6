"""Captions as bags of words: a text side that needs no model."""

import re
import zlib
from collections.abc import Sequence

import numpy as np

from trainer.evals.vectors import unit_vectors

DIMENSIONS = 4096  # words are hashed into so many places


def word_vectors(texts: Sequence[str]) -> np.ndarray:
    """Words weighed by how few of the texts have them (term frequency times the log of inverse document frequency).

    Args:
        texts: n captions, any case and script; a word is a run of letters and digits.

    Returns:
        float32 [n, 4096], unit rows; a text without a word gives zeros.
    """
    counts = np.zeros((len(texts), DIMENSIONS), np.float32)
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text.casefold()):
            counts[row, zlib.crc32(word.encode()) % DIMENSIONS] += 1
    having = (counts > 0).sum(axis=0)
    rarity = np.log((1 + len(texts)) / (1 + having)) + 1
    return unit_vectors(counts * rarity.astype(np.float32), "word counts")
