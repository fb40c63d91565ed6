"""SentencePiece models with the rules each family puts round them."""

import dataclasses
import hashlib
import json
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from schemas.storage import Folder
from trainer.tokenizers.tokenizer_json import KIND_FILE, bounded

KIND = "sentencepiece"
MODEL_FILE = "spiece.model"
ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclasses.dataclass(frozen=True)
class Rules:
    """What happens to a text before the model sees it, and to the ids behind it.

    Attributes:
        lower: "no"; "ascii": A to Z only, as the reference; "unicode".
        canonical: delete ASCII punctuation, collapse white space, strip.
        eos: "sticky": the end token stays when a row is cut; "yes": it may be cut off; "none": there is none.
        pad: the piece behind the end; "" is the model's own, "eos" the end token.
        shifted: ids of XLM-R, which puts <s> <pad> </s> <unk> in front and <mask> behind, and starts a row with <s>.
        extra_ids: tokens of T5 above the model's, `<extra_id_0>` the highest.
        written: special tokens written out in a text count as such.
    """

    lower: str = "no"
    canonical: bool = False
    eos: str = "sticky"
    pad: str = ""
    shifted: bool = False
    extra_ids: int = 0
    written: bool = False


RULES: dict[str, Rules] = {
    "siglip": Rules(lower="ascii", pad="eos"),  # the reference's tokenize(eos="sticky", pad_value=1)
    "siglip2": Rules(lower="ascii"),  # Gemma's model, padded with its own pad
    "lit": Rules(pad="eos"),  # the released LiT models with a text transformer
    "hf-siglip": Rules(
        lower="unicode", canonical=True, pad="eos", written=True
    ),  # Hugging Face's SiglipTokenizer
    "t5": Rules(written=True),  # T5 and mT5
    "xlm-roberta": Rules(shifted=True, written=True),
}


