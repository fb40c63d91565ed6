"""The example of docs/adding-a-tower.md is code that works."""

import re
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from lit_precompute import towers
from lit_precompute.config import TowerConfig

PAGE = Path(__file__).resolve().parents[3] / "docs" / "adding-a-tower.md"


def examples():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def eigenfaces(monkeypatch):
    code, _ = examples()
    module = types.ModuleType("eigenfaces")
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    monkeypatch.setitem(towers.TOWERS, "eigenfaces", module.build)


@pytest.mark.usefixtures("eigenfaces")
def test_the_example_works(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {"components": rng.normal(size=(3, 1024)), "mean": rng.random(1024)}
    save_file(tensors, tmp_path / "faces.safetensors")
    tower = towers.load_tower(TowerConfig("eigenfaces", str(tmp_path / "faces.safetensors")))
    pixels = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    grey = (pixels / 255 @ [0.299, 0.587, 0.114]).reshape(2, -1)
    with jax.default_matmul_precision("highest"):
        found = jax.jit(tower.forward)(tower.params, pixels)
    np.testing.assert_allclose(found, (grey - tensors["mean"]) @ tensors["components"].T, atol=1e-3)
    assert tower.info.embedding_dim == 3


@pytest.mark.usefixtures("eigenfaces")
def test_the_example_refuses_another_file(tmp_path):
    save_file({"weights": np.zeros((3, 4))}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"missing: components \[0, 1024\]; mean \[1024\]"):
        towers.load_tower(TowerConfig("eigenfaces", str(tmp_path / "other.safetensors")))
    assert towers.load_tower(TowerConfig("eigenfaces", "random:0")).info.embedding_dim == 64


@pytest.mark.usefixtures("eigenfaces")
def test_the_example_is_listed_with_its_cost():
    (line,) = (line for line in towers.list_towers() if line.startswith("eigenfaces "))
    assert line.split()[1:] == ["64", "32", "0.1", "0.0", "give", "it"]


def test_every_tower_is_in_the_table():
    """docs/towers.md names every family, and the first name of each group of sizes."""
    page = PAGE.with_name("towers.md").read_text(encoding="utf-8")
    families = (
        "efficientnet-lite0",
        "vit",
        "clip",
        "siglip",
        "siglip2",
        "dinov2",
        "dinov3",
        "hf-vit",
        "convnext",
        "bit",
        "mixer",
    )
    for name in (*families, "timm-vit", "siglip2-naflex"):
        assert f"`{name}`" in page
        assert name in towers.TOWERS
