import re

import jax
import numpy as np
import pytest

from lit_precompute.config import TowerConfig
from lit_precompute.towers import load_tower, mlp_mixer
from lit_precompute.towers.linen import parameter_shapes
from lit_precompute.towers.mlp_mixer import Mixer, _padded
from schemas.weights import read_weights

TOLERANCE = 2e-5


@pytest.fixture
def params(golden_dir):
    return golden_dir / "cnn/mixer.params.npz"


def load(path, **options):
    return load_tower(TowerConfig(**{"tower": "mixer", "checkpoint": str(path)} | options))


def apply(tower, images):
    (network,) = tower.forward.args
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(network.apply)({"params": tower.params}, images))


@pytest.mark.parametrize(
    ("features", "output", "dim"), [("default", "out/x", 10), ("pre-head", "out/pre_logits", 32)]
)
def test_golden(golden_dir, params, features, output, dim):
    tower = load(params, features=features)
    golden = np.load(golden_dir / "cnn/mixer.io.npz")
    np.testing.assert_allclose(apply(tower, golden["in/image"]), golden[output], atol=TOLERANCE)
    assert tower.info.embedding_dim == dim
    assert tower.info.preprocessing["image_size"] == 32


def test_the_first_files(params, tmp_path):
    """Other names, and dense layers with axes of length one."""
    old = {}
    for name, array in read_weights(str(params)).tensors.items():
        name = name.replace("stem/", "embedding/").replace("pre_head_layer_norm/", "Mixer/encoder_norm/")
        if match := re.fullmatch(r"MixerBlock_(\d)/(\w+)_mixing/Dense_(\d)/(\w+)", name):
            part = f"{match[4]}{int(match[3]) + 1}"
            name = f"Mixer/encoderblock_{match[1]}/{match[2]}_mixing_phase_0/{part}"
            array = array[None]
        old[name.replace("MixerBlock_", "Mixer/encoderblock_")] = array
    np.savez(tmp_path / "old.npz", **old)
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "old.npz").params, load(params).params)


def test_weights_are_tied_to_one_number_of_patches(params):
    with pytest.raises(ValueError, match="must see 32 pixels, since its weights mix 16 patches, found 40"):
        load(params, image_size=40)
    assert load(params, image_size=30).info.preprocessing["image_size"] == 30


def test_a_side_that_the_patch_does_not_divide_is_padded_as_the_reference_pads():
    images = np.ones((1, 11, 8, 3), np.float32)
    padded = np.asarray(_padded(images, 8))
    assert padded.shape == (1, 16, 8, 3)
    np.testing.assert_array_equal(padded[0, :, 0, 0], [0] * 2 + [1] * 11 + [0] * 3)


def test_no_tensor_can_go_missing_or_unused_unnoticed(params, tmp_path):
    whole = dict(read_weights(str(params)).tensors)
    for name in whole:
        np.savez(tmp_path / "cut.npz", **{n: a for n, a in whole.items() if n != name})
        with pytest.raises(ValueError, match=re.escape(name)):
            load(tmp_path / "cut.npz")
    np.savez(tmp_path / "more.npz", **whole | {"MixerBlock_0/gate": np.ones(3)})
    with pytest.raises(ValueError, match=r"surplus: MixerBlock_0/gate \[3\]"):
        load(tmp_path / "more.npz")


def test_another_kind_of_file_is_named(golden_dir):
    with pytest.raises(ValueError, match=r"a Mixer checkpoint must have stem/kernel"):
        load(golden_dir / "vit/gap.params.npz")
    with pytest.raises(ValueError, match="--tower mixer-b-16 must be"):
        load(golden_dir / "cnn/mixer.params.npz", tower="mixer-b-16")


def test_published_sizes():
    """Parameters without head, in millions, of Table 1 of arXiv 2105.01601: 18, 59, 207."""
    for name, millions in (("mixer-s-16", 18), ("mixer-b-16", 59), ("mixer-l-16", 207)):
        shapes = parameter_shapes(Mixer(mlp_mixer.PRESETS[name]), 224)
        assert sum(int(np.prod(shape)) for shape in shapes.values()) / 1e6 == pytest.approx(
            millions, rel=0.02
        )