class SentencePiece:
    """A SentencePiece model and its rules."""

    def __init__(self, model: bytes, rules: Rules) -> None:
        """Takes the bytes of a model file.

        Raises:
            ValueError: these are no model, it lacks a piece the rules need, or the package is not installed.
        """
        self._model, self.rules = model, rules
        self._pieces = _processor(model)
        size, eos = self._pieces.get_piece_size(), self._pieces.eos_id()
        if eos < 0 and rules.eos != "none":
            raise ValueError("the sentencepiece model must hold an end token, found none.")
        if rules.shifted:
            self.eos_id, self.pad_id, self.vocab_size = 2, 1, size + 2
        else:
            own = {"": self._pieces.pad_id(), "eos": eos}
            self.eos_id, self.vocab_size = eos, size + rules.extra_ids
            self.pad_id = own[rules.pad] if rules.pad in own else self._pieces.piece_to_id(rules.pad)
        if self.pad_id < 0:
            raise ValueError(f"the sentencepiece model must hold its pad token {rules.pad!r}, found none.")
        self._start = [0] if rules.shifted else []
        self._specials = self._special_tokens() if rules.written else {}
        spelled = "|".join(map(re.escape, self._specials))
        self._special = re.compile(f"({spelled})") if spelled else None

    @property
    def digest(self) -> str:
        """sha256 hex of the rules and the model file."""
        rules = json.dumps(dataclasses.asdict(self.rules), sort_keys=True)
        return hashlib.sha256(f"{KIND} 1 {rules}\n".encode() + self._model).hexdigest()

    def __call__(self, texts: Sequence[str], max_length: int) -> np.ndarray:
        """int32 [n, max_length]: pieces, the end token, padding.

        Raises:
            ValueError: max_length leaves no room for a piece beside the special tokens.
        """
        least = len(self._start) + (self.rules.eos != "none")
        if max_length <= least:
            raise ValueError(f"max_length: must be over the {least} special tokens, found {max_length}.")
        rows = np.full((len(texts), max_length), self.pad_id, np.int32)
        for row, ids in zip(rows, self._encode([bounded(text, max_length) for text in texts]), strict=True):
            ids = [*self._start, *ids, *([self.eos_id] if self.rules.eos != "none" else [])]
            cut = len(ids) >= max_length and self.rules.eos == "sticky"
            ids = [*ids[: max_length - 1], self.eos_id] if cut else ids[:max_length]
            row[: len(ids)] = ids
        return rows

    def save(self, directory: str) -> None:
        """Writes `spiece.model` and `lit_tokenizer.json`."""
        folder = Folder(directory)
        kind = {"kind": KIND, "rules": dataclasses.asdict(self.rules)}
        folder.write(MODEL_FILE, self._model)
        folder.write(KIND_FILE, json.dumps(kind).encode())

    def _prepared(self, text: str) -> str:
        if self.rules.lower == "unicode":  # one by one, as Hugging Face: no final sigma
            text = "".join(map(str.lower, text))
        elif self.rules.lower == "ascii":
            text = text.translate(ASCII_LOWER)
        if self.rules.canonical:
            text = " ".join(text.translate(NO_PUNCTUATION).split())
        return text

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if self._special is None:
            prepared = [self._prepared(text) for text in texts]
            return [self._shift(ids) for ids in self._pieces.encode(prepared, num_threads=-1)]
        return [self._encode_around_specials(text) for text in texts]

    def _encode_around_specials(self, text: str) -> list[int]:
        assert self._special is not None
        ids: list[int] = []
        for part in self._special.split(text):
            if part in self._specials:
                ids.append(self._specials[part])
            elif part:
                ids += self._shift(self._encode_part(self._prepared(part), first=not ids))
        return ids

    def _encode_part(self, text: str, first: bool) -> list[int]:
        """The pieces of what stands between special tokens."""
        if first or not self.rules.canonical:
            return self._pieces.encode(text)
        # As Hugging Face's: no space is put in front but for the first part. The model itself always puts one, so
        # something goes in front, and is taken off again.
        front = self._pieces.id_to_piece(self._pieces.unk_id())
        return self._pieces.encode(front + text)[len(self._pieces.encode(front)) :]

    def _shift(self, ids: list[int]) -> list[int]:
        """XLM-R's ids: its model's first three pieces are <unk> <s> </s>, the others follow one further on."""
        if not self.rules.shifted:
            return ids
        return [id_ + 1 if id_ >= 3 else 3 for id_ in ids]

    def _special_tokens(self) -> dict[str, int]:
        if self.rules.shifted:
            return {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": self.vocab_size - 1}
        named = (self.pad_id, self.eos_id, self._pieces.unk_id())
        found = {self._pieces.id_to_piece(id_): id_ for id_ in named if id_ >= 0}
        return found | {f"<extra_id_{i}>": self.vocab_size - 1 - i for i in range(self.rules.extra_ids)}


def has_bytes(model: bytes) -> bool:
    """Whether a model spells unknown characters out in bytes, which `tokenizer.json` made from it may not do."""
    pieces = _processor(model)
    return any(pieces.is_byte(id_) for id_ in range(pieces.get_piece_size()))


def load(directory: str) -> SentencePiece:
    """The tokenizer `SentencePiece.save` wrote."""
    folder = Folder(directory)
    rules: Mapping[str, Any] = json.loads(folder.read(KIND_FILE))["rules"]
    return SentencePiece(folder.read(MODEL_FILE), Rules(**rules))


def _processor(model: bytes) -> Any:
    try:
        import sentencepiece
    except ImportError:
        raise ValueError(
            "a sentencepiece model needs the package sentencepiece, which is not installed: pip install sentencepiece "
            "(extra: sentencepiece)."
        ) from None
    pieces = sentencepiece.SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(model)
    except RuntimeError:
        raise ValueError("must be a sentencepiece model, found other bytes.") from None
    return pieces
