"""Ids of every kind of tokenizer against those of the reference, each reloaded from what a run keeps."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from trainer.tokenizers import load_tokenizer, read_tokenizer_file
from trainer.tokenizers.reference_bert import ReferenceBert
from trainer.tokenizers.sentence_piece import RULES, Rules, SentencePiece
from trainer.tokenizers.tokenizer_json import JsonTokenizer


def _golden(folder: Path, prefix: str = "") -> tuple[list[str], dict[str, np.ndarray]]:
    texts = json.loads((folder.parent / "texts.json").read_text(encoding="utf-8"))
    with np.load(folder / "io.npz") as file:
        return texts, {name: file[f"{prefix}{name}"] for name in ("input_ids", "full_flat", "full_len")}


@pytest.fixture
def reference(golden_dir: Path) -> Path:
    return golden_dir / "tokenizers" / "reference"


@pytest.fixture
def outputs(reference: Path) -> dict[str, np.ndarray]:
    with np.load(reference / "outputs.npz") as file:
        return dict(file)


# folder, files left out, the kind that results, and which of the golden ids: fast or slow where they differ
FOLDERS = [
    ("clip_bpe", (), JsonTokenizer, ""),
    ("clip_bpe", ("tokenizer.json",), JsonTokenizer, ""),
    ("xlmr_spm", (), JsonTokenizer, ""),
    ("xlmr_spm", ("tokenizer.json",), SentencePiece, ""),
    ("t5_spm", (), SentencePiece, ""),
    ("mt5_spm", (), SentencePiece, "slow."),
    ("siglip_spm", (), SentencePiece, ""),
]


@pytest.mark.parametrize(("name", "without", "kind", "prefix"), FOLDERS)
def test_hugging_face_folders(
    golden_dir: Path, tmp_path: Path, name: str, without: tuple[str, ...], kind: type, prefix: str
) -> None:
    source = golden_dir / "tokenizers" / name
    folder = Path(shutil.copytree(source, tmp_path / "folder", ignore=shutil.ignore_patterns(*without)))
    texts, golden = _golden(source, prefix)
    tokenizer = load_tokenizer(str(folder))
    assert isinstance(tokenizer, kind)
    np.testing.assert_array_equal(tokenizer(texts, 16), golden["input_ids"])
    rows = tokenizer(texts, int(golden["full_len"].max()) + 1)
    flat = np.concatenate([row[:length] for row, length in zip(rows, golden["full_len"], strict=True)])
    np.testing.assert_array_equal(flat, golden["full_flat"])
    tokenizer.save(str(tmp_path / "run"))
    again = load_tokenizer(str(tmp_path / "run"))
    assert again.digest == tokenizer.digest
    assert (again.pad_id, again.vocab_size) == (tokenizer.pad_id, tokenizer.vocab_size)
    np.testing.assert_array_equal(again(texts, 16), golden["input_ids"])


def test_the_references_bert_op(reference: Path, outputs: dict[str, np.ndarray], tmp_path: Path) -> None:
    texts = json.loads(str(outputs["texts_json"]))
    tokenizer = read_tokenizer_file(str(reference / "bert_vocab.txt"))
    assert isinstance(tokenizer, ReferenceBert)
    for length in (5, 16, 64):
        np.testing.assert_array_equal(tokenizer(texts, length), outputs[f"bert/max_len{length}"])
    np.testing.assert_array_equal(tokenizer(texts, 16), outputs["vit_jax_bert/max_len16"])
    tokenizer.save(str(tmp_path))
    again = load_tokenizer(str(tmp_path))
    assert again.digest == tokenizer.digest
    np.testing.assert_array_equal(again(texts, 16), outputs["bert/max_len16"])


def test_the_bert_op_folds_all_of_unicode(tmp_path: Path) -> None:
    """What TensorFlow Text 2.21 does: NFKC case folding, controls as spaces, words of over 100 bytes unknown."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "fi", "12", "a", "##b", "é", "e", "я", "##я", "中", "="]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    tokenizer = read_tokenizer_file(str(tmp_path / "vocab.txt"))

    def ids(text: str) -> list[int]:
        row = tokenizer([text], 60)[0]
        return row[1 : 1 + int((row[1:] != 0).sum())].tolist()

    assert ids("ﬁ １２ É") == [3, 4, 8]  # ligature, full width, accent
    assert ids("a\u0007b a\u00adb") == [5, 1, 5, 6]  # a control is a space, a soft hyphen nothing
    assert ids("中a⁼") == [11, 5, 12]
    assert ids("a\u2028b") == [1]  # a line separator is no white space there
    assert ids("я" * 50) == [9, *[10] * 49]  # 100 bytes
    assert ids("я" * 51) == [1]
    assert ids("[CLS] a[PAD]") == [1, 1, 1, 5, 1, 1, 1]


