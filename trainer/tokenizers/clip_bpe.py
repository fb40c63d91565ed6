"""CLIP's byte-level BPE from `vocab.json` and `merges.txt`."""

import json

from tokenizers import Regex, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as RustTokenizer

from schemas.storage import Folder
from trainer.tokenizers.tokenizer_json import JsonTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"  # END pads too: what counts is the first one
# Contractions, runs of letters, single digits, runs of anything else that is not space.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def load(directory: str) -> JsonTokenizer:
    """The tokenizer of a CLIP folder without `tokenizer.json`.

    Raises:
        ValueError: the files are not of CLIP's kind.
    """
    folder = Folder(directory)
    vocabulary = json.loads(folder.read("vocab.json"))
    missing = [token for token in (START, END) if token not in vocabulary]
    if missing:
        raise ValueError(
            f"{folder.path}/vocab.json: CLIP's vocabulary must hold {START} and {END}, found no {missing}."
        )
    lines = folder.read("merges.txt").decode("utf-8").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    if any(len(merge) != 2 for merge in merges):
        raise ValueError(f"{folder.path}/merges.txt: each line must hold two pieces, found others.")
    return JsonTokenizer(_assemble(vocabulary, [(first, second) for first, second in merges]), END)


def _assemble(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> RustTokenizer:
    tokenizer = RustTokenizer(
        models.BPE(vocabulary, merges, unk_token=END, continuing_subword_prefix="", end_of_word_suffix="</w>")
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        (END, vocabulary[END]), (START, vocabulary[START]), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.add_special_tokens([START, END])
    return tokenizer
