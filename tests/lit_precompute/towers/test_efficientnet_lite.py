from functools import partial

import jax
import numpy as np
import pytest

from lit_precompute.config import TowerConfig
from lit_precompute.towers import efficientnet_lite as lite
from lit_precompute.towers import load_tower
from lit_precompute.towers.tower import RandomWeights
from schemas.weights import WeightsFile

CONFIG = TowerConfig("efficientnet-lite0", "weights")
RNG = np.random.default_rng(0)


def random_tensors():
    """Weights with norms that do something, so that folding is put to the test."""
    tensors = lite.load_tensors(RandomWeights(0))
    for name, array in tensors.items():
        if "_bn" in name:
            positive = name.endswith(("running_var", ".weight"))
            tensors[name] = (0.5 * positive + RNG.random(array.shape)).astype(np.float32)
    return tensors


@pytest.fixture(scope="module")
def tensors():
    return random_tensors()


@pytest.fixture(scope="module")
def tower(tensors):
    return lite.build(CONFIG, WeightsFile(tensors, "f" * 64, "npz", "w.npz"))


def slow_conv(x, kernel, stride):
    """The torch-shaped convolution, one output pixel at a time: x [H, W, in], kernel [out, in / groups, k, k]."""
    outputs, per_group, size, _ = kernel.shape
    groups = x.shape[-1] // per_group
    side = -(-x.shape[0] // stride)
    total = max((side - 1) * stride + size - x.shape[0], 0)
    padded = np.pad(x, [(total // 2, total - total // 2)] * 2 + [(0, 0)])
    result = np.zeros((side, side, outputs))
    for row in range(side):
        for column in range(side):
            patch = padded[row * stride : row * stride + size, column * stride : column * stride + size]
            for out in range(outputs):
                first = out // (outputs // groups) * per_group
                result[row, column, out] = np.sum(
                    patch[..., first : first + per_group].transpose(2, 0, 1) * kernel[out]
                )
    return result


def slow_norm(x, tensors, name):
    gamma, beta, mean, variance = (
        tensors[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta


def slow_block(x, tensors, block):
    wide = x
    if block.widens:
        wide = slow_conv(wide, tensors[f"{block.name}_expand_conv.weight"], 1)
        wide = np.clip(slow_norm(wide, tensors, f"{block.name}_bn0"), 0, 6)
    wide = slow_conv(wide, tensors[f"{block.name}_depthwise_conv.weight"], block.stride)
    wide = np.clip(slow_norm(wide, tensors, f"{block.name}_bn1"), 0, 6)
    narrow = slow_norm(
        slow_conv(wide, tensors[f"{block.name}_project_conv.weight"], 1), tensors, f"{block.name}_bn2"
    )
    return x + narrow if block.adds_input else narrow


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("number", [0, 1, 2, 3])  # no widening; stride 2, k 3; residual; stride 2, k 5
@pytest.mark.parametrize("side", [6, 5])
def test_a_block_equals_its_slow_twin(tensors, number, shifted, side):
    block = lite.BLOCKS[number]
    x = RNG.normal(size=(side, side, block.channels_in)).astype(np.float32)
    found = lite._block(lite.fold(tensors), x[None], block, shifted)[0]
    np.testing.assert_allclose(found, slow_block(x, tensors, block), rtol=1e-4, atol=1e-4)


def test_the_stem_equals_its_slow_twin(tensors):
    x = RNG.normal(size=(8, 8, 3)).astype(np.float32)
    slow = slow_norm(slow_conv(x, tensors["_conv_stem.weight"], 2), tensors, "_bn0")
    np.testing.assert_allclose(
        lite._stem_matmul(x[None], lite.fold(tensors)["_conv_stem"])[0], slow, atol=1e-4
    )


def test_both_formulations_agree(tower):
    pixels = RNG.integers(0, 256, (2, 32, 32, 3), np.uint8)
    embed = jax.jit(partial(lite._embed, mean=127.0, std=128.0), static_argnames="shifted")
    cpu, accelerator = (embed(tower.params, pixels, shifted=shifted) for shifted in (True, False))
    assert np.abs(cpu).max() > 0.1
    np.testing.assert_allclose(cpu, accelerator, rtol=1e-4, atol=1e-4)


def test_bits_depend_neither_on_batch_size_nor_on_neighbours(tower):
    pixels = RNG.integers(0, 256, (11, 32, 32, 3), np.uint8)
    forward = jax.jit(tower.forward)
    eleven = np.asarray(forward(tower.params, pixels))
    assert eleven.shape == (11, 1280)
    np.testing.assert_array_equal(eleven[8:], forward(tower.params, pixels[8:]))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        (224, 3, 2, (0, 1)),
        (56, 5, 2, (1, 2)),
        (7, 3, 1, (1, 1)),
        (7, 5, 1, (2, 2)),
        (7, 3, 2, (1, 1)),
        (8, 1, 1, (0, 0)),
    ],
)
def test_same_padding_puts_the_odd_pixel_last(size, kernel, stride, padding):
    assert lite.same_padding(size, kernel, stride) == padding


def test_the_published_layout():
    shapes = lite.tensor_shapes()
    assert len(shapes) == 247
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 4_694_024
    assert shapes["_blocks.15._depthwise_conv.weight"] == (1152, 1, 3, 3)


def test_step_counters_of_torch_are_passed_over(tensors, tower):
    counted = tensors | {"_bn0.num_batches_tracked": np.array(5)}
    same = lite.build(CONFIG, WeightsFile(counted, "f" * 64, "npz", "w.npz"))
    jax.tree.map(np.testing.assert_array_equal, same.params, tower.params)


def test_a_missing_tensor_is_named(tensors):
    cut = {name: array for name, array in tensors.items() if name not in ("_bn1.bias", "_fc.weight")}
    with pytest.raises(ValueError, match=r"missing: _bn1\.bias \[1280\]; _fc\.weight \[1000, 1280\]"):
        lite.build(CONFIG, WeightsFile(cut, "f" * 64, "npz", "w.npz"))


def test_info(tower):
    assert tower.info.features == "pooled"
    assert tower.info.embedding_dim == 1280
    assert tower.info.weights == "f" * 64
    assert tower.info.preprocessing["image_size"] == 224
    assert (tower.info.preprocessing["mean"], tower.info.preprocessing["std"]) == (127.0, 128.0)


def test_pool_is_not_an_option():
    with pytest.raises(ValueError, match="--pool"):
        load_tower(TowerConfig("efficientnet-lite0", "random:0", pool="map"))


@pytest.mark.shared
@pytest.mark.slow
def test_published_weights_give_the_reference_embeddings(shared_dir):
    folder = shared_dir / "data/efficientnet_lite0"
    tower = load_tower(TowerConfig("efficientnet-lite0", str(folder / "efficientnet_lite0.safetensors")))
    golden = np.load(folder / "golden_io.npz")
    pooled = np.asarray(jax.jit(tower.forward)(tower.params, golden["pixels_uint8_nhwc"]))
    np.testing.assert_allclose(pooled, golden["pooled"], atol=1e-3)
    lengths = np.linalg.norm(pooled, axis=1) * np.linalg.norm(golden["pooled"], axis=1)
    assert (np.sum(pooled * golden["pooled"], axis=1) / lengths >= 0.9999).all()