def test_a_vocabulary_without_its_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\ncat\n")
    with pytest.raises(ValueError, match=r"vocab.txt: must hold \[CLS\] and \[UNK\], found no \['\[CLS\]'\]"):
        read_tokenizer_file(str(tmp_path / "vocab.txt"))


def test_the_references_sentencepiece_op(reference: Path, outputs: dict[str, np.ndarray]) -> None:
    texts, model = json.loads(str(outputs["texts_json"])), (reference / "sp_unigram.model").read_bytes()
    cases = [name for name in outputs if name.startswith("sp/")]
    assert len(cases) == 7
    for case in cases:
        _, eos, pad, *lower = case.split("/")
        rules = Rules("no" if lower else "ascii", eos=eos[4:], pad="" if pad == "pad_<pad>" else "eos")
        np.testing.assert_array_equal(SentencePiece(model, rules)(texts, 16), outputs[case], err_msg=case)


@pytest.mark.parametrize(
    ("rule", "case"),
    [
        ("siglip", "sp/eos_sticky/pad_1"),
        ("siglip2", "sp/eos_sticky/pad_<pad>"),
        ("lit", "vit_jax_sp/max_len16"),
    ],
)
def test_rules_by_name(
    reference: Path, outputs: dict[str, np.ndarray], tmp_path: Path, rule: str, case: str
) -> None:
    texts, path = json.loads(str(outputs["texts_json"])), str(reference / "sp_unigram.model")
    tokenizer = read_tokenizer_file(f"{rule}:{path}", "t5")
    np.testing.assert_array_equal(tokenizer(texts, 16), outputs[case])
    assert tokenizer.digest == read_tokenizer_file(path, rule).digest
    tokenizer.save(str(tmp_path))
    np.testing.assert_array_equal(load_tokenizer(str(tmp_path))(texts, 16), outputs[case])


def test_rules_decide_the_digest(reference: Path) -> None:
    model = (reference / "sp_unigram.model").read_bytes()
    assert len({SentencePiece(model, rules).digest for rules in RULES.values()}) == len(RULES)


def test_files_that_are_no_tokenizer(reference: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be RULE:PATH with one of siglip, siglip2, lit"):
        read_tokenizer_file(str(reference / "sp_unigram.model"))
    (tmp_path / "odd.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"odd.model: must be a sentencepiece model, found other bytes"):
        read_tokenizer_file(f"siglip:{tmp_path}/odd.model")
    with pytest.raises(FileNotFoundError):
        read_tokenizer_file(str(tmp_path / "absent.txt"))


def test_gemmas_tokenizer_is_given_lower_case(golden_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(golden_dir / "tokenizers" / "bert_cased", tmp_path / "gemma"))
    plain = load_tokenizer(str(folder))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "GemmaTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    lowered = load_tokenizer(str(folder))
    np.testing.assert_array_equal(lowered(["A Photo"], 8), plain(["a photo"], 8))
    assert (lowered(["A Photo"], 8) != plain(["A Photo"], 8)).any()
    lowered.save(str(tmp_path / "run"))
    assert load_tokenizer(str(tmp_path / "run")).digest == lowered.digest
