"""BERT's WordPiece vocabularies: read from `vocab.txt`, or learned from captions."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from schemas.storage import Folder
from trainer.tokenizers.tokenizer_json import JsonTokenizer, bounded, configuration, content

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # of a trained vocabulary, ids 0..4


def load(directory: str) -> JsonTokenizer:
    """The tokenizer of a BERT folder's `vocab.txt`, with the settings of its `tokenizer_config.json`.

    Raises:
        ValueError: the vocabulary lacks a token that BERT needs.
    """
    folder = Folder(directory)
    config = configuration(folder)
    return JsonTokenizer(_from_vocabulary(folder, config), content(config.get("pad_token"), "[PAD]"))


def read_vocabulary(data: bytes) -> dict[str, int]:
    """One token a line, the line number its id; other characters that look like line ends belong to tokens."""
    lines = data.decode("utf-8").removesuffix("\n").split("\n")
    return {line.removesuffix("\r"): number for number, line in enumerate(lines)}


def _from_vocabulary(folder: Folder, config: Mapping[str, Any]) -> RustTokenizer:
    vocabulary = read_vocabulary(folder.read("vocab.txt"))
    missing = [token for token in ("[UNK]", "[CLS]", "[SEP]") if token not in vocabulary]
    if missing:
        raise ValueError(f"{folder.path}/vocab.txt: must hold [UNK], [CLS] and [SEP], found no {missing}.")
    return _assemble(
        vocabulary,
        normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=config.get("tokenize_chinese_chars", True),
            strip_accents=config.get("strip_accents"),
            lowercase=config.get("do_lower_case", True),
        ),
    )


def _assemble(vocabulary: dict[str, int], normalizer: normalizers.Normalizer) -> RustTokenizer:
    tokenizer = RustTokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    tokenizer.add_special_tokens([token for token in SPECIAL_TOKENS if token in vocabulary])
    return tokenizer


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int = 8_192,
    *,
    min_frequency: int = 2,
    max_alphabet: int = 1_000,
    max_texts: int = 300_000,
) -> JsonTokenizer:
    """A lower-cased WordPiece vocabulary for a tower that starts from scratch.

    The package's trainer alone numbers the `##x` pieces by the order of a hash map, other in every process,
    and breaks ties of the merges by those numbers: two runs over the same texts differ. So the alphabet
    and its `##x` forms are counted here and handed over in order; the rest of the training is then fixed.

    Args:
        texts: captions; their order does not matter, and nothing after the first `max_texts` is read.
        vocab_size: upper bound of the vocabulary, special tokens ([PAD] is 0) included.
        min_frequency: a piece seen fewer times in the texts is not added.
        max_alphabet: the most frequent characters that get a piece; a word with another one is [UNK].
        max_texts: bound on the texts read, all of which are held at once.

    Returns:
        The same tokenizer for the same texts and arguments, whatever the process or thread count.

    Raises:
        ValueError: vocab_size leaves no room for the alphabet of these texts.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    kept = [bounded(text, 0) for text in itertools.islice(texts, max_texts)]
    alphabet, continuing = _alphabet(kept, normalizer, max_alphabet)
    fixed = [*SPECIAL_TOKENS, *alphabet, *(f"##{character}" for character in continuing)]
    if vocab_size < len(fixed):
        raise ValueError(f"vocab_size: must be at least {len(fixed)} for these texts, found {vocab_size}.")
    untrained = RustTokenizer(models.WordPiece(unk_token="[UNK]"))
    untrained.normalizer = normalizer
    untrained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        show_progress=False,
        special_tokens=fixed,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
    )
    untrained.train_from_iterator(kept, trainer)
    return JsonTokenizer(_assemble(untrained.get_vocab(with_added_tokens=True), normalizer))


def _alphabet(
    texts: Sequence[str], normalizer: normalizers.Normalizer, size: int
) -> tuple[list[str], list[str]]:
    """The most frequent characters of the texts' words, sorted, and those of them seen inside a word."""
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in split(normalizer.normalize_str(text)))
    counts: Counter[str] = Counter()
    for word, count in words.items():
        counts.update({character: count * occurrences for character, occurrences in Counter(word).items()})
    by_frequency = sorted(counts, key=lambda character: (-counts[character], character))
    alphabet = sorted(by_frequency[:size])
    inside = {character for word in words for character in word[1:]}
    return alphabet, [character for character in alphabet if character in inside]
