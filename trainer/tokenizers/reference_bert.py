"""The reference's BERT tokenizer: `[CLS]` and at most max_length - 1 pieces, padded with 0, and no `[SEP]`."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, normalizers, pre_tokenizers

from schemas.storage import Folder
from trainer.tokenizers.tokenizer_json import KIND_FILE, bounded
from trainer.tokenizers.wordpiece import read_vocabulary

KIND = "reference-bert"
MAX_WORD_BYTES = 100  # a longer word is [UNK] whole
_UNKNOWN = "\u0378"  # never assigned
_LONG = _UNKNOWN * (MAX_WORD_BYTES + 1)  # over any bound: [UNK] in every vocabulary
_NO_SPACE = "\u1680\u2028\u2029"  # white space elsewhere, letters of no word to the reference
_LONG_RUN = re.compile(r"\w{26,}")  # no shorter run of characters has more bytes
# Unicode's Default_Ignorable_Code_Point: soft hyphens, joiners, marks of direction, selectors, fillers.
_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_BATCH = 8_192


class ReferenceBert:
    """Exact to the reference's `bert_tokenize`.

    Full case folding (ß is ss), canonical decomposition, accents dropped; special tokens written out in a caption are
    ordinary text. Padding is 0 whatever `[PAD]` is.
    """

    pad_id = 0

    def __init__(self, vocabulary: bytes) -> None:
        """Takes the bytes of a `vocab.txt`; raises ValueError if `[CLS]` or `[UNK]` is not in it."""
        pieces = read_vocabulary(vocabulary)
        missing = [token for token in ("[CLS]", "[UNK]") if token not in pieces]
        if missing:
            raise ValueError(f"vocab.txt: must hold [CLS] and [UNK], found no {missing}.")
        self.vocab_size = 1 + max(pieces.values())
        self._vocabulary = vocabulary
        self._first = pieces["[CLS]"]
        self._pieces = RustTokenizer(
            models.WordPiece(pieces, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_BYTES)
        )
        self._pieces.normalizer = normalizers.BertNormalizer(
            clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=False
        )
        self._pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    @property
    def digest(self) -> str:
        """sha256 hex of the rules' name and the vocabulary."""
        return hashlib.sha256(f"{KIND} 1\n".encode() + self._vocabulary).hexdigest()

    def __call__(self, texts: Sequence[str], max_length: int) -> np.ndarray:
        """int32 [n, max_length]: `[CLS]`, the pieces that fit, zeros."""
        ids = np.zeros((len(texts), max_length), np.int32)
        ids[:, 0] = self._first
        for start in range(0, len(texts), _BATCH):
            batch = [normalised(bounded(text, max_length)) for text in texts[start : start + _BATCH]]
            for row, encoding in enumerate(self._pieces.encode_batch_fast(batch), start):
                found = encoding.ids[: max_length - 1]
                ids[row, 1 : 1 + len(found)] = found
        return ids

    def save(self, directory: str) -> None:
        """Writes `vocab.txt` and `lit_tokenizer.json`."""
        folder = Folder(directory)
        folder.write("vocab.txt", self._vocabulary)
        folder.write(KIND_FILE, json.dumps({"kind": KIND}).encode())


def normalised(text: str) -> str:
    """Folded, decomposed, without accents; a word of too many bytes becomes one that no vocabulary knows."""
    if text.isascii():
        return text.lower().translate(_CHARACTERS)
    text = unicodedata.normalize("NFD", _folded(text)).translate(_CHARACTERS)
    return _LONG_RUN.sub(lambda run: _LONG if len(run[0].encode()) > MAX_WORD_BYTES else run[0], text)


class _Characters(dict[int, int | str | None]):
    """What becomes of a character, looked up once: accents are dropped, control characters are spaces."""

    def __missing__(self, code: int) -> int | str | None:
        category = unicodedata.category(chr(code))
        becomes = {"Mn": None, "Cc": " ", "Cf": " "}.get(category, code)
        self[code] = _UNKNOWN if chr(code) in _NO_SPACE else becomes
        return self[code]


_CHARACTERS = _Characters()


def _folded(text: str) -> str:
    """Unicode's NFKC_Casefold, in which ligatures, full-width forms and superscripts become plain letters."""
    for form in ("NFD", "NFKC", "NFKC"):
        text = unicodedata.normalize(form, text).casefold()
    return _IGNORABLE.sub("", unicodedata.normalize("NFKC", text))


def load(directory: str) -> ReferenceBert:
    """The tokenizer `ReferenceBert.save` wrote."""
    return ReferenceBert(Folder(directory).read("vocab.txt"))
