"""A run's tokenizer as Hugging Face's packages open it, as far as they know one that gives the same ids."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors

from trainer.text_towers import TextTower
from trainer.tokenizers import class_of
from trainer.tokenizers.reference_bert import MAX_WORD_BYTES, ReferenceBert
from trainer.tokenizers.sentence_piece import MODEL_FILE, SentencePiece
from trainer.tokenizers.tokenizer_json import KIND_FILE, JsonTokenizer
from trainer.tokenizers.wordpiece import read_vocabulary

# What a special token may be called in a vocabulary; the first that is there counts.
_SPECIAL = {
    "unk_token": ("[UNK]", "<unk>", "<|endoftext|>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "bos_token": ("<bos>", "<s>", "<|startoftext|>"),
    "eos_token": ("<eos>", "</s>", "<|endoftext|>"),
    "mask_token": ("[MASK]", "<mask>"),
}
OURS = "trainer.tokenizers.load_tokenizer of this folder"


def write_tokenizer(tower: TextTower, folder: Path) -> list[str]:
    """Writes the tokenizer's own files, and `tokenizer_config.json` where Hugging Face has such a tokenizer.

    Args:
        tower: whose tokenizer.
        folder: of the export, its `config.json` in it.

    Returns:
        What its user must know: where the ids may differ, that rows must be padded.
    """
    tokenizer, backbone = tower.tokenizer, tower.architecture["backbone"]
    tokenizer.save(str(folder))
    config, notes = _configuration(tokenizer, folder)
    if config is None:
        return notes
    padded = tower.backbone.config.fixed_length
    names = [
        *("input_ids", *(["token_type_ids"] if backbone.get("token_types", 0) > 1 else [])),
        *([] if padded else ["attention_mask"]),
    ]
    _write(
        folder / "tokenizer_config.json",
        config | {"model_max_length": tower.max_text_length, "model_input_names": names},
    )
    if padded:
        notes.append(
            f'Rows must be padded to {tower.max_text_length} tokens: padding="max_length", truncation=True.'
        )
    return notes


def _configuration(tokenizer: Any, folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """`tokenizer_config.json` but for lengths, None where there is no such tokenizer; and notes."""
    # The generic class takes tokenizer.json as it is; BERT's own may rebuild its normalizer.
    generic = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if isinstance(tokenizer, JsonTokenizer):
        pad = json.loads((folder / KIND_FILE).read_text(encoding="utf-8"))["pad_token"]
        vocabulary = RustTokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
        return generic | {"pad_token": pad} | _special_tokens(vocabulary), []
    if isinstance(tokenizer, ReferenceBert):
        pieces = read_vocabulary((folder / "vocab.txt").read_bytes())
        _reference_bert(pieces).save(str(folder / "tokenizer.json"))
        note = f"tokenizer.json gives the ids of plain text; for rare characters (ligatures, joiners) take {OURS}."
        return generic | {"pad_token": next(iter(pieces))} | _special_tokens(pieces), [note]
    name = class_of(tokenizer.rules) if isinstance(tokenizer, SentencePiece) else None
    if name is None:
        return None, [
            f"Hugging Face has no tokenizer that gives the ids this tower was tuned with: take {OURS}."
        ]
    if name == "XLMRobertaTokenizer":  # which looks for its own name
        (folder / "sentencepiece.bpe.model").write_bytes((folder / MODEL_FILE).read_bytes())
    return {"tokenizer_class": name, "extra_ids": tokenizer.rules.extra_ids}, []


def _special_tokens(vocabulary: dict[str, int]) -> dict[str, str]:
    found = {name: [one for one in names if one in vocabulary] for name, names in _SPECIAL.items()}
    return {name: there[0] for name, there in found.items() if there}


def _reference_bert(pieces: dict[str, int]) -> RustTokenizer:
    """[CLS] and the pieces, no [SEP]: `ReferenceBert` in the parts the tokenizers package has."""
    tokenizer = RustTokenizer(
        models.WordPiece(pieces, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_BYTES)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.BertNormalizer(
                clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True
            ),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A", special_tokens=[("[CLS]", pieces["[CLS]"])]
    )
    return tokenizer


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
