import re

import jax
import numpy as np
import pytest

from lit_precompute.config import TowerConfig
from lit_precompute.towers import load_tower, resnet_bit
from lit_precompute.towers.linen import parameter_shapes
from lit_precompute.towers.resnet_bit import BiT
from schemas.weights import read_weights

TOLERANCE = 2e-5
CASES = {"bit_d21": "v1", "bit_paper_d21": "v2"}
LEGACY_PARTS = {"scale": "gamma", "bias": "beta"}


def load(path, **options):
    return load_tower(TowerConfig(**{"tower": "bit", "checkpoint": str(path), "image_size": 32} | options))


def apply(tower, images):
    (network,) = tower.forward.args
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(network.apply)({"params": tower.params}, images))


@pytest.mark.parametrize("case", CASES)
def test_golden(golden_dir, case):
    tower = load(golden_dir / f"cnn/{case}.params.npz")
    golden = np.load(golden_dir / f"cnn/{case}.io.npz")
    np.testing.assert_allclose(apply(tower, golden["in/image"]), golden["out/x"], atol=TOLERANCE)
    assert (tower.info.features, tower.info.embedding_dim) == ("head", 10)
    assert tower.info.architecture["flavour"] == CASES[case]
    assert tower.info.architecture["depths"] == [2, 1]


@pytest.mark.parametrize("case", CASES)
def test_what_enters_the_head(golden_dir, case):
    tower = load(golden_dir / f"cnn/{case}.params.npz", features="pre-head")
    golden = np.load(golden_dir / f"cnn/{case}.io.npz")
    np.testing.assert_allclose(apply(tower, golden["in/image"]), golden["out/pre_logits"], atol=TOLERANCE)
    assert (tower.info.features, tower.info.embedding_dim) == ("pre-head", 256)


def test_forward_scales_pixels_itself(golden_dir):
    tower = load(golden_dir / "cnn/bit_d21.params.npz")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    expected = apply(tower, pixels / np.float32(255) * 2 - 1)
    np.testing.assert_allclose(jax.jit(tower.forward)(tower.params, pixels), expected, atol=1e-3)


def legacy_name(name):
    """As the paper's own code wrote it, with the numbers some files carry."""
    if name.startswith("root_block"):
        return "resnet/root_block/standardized_conv2d/kernel"
    if name.startswith("norm-pre-head"):
        return f"resnet/group_norm/{LEGACY_PARTS[name.split('/')[-1]]}"
    if name.startswith("head"):
        return f"resnet/head/conv2d/{name.split('/')[-1]}"
    block, unit, layer, part = name.split("/")
    if layer == "conv_proj":
        return f"resnet/{block}/{unit}/a/proj/standardized_conv2d/kernel"
    letter = "abc"[int(layer[-1]) - 1]
    if layer.startswith("conv"):
        return f"resnet/{block}/{unit}/{letter}/standardized_conv2d_{int(layer[-1]) + 11}/kernel"
    return f"resnet/{block}/{unit}/{letter}/group_norm/{LEGACY_PARTS[part]}"


def test_files_of_the_papers_own_code(golden_dir, tmp_path):
    path = golden_dir / "cnn/bit_paper_d21.params.npz"
    tensors = dict(read_weights(str(path)).tensors)
    tensors["head/kernel"] = tensors["head/kernel"][None, None]
    legacy = {
        legacy_name(name): a.reshape(-1) if "gn" in name or "norm" in name else a
        for name, a in tensors.items()
    }
    assert len(legacy) == len(tensors)
    np.savez(tmp_path / "legacy.npz", **legacy)
    old, new = load(tmp_path / "legacy.npz"), load(path)
    jax.tree.map(np.testing.assert_array_equal, old.params, new.params)
    assert old.info.architecture == new.info.architecture


def test_norms_with_axes_to_spare(golden_dir, tmp_path):
    path = golden_dir / "cnn/bit_d21.params.npz"
    spare = {n: a[None, None, None] if "/gn" in n else a for n, a in read_weights(str(path)).tensors.items()}
    np.savez(tmp_path / "spare.npz", **spare)
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "spare.npz").params, load(path).params)


@pytest.mark.parametrize("case", CASES)
def test_no_tensor_can_go_missing_or_unused_unnoticed(golden_dir, tmp_path, case):
    whole = dict(read_weights(str(golden_dir / f"cnn/{case}.params.npz")).tensors)
    for name in whole:
        if re.search(r"unit0?2/gn[12]|root|head/|conv_proj", name):
            np.savez(tmp_path / "cut.npz", **{n: a for n, a in whole.items() if n != name})
            with pytest.raises(ValueError, match=re.escape(name)):
                load(tmp_path / "cut.npz")
    wrong = whole | {"block1/unit1/gn9/scale": np.ones(2), "head/bias": np.ones((10, 1), np.float32)}
    np.savez(tmp_path / "more.npz", **wrong)
    with pytest.raises(ValueError) as caught:
        load(tmp_path / "more.npz")
    assert "surplus: block1/unit1/gn9/scale [2]" in str(caught.value)
    assert "head/bias must be [10], found [10, 1]" in str(caught.value)


def test_another_kind_of_file_is_named(golden_dir):
    with pytest.raises(ValueError, match=r"gap\.params\.npz: a BiT checkpoint must have conv_root/kernel"):
        load(golden_dir / "vit/gap.params.npz")
    with pytest.raises(ValueError, match="--tower bit-r50x1 must be"):
        load(golden_dir / "cnn/bit_paper_d21.params.npz", tower="bit-r50x1")
    with pytest.raises(ValueError, match="--pool"):
        load(golden_dir / "cnn/bit_paper_d21.params.npz", pool="map")
    with pytest.raises(ValueError, match="random weights need a size"):
        load("random:0")


def test_published_sizes():
    """Parameters without head, in millions: 23.5 of R50x1, 42.5 of R101x1, 928 of R152x4 (arXiv 1912.11370)."""
    millions = {}
    for name in ("bit-r50x1", "bit-r101x1", "bit-r152x4", "bit-v1-r50x1"):
        shapes = parameter_shapes(BiT(resnet_bit.PRESETS[name]), 64)
        millions[name] = sum(int(np.prod(shape)) for shape in shapes.values()) / 1e6
    assert millions["bit-r50x1"] == pytest.approx(23.5, abs=0.05)
    assert millions["bit-v1-r50x1"] == pytest.approx(23.5, abs=0.05)
    assert millions["bit-r101x1"] == pytest.approx(42.5, abs=0.05)
    assert millions["bit-r152x4"] == pytest.approx(928, abs=1)
