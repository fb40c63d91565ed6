"""The lines of docs/python-api.md run as they are written."""

import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from lit_precompute.config import TowerConfig
from lit_precompute.towers import describe_tower
from trainer.checkpoint import Checkpoints
from trainer.config import DataConfig, LossConfig, TrainConfig
from trainer.run_directory import Provenance, begin_run
from trainer.step import TrainState
from trainer.text_towers import TextTowerConfig, build_text_tower

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python-api.md"
TINY = TextTowerConfig(text_width=8, text_depth=1, text_heads=2, text_mlp=8, vocab_size=64)


def write_run(path: Path, space_id: str, dim: int) -> None:
    """A run of a text tower that was never trained."""
    texts = ["a photo of a cat", "a drawing of a dog", "a bus"]
    tower = build_text_tower(TINY, dim, jax.random.key(0), lambda: texts, 8)
    config = TrainConfig(DataConfig(store=("store",)), str(path), text=TINY, loss=LossConfig("sigmoid"))
    provenance = Provenance(space_id, "content", ("{}",), tower.tokenizer.digest, "backbone", 3)
    begin_run(path, config, provenance, tower)
    checkpoints = Checkpoints(path / "checkpoints")
    scale = {"log_scale": np.float32(2), "bias": np.float32(-5)}
    checkpoints.save(TrainState({**tower.params, **scale}, {"count": np.zeros(())}, np.int32(1)))
    checkpoints.close()


@pytest.fixture
def folder(golden_dir, tmp_path, monkeypatch) -> Path:
    """The folder the page speaks of."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(golden_dir / "vit" / "gap.params.npz", tmp_path / "vit.npz")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    info = describe_tower(TowerConfig(tower="vit", checkpoint="vit.npz"))
    write_run(tmp_path / "RUN", info.space_id, info.embedding_dim)
    return tmp_path


def test_the_page_runs_from_top_to_bottom(folder):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 5
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["images"].shape == (1, 24)
    np.testing.assert_allclose(np.linalg.norm(names["texts"], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(names["logits"], np.exp(2) * names["cosines"] - 5, rtol=1e-6)
    assert names["probabilities"].shape == (1, 3)
    assert names["answer"] in ("cat", "dog", "bus")
