"""WordPiece ids against the reference's, and vocabularies learned the same way twice."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer.tokenizers import load_tokenizer, train_wordpiece
from trainer.tokenizers.tokenizer_json import MAX_CHARACTERS, JsonTokenizer

REPO = Path(__file__).resolve().parents[3]


def _golden(folder: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    texts = json.loads((folder.parent / "texts.json").read_text(encoding="utf-8"))
    with np.load(folder / "io.npz") as file:
        return texts, dict(file)


@pytest.fixture(params=["bert_uncased", "bert_cased"])
def folder(request: pytest.FixtureRequest, golden_dir: Path) -> Path:
    return golden_dir / "tokenizers" / request.param


@pytest.fixture
def uncased(golden_dir: Path) -> JsonTokenizer:
    return load_tokenizer(str(golden_dir / "tokenizers" / "bert_uncased"))


def test_ids_are_the_references(folder: Path) -> None:
    texts, golden = _golden(folder)
    ids = load_tokenizer(str(folder))(texts, 16)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, golden["input_ids"])


def test_untruncated_ids_are_the_references(folder: Path) -> None:
    texts, golden = _golden(folder)
    ids = load_tokenizer(str(folder))(texts, 128)
    flat = np.concatenate([row[:length] for row, length in zip(ids, golden["full_len"], strict=True)])
    np.testing.assert_array_equal(flat, golden["full_flat"])


def test_a_vocabulary_file_alone_gives_the_same_ids(folder: Path, tmp_path: Path) -> None:
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path)
    texts, golden = _golden(folder)
    np.testing.assert_array_equal(load_tokenizer(str(tmp_path))(texts, 16), golden["input_ids"])


def test_padding_and_truncation_of_the_file_are_not_taken_over(folder: Path, tmp_path: Path) -> None:
    definition = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    definition["truncation"] = {"max_length": 5, "strategy": "LongestFirst", "stride": 0, "direction": "Left"}
    definition["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 3,
        "pad_type_id": 0,
        "pad_token": "[SEP]",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    texts, golden = _golden(folder)
    tokenizer = load_tokenizer(str(tmp_path))
    np.testing.assert_array_equal(tokenizer(texts, 16), golden["input_ids"])
    assert tokenizer.digest == load_tokenizer(str(folder)).digest


def test_save_and_load_give_the_same_tokenizer(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    tokenizer.save(str(tmp_path / "run" / "tokenizer"))
    again = load_tokenizer(str(tmp_path / "run" / "tokenizer"))
    texts, golden = _golden(folder)
    np.testing.assert_array_equal(again(texts, 16), golden["input_ids"])
    assert (again.vocab_size, again.pad_id, again.digest) == (
        tokenizer.vocab_size,
        tokenizer.pad_id,
        tokenizer.digest,
    )


def test_cut_rows_keep_both_special_tokens(uncased: JsonTokenizer) -> None:
    cls, sep = uncased([""], 3)[0, :2]
    ids = uncased(["dog " * 50], 4)
    assert ids[0, 0] == cls
    assert ids[0, -1] == sep
    assert uncased([""], 3).tolist() == [[cls, sep, uncased.pad_id]]
    with pytest.raises(ValueError, match="max_length: must be over the 2 special tokens, found 2"):
        uncased(["dog"], 2)


def test_lengths_do_not_disturb_each_other(uncased: JsonTokenizer) -> None:
    first = uncased(["a photo of a cat"], 16)
    assert uncased(["a photo of a cat"], 4).shape == (1, 4)
    np.testing.assert_array_equal(uncased(["a photo of a cat"], 16), first)


def test_any_string_is_tokenized(uncased: JsonTokenizer) -> None:
    plain = uncased(["a cat"], 8)
    np.testing.assert_array_equal(uncased(["a\0 c\0at"], 8), plain)
    long = uncased(["a cat " * 4_000, "x" * 24_000, "\ud800 cat", "\0\0", "\u200d" * 300], 8)
    assert long.shape == (5, 8)
    assert uncased([], 8).shape == (0, 8)


def test_what_follows_the_bound_is_not_read(uncased: JsonTokenizer) -> None:
    spaces = " " * MAX_CHARACTERS
    np.testing.assert_array_equal(uncased([spaces + "cat"], 8), uncased([""], 8))
    np.testing.assert_array_equal(uncased([spaces[:-3] + "cat"], 8), uncased(["cat"], 8))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold tokenizer\.json, vocab\.txt, .*found no files"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "lit_tokenizer.json").write_text('{"kind": "bytes"}')
    with pytest.raises(ValueError, match=r"must be one of .*tokenizer-json.*, found 'bytes'"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "lit_tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json: must be a tokenizer"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\ncat\n")
    with pytest.raises(ValueError, match=r"found no \['\[CLS\]', '\[SEP\]'\]"):
        load_tokenizer(str(tmp_path))


CAPTIONS = [
    f"a Photo of {n} {a} {b}, café №{n}" for n in range(9) for a in ("red", "blue") for b in ("cats", "dogs")
]


def test_a_learned_vocabulary_covers_its_captions() -> None:
    tokenizer = train_wordpiece(CAPTIONS, vocab_size=120)
    assert tokenizer.pad_id == 0
    assert tokenizer.vocab_size <= 120
    ids = tokenizer(CAPTIONS, 24)
    assert not (ids == 1).any()  # [UNK]
    np.testing.assert_array_equal(tokenizer(["RED CATS"], 8), tokenizer(["red cats"], 8))
    assert (tokenizer(["red cats ŵ"], 12) == 1).any()


def test_a_vocabulary_too_small_for_the_alphabet_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vocab_size: must be at least \d+ for these texts, found 12"):
        train_wordpiece(CAPTIONS, vocab_size=12)


def test_the_rarest_letters_are_left_out() -> None:
    tokenizer = train_wordpiece(["aaa bbb", "aaa bbb", "z"], max_alphabet=2)
    assert (tokenizer(["z", "ab"], 6) == 1).any(axis=1).tolist() == [True, False]


def test_other_processes_learn_the_same_vocabulary() -> None:
    """Hash maps inside the package differ from process to process; order of texts and threads must not matter."""
    program = (
        "import json, sys; from trainer.tokenizers import train_wordpiece;"
        "print(train_wordpiece(json.load(sys.stdin), vocab_size=150).digest)"
    )
    digests = set()
    for threads, captions in (("1", CAPTIONS), ("2", CAPTIONS[::-1])):
        run = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(captions),
            env=os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONPATH": str(REPO)},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(run.stdout.strip())
    assert digests == {train_wordpiece(CAPTIONS, vocab_size=150).digest}
