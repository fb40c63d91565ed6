"""Every family's features against those of the reference, from the reference's own files."""

import functools
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from trainer.text_towers import TEXT_TOWERS, TextTowerConfig
from trainer.text_towers.checkpoint import read_text_checkpoint
from trainer.text_towers.family import Order, Start

TOKENIZERS = {
    "clip": "clip_bpe",
    "siglip": "siglip_spm",
    "t5": "t5_spm",
    "xlm-roberta": "xlmr_spm",
    "modernbert": "bert_uncased",
    "minilm": "xlmr_spm",
}


@pytest.fixture
def start(golden_dir: Path):
    """`start(family, path below golden, **flags)`: its backbone, parameters and head."""

    def start(family: str, path: str, **flags: object) -> Start:
        if "text_tokenizer" not in flags:
            flags["text_tokenizer"] = str(golden_dir / "tokenizers" / TOKENIZERS[family])
        config = TextTowerConfig(text_tower=family, text_checkpoint=str(golden_dir / path), **flags)
        order = Order(
            config, read_text_checkpoint(str(golden_dir / path)), None, np.random.default_rng(0), None
        )
        return TEXT_TOWERS[family].start(order)

    return start


def _features(start: Start, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(_jitted(start.backbone)({"params": start.params}, tokens))


@functools.cache
def _jitted(backbone: nn.Module):
    return jax.jit(backbone.apply)


def _projected(start: Start, features: np.ndarray) -> np.ndarray:
    head = start.head or {}
    return features @ head.get("kernel", np.eye(features.shape[1])) + head.get("bias", 0)


def _io(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize(
    ("family", "folder", "tolerance"),
    [
        ("minilm", "text_minilm_multilingual", 2e-5),  # whose tokenizer pads with 1, its config.json says 0
        ("xlm-roberta", "text_xlm_roberta", 2e-5),
        ("t5", "text_t5_encoder_relu", 5e-5),
        ("t5", "text_t5_encoder_gated_gelu", 5e-5),
        ("t5", "text_mt5_encoder", 5e-5),
        ("modernbert", "text_modernbert", 5e-5),
    ],
)
def test_mean_pooled_features(start, golden_dir: Path, family: str, folder: str, tolerance: float) -> None:
    golden = _io(golden_dir / "hf" / folder / "io.npz")
    if folder == "text_mt5_encoder":
        made = start(family, f"hf/{folder}", text_tokenizer=str(golden_dir / "tokenizers" / "mt5_spm"))
    else:
        made = start(family, f"hf/{folder}")
    np.testing.assert_allclose(
        _features(made, golden["in.input_ids"]), golden["out.mean_pooled"], atol=tolerance
    )


@pytest.mark.parametrize("family", ["xlm-roberta", "t5", "modernbert"])
def test_the_first_tokens_state(start, golden_dir: Path, family: str) -> None:
    folder = {
        "xlm-roberta": "text_xlm_roberta",
        "t5": "text_t5_encoder_relu",
        "modernbert": "text_modernbert",
    }
    golden = _io(golden_dir / "hf" / folder[family] / "io.npz")
    made = start(family, f"hf/{folder[family]}", text_pool="cls")
    np.testing.assert_allclose(
        _features(made, golden["in.input_ids"]), golden["out.last_hidden_state"][:, 0], atol=5e-5
    )


@pytest.mark.parametrize("folder", ["text_clip", "text_clip_legacy_eos"])
def test_clip_is_read_at_its_end_token(start, golden_dir: Path, folder: str) -> None:
    golden = _io(golden_dir / "hf" / folder / "io.npz")
    made = start("clip", f"hf/{folder}")
    assert made.backbone.config.eos_id == (None if "legacy" in folder else 814)
    for case in ("", "pad0.", "multi_eos.", "no_eos.", "short."):
        found = _projected(made, _features(made, golden[f"{case}in.input_ids"]))
        np.testing.assert_allclose(found, golden[f"{case}out.text_embeds"], atol=2e-5, err_msg=case)


def test_clip_pools_in_no_other_way(start) -> None:
    with pytest.raises(ValueError, match="CLIP is read at its end token, found 'mean'"):
        start("clip", "hf/text_clip", text_pool="mean")


@pytest.mark.parametrize("folder", ["text_siglip", "dual_siglip2_fixed", "dual_siglip2_naflex"])
def test_siglip_of_hugging_face(start, golden_dir: Path, folder: str) -> None:
    golden = _io(golden_dir / "hf" / folder / "io.npz")
    wanted = golden.get("out.pooler_output", golden.get("out.text_model_output.pooler_output"))
    made = start("siglip", f"hf/{folder}")
    np.testing.assert_allclose(_projected(made, _features(made, golden["in.input_ids"])), wanted, atol=2e-5)


@pytest.mark.parametrize("case", ["head", "nohead"])
def test_bert_in_the_references_layout(start, golden_dir: Path, case: str) -> None:
    golden = _io(golden_dir / "bert" / f"{case}.io.npz")
    vocabulary = str(golden_dir / "tokenizers" / "reference" / "bert_vocab.txt")
    made = start("bert", f"bert/{case}.params.npz", text_tokenizer=vocabulary, text_heads=2)
    assert (made.head is None) == (case == "nohead")
    assert made.tokenizer.pad_id == 0
    features = _features(made, golden["in/text"])
    np.testing.assert_allclose(features, golden["out/pre_logits"], atol=2e-5)
    np.testing.assert_allclose(_projected(made, features), golden["out/x"], atol=2e-5)


def test_the_tokenizer_beside_a_weight_file_is_found(start, golden_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "LiT.npz"
    file.write_bytes((golden_dir / "bert" / "head.params.npz").read_bytes())
    with pytest.raises(
        ValueError, match=r"LiT.npz: .*beside it \(LiT.txt, LiT.model or vocab.txt\), found none"
    ):
        start("bert", str(file), text_tokenizer=None, text_heads=2)
    vocabulary = (golden_dir / "tokenizers" / "reference" / "bert_vocab.txt").read_bytes()
    (tmp_path / "LiT.txt").write_bytes(vocabulary)
    assert start("bert", str(file), text_tokenizer=None, text_heads=2).tokenizer.vocab_size == 103


@pytest.mark.parametrize("family", ["clip", "siglip", "t5", "modernbert", "xlm-roberta", "bert"])
def test_a_checkpoint_of_another_family_is_refused(start, family: str) -> None:
    folder = "hf/text_clip" if family != "clip" else "hf/text_siglip"
    with pytest.raises(ValueError, match=r"model_type must be .*Name the family it is of with --text-tower"):
        start(family, folder, text_tokenizer="nowhere")
