import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from lit_precompute.config import TowerConfig
from lit_precompute.towers import TOWERS, describe_tower, load_tower
from lit_precompute.towers.tower import RandomWeights, check_fit


def test_an_unknown_tower_lists_the_known_ones():
    with pytest.raises(ValueError, match="efficientnet-lite0, vit, ") as caught:
        load_tower(TowerConfig("resnet", "random:0"))
    assert "'resnet'" in str(caught.value)


@pytest.mark.parametrize("checkpoint", ["random:", "random:x", "random:-1", "random:1.5"])
def test_a_seed_must_be_a_number(checkpoint):
    with pytest.raises(ValueError, match="random:SEED"):
        load_tower(TowerConfig("efficientnet-lite0", checkpoint))


def test_a_missing_checkpoint_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_tower(TowerConfig("efficientnet-lite0", str(tmp_path / "absent.npz")))


@pytest.mark.parametrize("tower", ["efficientnet-lite0", "vit-mu-32"])
def test_random_weights_say_so_and_repeat(tower):
    one, same, other = (load_tower(TowerConfig(tower, f"random:{seed}")) for seed in (3, 3, 4))
    assert one.info.weights == "random:3"
    assert one.info == same.info
    assert one.info.space_id != other.info.space_id
    assert describe_tower(TowerConfig(tower, "random:3")) == one.info
    jax.tree.map(np.testing.assert_array_equal, one.params, same.params)


@pytest.mark.parametrize("tower", ["efficientnet-lite0", "vit-mu-32"])
def test_random_weights_give_embeddings_of_a_sensible_size(tower):
    built = load_tower(TowerConfig(tower, "random:3", image_size=64))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    embeddings = np.asarray(jax.jit(built.forward)(built.params, pixels))
    assert embeddings.shape == (2, built.info.embedding_dim)
    assert embeddings.dtype == np.float32
    assert 0.01 < np.abs(embeddings).max() < 1000


def test_describing_starts_no_backend():
    """JAX is told of a platform that does not exist: the first touch of a device would raise."""
    code = """
from lit_precompute.config import TowerConfig
from lit_precompute.towers import describe_tower
for tower in ("efficientnet-lite0", "vit-mu-32", "dinov2-small-registers", "siglip2-base-32-256"):
    print(describe_tower(TowerConfig(tower, "random:0")).embedding_dim)
"""
    environment = os.environ | {"JAX_PLATFORMS": "nowhere"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ran.stdout.split() == ["1280", "32", "384", "768"], ran.stderr


def test_names_of_towers_make_names_of_folders():
    assert all(name == name.lower() and len(name) <= 55 for name in TOWERS)


def test_every_difference_is_listed_at_once():
    found = {"a": np.zeros(3), "b": np.zeros((2, 2)), "c": np.zeros(1), "d": np.zeros(1, int)}
    with pytest.raises(ValueError, match=r"w\.npz") as caught:
        check_fit("w.npz", found, {"a": (3,), "b": (2, 3), "d": (1,), "e": (4,), "f": ()})
    message = str(caught.value)
    assert "missing: e [4]; f []" in message
    assert "surplus: c [1]" in message
    assert "wrong shape: b must be [2, 3], found [2, 2]" in message
    assert "not floating point: d int64" in message


def test_random_draws_have_the_asked_spread():
    drawn = RandomWeights(1).draw({"a": (200, 100), "b": (5000,)}, lambda name: {"a": 8, "b": 2}[name])
    assert drawn["a"].dtype == np.float32
    assert drawn["a"].std() == pytest.approx(0.5, rel=0.02)
    assert drawn["b"].std() == pytest.approx(1.0, rel=0.05)
