"""A Hugging Face folder of every family that has one: what is written is read back bit by bit."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from trainer.config import DataConfig, TrainConfig
from trainer.exports.facts import RunFacts
from trainer.exports.hugging_face import write_hf
from trainer.run_directory import LoadedRun, Provenance
from trainer.text_towers import TextTower, TextTowerConfig, build_text_tower

TEXTS = ["a photo of a cat", "Two red cats", "", "ein Hund"]
FAMILIES = [  # family, checkpoint, tokenizer, dimension, row length, the model that opens the folder
    ("xlm-roberta", "hf/text_xlm_roberta", "xlmr_spm", 8, 12, "XLMRobertaModel"),
    ("minilm", "hf/text_minilm_multilingual", "xlmr_spm", 8, 12, "BertModel"),
    ("t5", "hf/text_t5_encoder_gated_gelu", "t5_spm", 8, 12, "T5EncoderModel"),
    ("t5", "hf/text_mt5_encoder", "mt5_spm", 8, 12, "T5EncoderModel"),
    ("modernbert", "hf/text_modernbert", "bert_uncased", 8, 12, "ModernBertModel"),
    ("clip", "hf/text_clip", "clip_bpe", 24, 16, "CLIPTextModelWithProjection"),  # with its own head
    ("clip", "hf/text_clip_legacy_eos", "clip_bpe", 8, 12, "CLIPTextModel"),  # with a new one
    ("siglip", "hf/text_siglip", "siglip_spm", 32, 16, "SiglipTextModel"),
    ("siglip", "text_transformer/last_scan.params.npz", "pieces", 24, 16, "SiglipTextModel"),
    ("bert", "bert/head.params.npz", "reference/bert_vocab.txt", 24, 12, "BertModel"),
    (
        "bert",
        "two_towers/lit_bert_none_32.params.npz",
        "reference/bert_vocab.txt",
        32,
        12,
        "BertModel",
    ),  # no head
]


@pytest.fixture
def tower_of(golden_dir: Path, pieces: Path) -> Any:
    """`tower_of(family, checkpoint, tokenizer, dim, length)` as a run of it would begin."""

    def make(family: str, checkpoint: str, tokenizer: str, dim: int, length: int) -> TextTower:
        config = TextTowerConfig(
            text_tower=family,
            text_checkpoint=str(golden_dir / checkpoint),
            text_tokenizer=f"siglip:{pieces}"
            if tokenizer == "pieces"
            else str(golden_dir / "tokenizers" / tokenizer),
            text_heads=2 if "bert/" in checkpoint or "lit_bert" in checkpoint else None,
        )
        return build_text_tower(config, dim, jax.random.key(3), None, length)

    return make


def written(tower: TextTower, folder: Path) -> list[str]:
    folder.mkdir()
    config = dataclasses.asdict(TrainConfig(DataConfig(store=("store",)), "run"))
    run = LoadedRun(tower, 2.25, None, 5, config, "space", "content")
    return write_hf(
        RunFacts("run", run, Provenance("space", "content", ("{}",), "t", "b", 4), None, None), folder
    )


def assert_same(found: Any, wanted: Any) -> None:
    found, wanted = flatten_dict(found, sep="/"), flatten_dict(wanted, sep="/")
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name, strict=True)


@pytest.mark.parametrize(("family", "checkpoint", "tokenizer", "dim", "length", "opens"), FAMILIES)
def test_a_folder_comes_back_bit_by_bit(
    tower_of: Any,
    tmp_path: Path,
    family: str,
    checkpoint: str,
    tokenizer: str,
    dim: int,
    length: int,
    opens: str,
) -> None:
    before = tower_of(family, checkpoint, tokenizer, dim, length)
    out = tmp_path / "out"
    written(before, out)
    again = TextTowerConfig(text_tower=family, text_checkpoint=str(out), text_head="checkpoint")
    after = build_text_tower(again, dim, jax.random.key(9), None, length)
    assert_same(after.params, {"backbone": before.params["backbone"], "head": before.params["head"]})
    ids = before.tokenizer(TEXTS, length)
    np.testing.assert_array_equal(after.tokenizer(TEXTS, length), ids)
    form = [tower.architecture["backbone"] | {"pads_inside": False} for tower in (before, after)]
    assert form[0] == form[1]
    assert json.loads((out / "config.json").read_text())["architectures"] == [opens]
    whole = opens in ("CLIPTextModelWithProjection", "SiglipTextModel")
    assert (out / "modules.json").exists() != whole
    assert json.loads((out / "lit.json").read_text())["log_scale"] == 2.25


def test_a_transformer_from_scratch_may_have_siglips_form(tmp_path: Path) -> None:
    sizes = {"text_width": 16, "text_depth": 2, "text_heads": 2, "text_mlp": 24, "vocab_size": 64}
    config = TextTowerConfig(text_attend_pads=True, text_pool="last", **sizes)
    before = build_text_tower(config, 8, jax.random.key(3), lambda: TEXTS, 6)
    assert any("Rows must be padded to 6" in note for note in written(before, tmp_path / "out"))
    again = TextTowerConfig(text_tower="siglip", text_checkpoint=str(tmp_path / "out"))
    after = build_text_tower(again, 8, jax.random.key(9), None, 6)
    assert_same(after.params, before.params)
    np.testing.assert_array_equal(after.tokenizer(TEXTS, 6), before.tokenizer(TEXTS, 6))
    masked = build_text_tower(TextTowerConfig(**sizes), 8, jax.random.key(3), lambda: TEXTS, 6)
    with pytest.raises(
        ValueError, match=r"found --text-pool mean, padding masked\. Train with --text-attend-pads"
    ):
        written(masked, tmp_path / "masked")


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ({"weight": (8, 32)}, "weight"),
        ({"linear.weight": (8, 31)}, r"\(8, 31\)"),
        ({"linear.weight": (8,)}, r"\(8,\)"),
        ({"linear.weight": (8, 32), "linear.bias": (7,)}, r"\(7,\)"),
        (None, "bytes"),
    ],
)
def test_a_head_that_does_not_fit(tower_of: Any, tmp_path: Path, tensors: Any, found: str) -> None:
    written(tower_of("t5", "hf/text_t5_encoder_relu", "t5_spm", 8, 12), tmp_path / "out")
    path = tmp_path / "out" / "2_Dense" / "model.safetensors"
    if tensors is None:
        path.write_bytes(path.read_bytes()[:-4])
    else:
        save_file({name: np.zeros(shape, np.float32) for name, shape in tensors.items()}, path)
    again = TextTowerConfig(text_tower="t5", text_checkpoint=str(tmp_path / "out"), text_head="checkpoint")
    with pytest.raises(ValueError, match=rf"2_Dense/model\.safetensors: .*{found}") as caught:
        build_text_tower(again, 8, jax.random.key(9), None, 12)
    assert "Export the run again." in str(caught.value)


def test_a_dense_layer_of_somebody_elses_is_no_head(tower_of: Any, tmp_path: Path) -> None:
    written(tower_of("t5", "hf/text_t5_encoder_relu", "t5_spm", 8, 12), tmp_path / "out")
    (tmp_path / "out" / "lit.json").unlink()
    again = TextTowerConfig(text_tower="t5", text_checkpoint=str(tmp_path / "out"), text_head="checkpoint")
    with pytest.raises(ValueError, match="found a checkpoint without a head"):
        build_text_tower(again, 8, jax.random.key(9), None, 12)


def test_clippo_has_no_such_layout(tower_of: Any, tmp_path: Path, golden_dir: Path) -> None:
    fonts = ",".join(
        str(golden_dir / "clippo_render" / name) for name in ("synthetic.hex", "synthetic_upper.hex")
    )
    config = TextTowerConfig(
        text_tower="clippo",
        text_checkpoint=str(golden_dir / "one_tower" / "clippo_map_24.params.npz"),
        text_tokenizer=fonts,
    )
    tower = build_text_tower(config, 24, jax.random.key(0), None, 64)
    with pytest.raises(ValueError, match="found clippo, for whose network Hugging Face has no layout"):
        written(tower, tmp_path / "out")
