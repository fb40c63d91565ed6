"""What a text tower asks of a tokenizer, by whichever kind it is."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from schemas.storage import Folder, filesystem
from trainer.tokenizers import clip_bpe, reference_bert, rendered, sentence_piece, tokenizer_json, wordpiece
from trainer.tokenizers.sentence_piece import RULES, Rules, SentencePiece
from trainer.tokenizers.wordpiece import train_wordpiece

__all__ = ["TOKENIZERS", "Tokenizer", "class_of", "load_tokenizer", "read_tokenizer_file", "train_wordpiece"]


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


TOKENIZERS: dict[str, Callable[[str], Tokenizer]] = {
    tokenizer_json.KIND: tokenizer_json.load,
    reference_bert.KIND: reference_bert.load,
    sentence_piece.KIND: sentence_piece.load,
    rendered.KIND: rendered.load,
}

_MODEL_FILES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
_HF_RULES = {
    "SiglipTokenizer": RULES["hf-siglip"],
    "T5Tokenizer": RULES["t5"],
    "MT5Tokenizer": RULES["t5"],
    "XLMRobertaTokenizer": RULES["xlm-roberta"],
}


def load_tokenizer(directory: str) -> Tokenizer:
    """The tokenizer of a run's folder or of a Hugging Face model folder.

    Args:
        directory: any fsspec path. `lit_tokenizer.json` says the kind. Without it: a sentencepiece model where
            `tokenizer.json`, made from it, is absent or knows no bytes the model has; else `tokenizer.json`; else
            BERT's `vocab.txt`; else CLIP's `vocab.json` with `merges.txt`.

    Raises:
        ValueError: the folder names a kind this version does not know, or lacks its files.
    """
    folder = Folder(directory)
    if folder.exists(tokenizer_json.KIND_FILE):
        kind = json.loads(folder.read(tokenizer_json.KIND_FILE)).get("kind")
        if kind not in TOKENIZERS:
            raise ValueError(f"{directory}: tokenizer must be one of {sorted(TOKENIZERS)}, found {kind!r}.")
        return TOKENIZERS[kind](directory)
    present = folder.sizes()
    defined = "tokenizer.json" in present
    for name in _MODEL_FILES:
        if name in present:
            model = folder.read(name)
            if not defined or sentence_piece.has_bytes(model):
                return SentencePiece(model, _hf_rules(folder))
    if defined:
        return tokenizer_json.load(directory)
    if "vocab.txt" in present:
        return wordpiece.load(directory)
    if {"vocab.json", "merges.txt"} <= set(present):
        return clip_bpe.load(directory)
    raise ValueError(
        f"{directory}: must hold tokenizer.json, vocab.txt, {', '.join(_MODEL_FILES)}, or vocab.json and merges.txt, "
        f"found {', '.join(sorted(present)) or 'no files'}."
    )


def read_tokenizer_file(path: str, rule: str | None = None) -> Tokenizer:
    """The tokenizer of a file that stands beside a checkpoint of the reference.

    Args:
        path: a BERT vocabulary (`.txt`), a sentencepiece model (`.model`) or Unifont's glyphs (`.hex`, several with
            commas between them), any fsspec path; or the folder of a tokenizer. `RULE:PATH` names one of `RULES` for a
            sentencepiece model.
        rule: what holds for a model where the path names none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, or the rule is unknown.
    """
    named, _, rest = path.partition(":")
    if named in RULES:
        rule, path = named, rest
    if path.endswith((".hex", ".hex.gz")):
        return rendered.read_fonts(path)
    if Folder(path).is_folder():
        return load_tokenizer(path)
    fs, inner = filesystem(path)
    data = fs.cat_file(inner)
    try:
        if path.endswith(".txt"):
            return reference_bert.ReferenceBert(data)
        if rule is None:
            raise ValueError(f"must be RULE:PATH with one of {', '.join(RULES)}, found no rule.")
        return SentencePiece(data, RULES[rule])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def class_of(rules: Rules) -> str | None:
    """The class of Hugging Face that gives the ids of a sentencepiece model by these rules; None where none does."""
    same = dataclasses.replace(rules, extra_ids=0)
    return next((name for name, known in _HF_RULES.items() if known == same), None)


def _hf_rules(folder: Folder) -> Rules:
    """The rules of a Hugging Face folder with a sentencepiece model."""
    config = tokenizer_json.configuration(folder)
    name = str(config.get("tokenizer_class")).removesuffix("Fast")
    if name not in _HF_RULES:
        raise ValueError(
            f"{folder.path}: a sentencepiece model without tokenizer.json must be of {', '.join(_HF_RULES)}, found "
            f"tokenizer_class {name}. Save the tokenizer as tokenizer.json."
        )
    rules = _HF_RULES[name]
    if name == "T5Tokenizer":
        rules = Rules(**{**rules.__dict__, "extra_ids": int(config.get("extra_ids", 100))})
    return rules
