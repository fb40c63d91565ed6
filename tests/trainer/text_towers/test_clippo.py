"""CLIPPO's tower over drawn captions, against the reference's."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from trainer.text_towers import TextTower, TextTowerConfig, build_text_tower, rebuild_text_tower
from trainer.text_towers.clippo import drawn
from trainer.text_towers.published import load_text_side
from trainer.tokenizers import load_tokenizer, read_tokenizer_file

LENGTH = 32 * 32 // 16  # tokens of the golden tower's pictures


@pytest.fixture
def fonts(golden_dir: Path) -> str:
    folder = golden_dir / "clippo_render"
    return f"{folder / 'synthetic.hex'},{folder / 'synthetic_upper.hex'}"


@pytest.fixture
def tower(golden_dir: Path, fonts: str) -> TextTower:
    path = str(golden_dir / "one_tower" / "clippo_map_24.params.npz")
    config = TextTowerConfig("clippo", path, text_tokenizer=fonts)
    return build_text_tower(config, 24, jax.random.key(0), None, LENGTH)


def test_vectors_are_the_references(tower: TextTower, golden_dir: Path) -> None:
    golden = np.load(golden_dir / "one_tower" / "clippo_map_24.io.npz")
    found = np.asarray(jax.jit(tower.embed)(tower.params, golden["in/text"]))
    found = found / (np.linalg.norm(found, axis=1, keepdims=True) + 1e-8)
    np.testing.assert_allclose(found, golden["out/ztxt"], atol=2e-5)
    assert tower.architecture["head"]["origin"] == "checkpoint"


def test_the_published_scale(golden_dir: Path, fonts: str) -> None:
    path = golden_dir / "one_tower" / "clippo_map_24.params.npz"
    side = load_text_side(str(path), tokenizer=fonts)
    assert (side.log_scale, side.bias) == (np.load(path)["t"][0], None)
    assert side.tower.max_text_length == LENGTH


def test_tokens_are_the_references_pictures(golden_dir: Path, fonts: str) -> None:
    golden = np.load(golden_dir / "clippo_render" / "outputs.npz")
    texts = json.loads(str(golden["texts_json"]))
    tokenizer = read_tokenizer_file(fonts)
    tokens = tokenizer(texts[:3], 64 * 64 // 16)
    assert (tokens.min(), tokens.dtype) == (0, np.int32)
    pictures = np.asarray(drawn(tokens, 64))
    np.testing.assert_allclose(pictures[0], golden["train_pp64/0"], atol=1e-7)


def test_captions_reach_the_vectors(tower: TextTower, tmp_path: Path) -> None:
    tokens = tower.tokenizer(["a", "b", ""], LENGTH)
    embed = jax.jit(tower.embed)
    vectors = np.asarray(embed(tower.params, tokens))
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-4
    tower.tokenizer.save(str(tmp_path))
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.digest == tower.tokenizer.digest
    again = rebuild_text_tower(json.loads(json.dumps(tower.architecture)), tower.params, tokenizer)
    np.testing.assert_array_equal(embed(again.params, again.tokenizer(["a", "b", ""], LENGTH)), vectors)


@pytest.mark.parametrize("length", [16, 60])
def test_other_row_lengths_are_refused(golden_dir: Path, fonts: str, length: int) -> None:
    path = str(golden_dir / "one_tower" / "clippo_map_24.params.npz")
    with pytest.raises(ValueError, match="Set --max-text-length 64"):
        build_text_tower(
            TextTowerConfig("clippo", path, text_tokenizer=fonts), 24, jax.random.key(0), None, length
        )


def test_what_is_no_clippo_is_refused(golden_dir: Path, fonts: str) -> None:
    path = golden_dir / "two_towers" / "siglip_none_32.params.npz"
    config = TextTowerConfig("clippo", str(path), text_tokenizer=fonts)
    with pytest.raises(ValueError, match="must hold img/ and t, found also"):
        build_text_tower(config, 24, jax.random.key(0), None, LENGTH)
    config = TextTowerConfig("clippo", str(golden_dir / "one_tower" / "clippo_map_24.params.npz"))
    with pytest.raises(ValueError, match="found no font"):
        build_text_tower(config, 24, jax.random.key(0), None, LENGTH)
