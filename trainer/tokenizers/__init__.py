"""What a text tower asks of a tokenizer, by whichever kind it is."""

import json
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from schemas.storage import Folder
from trainer.tokenizers import wordpiece
from trainer.tokenizers.wordpiece import train_wordpiece

__all__ = ["TOKENIZERS", "Tokenizer", "load_tokenizer", "train_wordpiece"]


class Tokenizer(Protocol):
    """Captions in, padded ids out; a pure function of the text."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id the tokenizer can give."""

    @property
    def pad_id(self) -> int:
        """The id behind the last real token of a row."""

    @property
    def digest(self) -> str:
        """sha256 hex of all that decides the ids: equal digests, equal tokens."""

    def __call__(self, texts: Sequence[str], max_length: int) -> np.ndarray:
        """int32 [n, max_length]: one row a text, cut to fit, then padded on the right with `pad_id`."""

    def save(self, directory: str) -> None:
        """Writes what `load_tokenizer` needs into a folder (any fsspec path), which is made if absent."""


TOKENIZERS: dict[str, Callable[[str], Tokenizer]] = {"wordpiece": wordpiece.load}


def load_tokenizer(directory: str) -> Tokenizer:
    """The tokenizer of a run's folder or of a Hugging Face model folder.

    Args:
        directory: any fsspec path. `lit_tokenizer.json` says the kind; without it the folder is taken to be
            a BERT checkpoint's, with `tokenizer.json` or `vocab.txt`.

    Raises:
        ValueError: the folder names a kind this version does not know, or lacks its files.
    """
    folder = Folder(directory)
    kind = "wordpiece"
    if folder.exists(wordpiece.KIND_FILE):
        kind = json.loads(folder.read(wordpiece.KIND_FILE)).get("kind", kind)
    if kind not in TOKENIZERS:
        raise ValueError(f"{directory}: tokenizer must be one of {sorted(TOKENIZERS)}, found {kind!r}.")
    return TOKENIZERS[kind](directory)
