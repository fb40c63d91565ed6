"""A tokenizer of the `tokenizers` package: WordPiece, BPE or Unigram, as `tokenizer.json` defines it."""

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import normalizers

from schemas.storage import Folder

KIND = "tokenizer-json"
KIND_FILE = "lit_tokenizer.json"  # in what we save: which kind it is, and what else decides the ids

# A caption is cut to this many characters, or to 128 a token where that is more, before it is tokenized:
# the ids are those of the whole text unless its first max_length tokens span more than that.
MAX_CHARACTERS = 16_384
MAX_CHARACTERS_PER_TOKEN = 128

_BATCH = 8_192  # texts tokenized at a time: bounds the memory taken by the package's result objects


class JsonTokenizer:
    """A tokenizer of the `tokenizers` package with padding and truncation decided here, not by its file.

    Strings such as "[SEP]" inside a caption count as the special token, as in the reference.
    """

    def __init__(self, tokenizer: RustTokenizer, pad_token: str = "[PAD]") -> None:
        """Takes over `tokenizer`; raises ValueError if its vocabulary lacks `pad_token`."""
        tokenizer.no_padding()
        tokenizer.no_truncation()
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        if pad_token not in vocabulary:
            raise ValueError(f"the tokenizer's vocabulary must hold its pad token, found no {pad_token!r}.")
        self.vocab_size = 1 + max(vocabulary.values())
        self.pad_id = vocabulary[pad_token]
        self._pad_token = pad_token
        self._json = tokenizer.to_str()
        self._special_tokens = tokenizer.num_special_tokens_to_add(is_pair=False)
        self._by_length: dict[int, RustTokenizer] = {}
        self._lock = threading.Lock()

    @property
    def digest(self) -> str:
        """sha256 hex of the tokenizer's definition and of the bounds applied to a text."""
        bounds = f"{self._pad_token} {MAX_CHARACTERS} {MAX_CHARACTERS_PER_TOKEN}"
        return hashlib.sha256(f"{bounds}\n{self._json}".encode()).hexdigest()

    def __call__(self, texts: Sequence[str], max_length: int) -> np.ndarray:
        """Tokenizes on all cores.

        Args:
            texts: n captions; any string will do (empty, control characters, unpaired surrogates).
            max_length: ids a row, the special tokens included.

        Returns:
            int32 [n, max_length]: the text between its special tokens, cut so that they stay, padded with `pad_id`.

        Raises:
            ValueError: max_length leaves no room for a word beside the special tokens.
        """
        if max_length <= self._special_tokens:
            raise ValueError(
                f"max_length: must be over the {self._special_tokens} special tokens, found {max_length}."
            )
        tokenizer = self._of_length(max_length)
        ids = np.empty((len(texts), max_length), np.int32)
        for start in range(0, len(texts), _BATCH):
            batch = [bounded(text, max_length) for text in texts[start : start + _BATCH]]
            for row, encoding in enumerate(tokenizer.encode_batch_fast(batch), start):
                ids[row] = encoding.ids
        return ids

    def save(self, directory: str) -> None:
        """Writes `tokenizer.json`, which other tools read too, and `lit_tokenizer.json`."""
        folder = Folder(directory)
        kind = {"kind": KIND, "pad_token": self._pad_token}
        folder.write("tokenizer.json", self._json.encode())
        folder.write(KIND_FILE, json.dumps(kind).encode())

    def _of_length(self, max_length: int) -> RustTokenizer:
        """A copy set to one length: the setting lives in the object, and threads may ask for two at once."""
        with self._lock:
            if max_length not in self._by_length:
                tokenizer = RustTokenizer.from_str(self._json)
                tokenizer.enable_truncation(max_length)
                tokenizer.enable_padding(length=max_length, pad_id=self.pad_id, pad_token=self._pad_token)
                self._by_length[max_length] = tokenizer
            return self._by_length[max_length]


def bounded(text: str, max_length: int) -> str:
    """The text cut to its bound, unpaired surrogates replaced."""
    text = text[: max(MAX_CHARACTERS, MAX_CHARACTERS_PER_TOKEN * max_length)]
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def load(directory: str) -> JsonTokenizer:
    """The tokenizer of a folder's `tokenizer.json`.

    Args:
        directory: any fsspec path.

    Raises:
        ValueError: the file cannot be read, or no file says which token pads.
    """
    folder = Folder(directory)
    config = configuration(folder)
    try:
        tokenizer = RustTokenizer.from_str(folder.read("tokenizer.json").decode("utf-8"))
    except Exception as error:  # the package raises bare Exception
        raise ValueError(f"{folder.path}/tokenizer.json: must be a tokenizer, found: {error}") from error
    if config.get("tokenizer_class") in LOWERED and config.get("do_lower_case", True):
        lower = normalizers.Lowercase()
        known = tokenizer.normalizer
        tokenizer.normalizer = lower if known is None else normalizers.Sequence([lower, known])
    return JsonTokenizer(tokenizer, content(config.get("pad_token"), "[PAD]"))


# Their texts are lower-cased before the definition in `tokenizer.json` sees them: SigLIP 2, trained on such text alone.
LOWERED = ("GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer")


def configuration(folder: Folder) -> dict[str, Any]:
    """What the small files beside a tokenizer say, ours last."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json", KIND_FILE):
        if folder.exists(name):
            config |= json.loads(folder.read(name))
    return config


def content(token: str | Mapping[str, Any] | None, default: str) -> str:
    """A token in a configuration file is a string or a description holding one."""
    return token if isinstance(token, str) else (token or {}).get("content", default)
