"""BERT's WordPiece tokenizer, exact to the ids its published checkpoints were trained with."""

import hashlib
import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from schemas.storage import Folder

KIND_FILE = "lit_tokenizer.json"  # beside tokenizer.json in what we save: which kind it is, which token pads

# A caption is cut to this many characters, or to 128 a token where that is more, before it is tokenized:
# the ids are those of the whole text unless its first max_length tokens span more than that.
MAX_CHARACTERS = 16_384
MAX_CHARACTERS_PER_TOKEN = 128

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # of a trained vocabulary, ids 0..4
_BATCH = 8_192  # texts tokenized at a time: bounds the memory taken by the package's result objects


class WordPiece:
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
            int32 [n, max_length]: `[CLS] text [SEP]`, the text cut so that both stay, padded with `pad_id`.

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
            batch = [_bounded(text, max_length) for text in texts[start : start + _BATCH]]
            for row, encoding in enumerate(tokenizer.encode_batch_fast(batch), start):
                ids[row] = encoding.ids
        return ids

    def save(self, directory: str) -> None:
        """Writes `tokenizer.json`, which other tools read too, and `lit_tokenizer.json`."""
        folder = Folder(directory)
        kind = {"kind": "wordpiece", "pad_token": self._pad_token}
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


def _bounded(text: str, max_length: int) -> str:
    text = text[: max(MAX_CHARACTERS, MAX_CHARACTERS_PER_TOKEN * max_length)]
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def load(directory: str) -> WordPiece:
    """The tokenizer of a BERT checkpoint folder: `tokenizer.json`, else `vocab.txt` with its settings.

    Args:
        directory: any fsspec path.

    Raises:
        ValueError: neither file is there, or the one found cannot be read.
    """
    folder = Folder(directory)
    config: dict[str, Any] = {}
    for name in ("tokenizer_config.json", KIND_FILE):
        if folder.exists(name):
            config |= json.loads(folder.read(name))
    if folder.exists("tokenizer.json"):
        tokenizer = _from_json(folder)
    elif folder.exists("vocab.txt"):
        tokenizer = _from_vocabulary(folder, config)
    else:
        raise ValueError(f"{directory}: must hold tokenizer.json or vocab.txt, found neither.")
    return WordPiece(tokenizer, _content(config.get("pad_token"), "[PAD]"))


def _from_json(folder: Folder) -> RustTokenizer:
    try:
        tokenizer = RustTokenizer.from_str(folder.read("tokenizer.json").decode("utf-8"))
    except Exception as error:  # the package raises bare Exception
        raise ValueError(f"{folder.path}/tokenizer.json: must be a tokenizer, found: {error}") from error
    if not isinstance(tokenizer.model, models.WordPiece):
        found = type(tokenizer.model).__name__
        raise ValueError(f"{folder.path}/tokenizer.json: must be a WordPiece model, found {found}.")
    return tokenizer


def _from_vocabulary(folder: Folder, config: Mapping[str, Any]) -> RustTokenizer:
    """One token a line, the line number its id; other characters that look like line ends belong to tokens."""
    lines = folder.read("vocab.txt").decode("utf-8").removesuffix("\n").split("\n")
    vocabulary = {line.removesuffix("\r"): number for number, line in enumerate(lines)}
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


def _content(token: str | Mapping[str, Any] | None, default: str) -> str:
    """A token in a configuration file is a string or a description holding one."""
    return token if isinstance(token, str) else (token or {}).get("content", default)


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int = 8_192,
    *,
    min_frequency: int = 2,
    max_alphabet: int = 1_000,
    max_texts: int = 300_000,
) -> WordPiece:
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
    kept = [_bounded(text, 0) for text in itertools.islice(texts, max_texts)]
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
    return WordPiece(_assemble(untrained.get_vocab(with_added_tokens=True), normalizer))


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
