"""Both halves of published dual encoders together: the image half of stage 1, the text half of stage 2."""

from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from lit_precompute.config import TowerConfig
from lit_precompute.towers import load_tower
from lit_precompute.towers.vit import ViTShape
from lit_precompute.towers.vit_network import ViT
from schemas.weights import read_weights, subtree
from trainer.text_towers import TextTower
from trainer.text_towers.published import PublishedText, load_text_side
from trainer.text_towers.two_towers import text_leaves, write_two_towers

TWO_TOWERS = [
    *(f"two_towers/{name}" for name in ("lit_bert_24_24", "lit_bert_none_32", "lit_tt_none_32")),
    *(f"two_towers/{name}" for name in ("siglip_none_32", "siglip_scan_none_32")),
    *(f"lit_vit_jax/{name}" for name in ("litjax_tt_none_32", "litjax_bert_24_24")),
]


@pytest.fixture
def two_towers(golden_dir: Path, pieces: Path):
    """`two_towers(case) -> (path of the file, its text side, the golden inputs and outputs)`."""

    def load(case: str) -> tuple[Path, PublishedText, dict[str, np.ndarray]]:
        path = golden_dir / f"{case}.params.npz"
        bert = golden_dir / "tokenizers" / "reference" / "bert_vocab.txt"
        side = load_text_side(
            str(path),
            tokenizer=str(bert if "bert" in case else f"siglip:{pieces}"),
            text_heads=2 if "bert" in case else None,
        )
        with np.load(golden_dir / f"{case}.io.npz") as golden:
            return path, side, dict(golden)

    return load


def unit(vectors: np.ndarray, epsilon: float = 0.0) -> np.ndarray:
    return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + epsilon)


def text_vectors(tower: TextTower, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(tower.embed)(tower.params, tokens))


def image_vectors(folder: Path, tower: str, pixels: np.ndarray) -> np.ndarray:
    """The locked tower's own network, on images normalised as the golden files have them."""
    built = load_tower(TowerConfig(tower=tower, checkpoint=str(folder)))
    network = built.forward.args[0]  # parameters, float images -> vectors
    return np.asarray(jax.jit(network)(built.params, pixels))


@pytest.mark.parametrize(
    ("folder", "tower", "tokenizer"),
    [
        ("dual_clip", "clip", "clip_bpe"),
        ("dual_siglip", "siglip", "siglip_spm"),
        ("dual_siglip2_fixed", "siglip2", "siglip_spm"),
        ("dual_siglip2_naflex", None, "siglip_spm"),  # its image half has a test of its own
    ],
)
def test_logits_of_hugging_face_models(
    golden_dir: Path, folder: str, tower: str | None, tokenizer: str
) -> None:
    path = golden_dir / "hf" / folder
    golden = np.load(path / "io.npz")
    side = load_text_side(str(path), tokenizer=str(golden_dir / "tokenizers" / tokenizer))
    assert (side.bias is None) == (folder == "dual_clip")
    texts = unit(text_vectors(side.tower, golden["in.input_ids"]))
    np.testing.assert_allclose(texts, golden["out.text_embeds"], atol=5e-6)
    images = golden["out.image_embeds"]
    if tower is not None:
        pixels = np.moveaxis(golden["in.pixel_values"], 1, -1)
        images = unit(image_vectors(path, tower, pixels))
        np.testing.assert_allclose(images, golden["out.image_embeds"], atol=5e-6)
    logits = np.exp(side.log_scale) * images @ texts.T + (side.bias or 0.0)
    np.testing.assert_allclose(logits, golden["out.logits_per_image"], atol=1e-4)


@pytest.mark.parametrize("case", TWO_TOWERS)
def test_vectors_of_the_references_two_towers(two_towers, case: str) -> None:
    path, side, golden = two_towers(case)
    image = load_tower(TowerConfig(tower="vit", checkpoint=str(path)))
    shape = ViTShape(**{name: value for name, value in image.info.architecture.items() if name != "family"})
    images = np.asarray(jax.jit(ViT(shape).apply)({"params": image.params}, golden["in/image"]))
    np.testing.assert_allclose(unit(images, 1e-8), golden["out/zimg"], atol=2e-5)
    texts = text_vectors(side.tower, golden["in/text"])
    np.testing.assert_allclose(unit(texts, 1e-8), golden["out/ztxt"], atol=2e-5)
    np.testing.assert_allclose(np.exp(side.log_scale), golden["out/t"][0], rtol=1e-6)
    assert side.bias == (golden["out/b"][0] if "out/b" in golden else None)
    assert side.tower.max_text_length == 16


@pytest.mark.parametrize("case", TWO_TOWERS)
def test_a_file_of_two_towers_is_written_as_it_was_read(two_towers, tmp_path: Path, case: str) -> None:
    path, side, _ = two_towers(case)
    before = read_weights(str(path)).tensors
    write_two_towers(tmp_path / "again.npz", side.tower, side.log_scale, side.bias, subtree(before, "img/"))
    assert_same_file(before, read_weights(str(tmp_path / "again.npz")).tensors)


def test_bfloat16_leaves_stay_so_until_they_are_trained(two_towers, pieces: Path, tmp_path: Path) -> None:
    path, _, _ = two_towers("two_towers/siglip_scan_none_32")
    before = {name: np.array(leaf) for name, leaf in read_weights(str(path)).tensors.items()}
    before["txt/pos_embedding"] = before["txt/pos_embedding"].astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "half.npz", **before)
    side = load_text_side(str(tmp_path / "half.npz"), tokenizer=f"siglip:{pieces}")
    write_two_towers(tmp_path / "again.npz", side.tower, side.log_scale, side.bias, subtree(before, "img/"))
    assert_same_file(before, read_weights(str(tmp_path / "again.npz")).tensors)
    side.tower.params["backbone"]["pos_embedding"] += np.float32(1e-4)
    assert text_leaves(side.tower, side.log_scale, side.bias)["txt/pos_embedding"].dtype == np.float32


def assert_same_file(before, after) -> None:
    assert set(before) == set(after)
    for name, leaf in before.items():
        assert after[name].dtype == leaf.dtype, name
        assert after[name].shape == leaf.shape, name
        assert after[name].tobytes() == np.ascontiguousarray(leaf).tobytes(), name


def test_what_is_no_dual_encoder_is_refused(golden_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model_type of a dual encoder must be one of clip.* found 't5'"):
        load_text_side(str(golden_dir / "hf" / "text_t5_encoder_relu"))
    with pytest.raises(ValueError, match=r"must hold a BERT .* or a text transformer"):
        load_text_side(str(golden_dir / "vit" / "gap.params.npz"))
    path = golden_dir / "two_towers" / "lit_bert_24_24.params.npz"
    tensors = dict(read_weights(str(path)).tensors) | {"txt2/head/kernel": np.zeros((2, 2), np.float32)}
    np.savez(tmp_path / "odd.npz", **tensors)
    with pytest.raises(ValueError, match=r"must hold txt/, img/, t and b, found also \['txt2/head/kernel'\]"):
        load_text_side(str(tmp_path / "odd.npz"))
