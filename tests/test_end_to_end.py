"""The default path: twelve coloured squares through both stages and both evaluations, offline."""

import inspect
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from schemas.store import open_store
from trainer.evaluate import main as evaluate
from trainer.train import main as train


@pytest.fixture(scope="module")
def run(colour_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small text transformer, tuned from scratch to the squares' embeddings."""
    folder = tmp_path_factory.mktemp("run")
    status = train(
        [
            *("--store", str(colour_store), "--tower-id", "stand-in", "--text-tower", "transformer"),
            *("--text-width", "32", "--text-depth", "1", "--text-heads", "2", "--vocab-size", "300"),
            *("--loss", "softmax", "--batch-size", "12", "--steps", "150", "--learning-rate", "1e-2"),
            *(
                "--max-text-length",
                "8",
                "--seed",
                "0",
                "--spool-dir",
                f"{folder}/spool",
                "--output",
                f"{folder}/run",
            ),
        ]
    )
    assert status == 0
    return folder / "run"


def test_every_caption_finds_its_square(run: Path, colour_store: Path, tmp_path: Path) -> None:
    report = tmp_path / "retrieval.json"
    flags = [
        "--run",
        str(run),
        "--store",
        str(colour_store),
        "--tower-id",
        "stand-in",
        "--output",
        str(report),
    ]
    assert evaluate(["retrieval", *flags]) == 0
    found = json.loads(report.read_text())
    for direction in ("i2t", "t2i"):
        assert [found[direction][name] for name in ("r1", "r5", "r10")] == [1.0, 1.0, 1.0]
    assert (found["n_images"], found["n_captions"]) == (12, 12)
    manifest = open_store(str(colour_store)).images("stand-in").manifest
    assert (found["space_id"], found["content_id"]) == (manifest.space_id, manifest.content_id)
    assert found["checkpoint_step"] == 150


def test_every_square_finds_its_name(
    run: Path, colour_store: Path, colour_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "classes.json").write_text(json.dumps([row["caption"] for row in colour_rows]))
    (tmp_path / "templates.txt").write_text("{}\n")
    report = tmp_path / "zero_shot.json"
    flags = [
        "--run",
        str(run),
        "--store",
        str(colour_store),
        "--tower-id",
        "stand-in",
        "--output",
        str(report),
    ]
    files = ["--classes", str(tmp_path / "classes.json"), "--templates", str(tmp_path / "templates.txt")]
    assert evaluate(["zero-shot", *flags, *files]) == 0
    found = json.loads(report.read_text())
    assert (found["top1"], found["top5"], found["mean_per_class"], found["n"]) == (1.0, 1.0, 1.0, 12)


def test_a_store_of_another_space_is_refused(
    run: Path, tmp_path: Path, colour_rows: list[dict[str, Any]], write_rows: Any, embed: Any, capsys: Any
) -> None:
    write_rows(tmp_path / "input" / "x.parquet", colour_rows)
    flags = [
        "--input",
        str(tmp_path / "input"),
        "--format",
        "parquet",
        "--resize",
        "full",
        "--tower-id",
        "stand-in",
    ]
    assert embed(*flags, "--output", str(tmp_path / "store")) == 0
    report = tmp_path / "report.json"
    flags = [
        "--run",
        str(run),
        "--store",
        str(tmp_path / "store"),
        "--tower-id",
        "stand-in",
        "--output",
        str(report),
    ]
    assert evaluate(["retrieval", *flags]) == 2
    assert "space_id" in capsys.readouterr().err
    assert not report.exists()


def test_cached_training_is_the_one_stage_training(
    tmp_path: Path, colour_rows: list[dict[str, Any]], write_rows: Any
) -> None:
    """The first five losses of a run on the cache are those of a run with the image tower inside the step."""
    from lit_precompute.config import TowerConfig
    from lit_precompute.decode import DecodeLimits, decode
    from lit_precompute.towers import load_tower
    from pipelines.embed import main as lit_embed
    from trainer.config import LossConfig
    from trainer.data.batches import Batch
    from trainer.losses import split_keys
    from trainer.optim.optimizer import OptimizerConfig, make_optimizer, make_schedule
    from trainer.step import add_scale, init_state, make_step
    from trainer.text_towers import TextTowerConfig, build_text_tower

    tower_flags = ["--tower", "vit-mu-16", "--image-size", "32", "--checkpoint", "random:3"]
    write_rows(tmp_path / "input" / "x.parquet", colour_rows)
    status = lit_embed(
        [
            *("--input", str(tmp_path / "input"), "--format", "parquet", "--tower-id", "vit", *tower_flags),
            *("--dtype", "float32", "--batch-size", "5", "--output", str(tmp_path / "store")),
        ]
    )
    assert status == 0
    (part,) = open_store(str(tmp_path / "store")).images("vit").iter_joined(["captions"])
    rows = {row["key"]: row for row in colour_rows}
    captions = [rows[id]["caption"] for id in part.ids.to_pylist()]

    tower = load_tower(TowerConfig("vit-mu-16", "random:3", image_size=32))
    pixels = np.stack(
        [tower.preprocess(decode(rows[id]["image"], DecodeLimits())) for id in part.ids.to_pylist()]
    )
    text = build_text_tower(
        TextTowerConfig(text_tower="transformer", text_width=16, text_depth=1, text_heads=2, vocab_size=300),
        tower.info.embedding_dim,
        jax.random.key(0),
        lambda: captions,
        8,
    )
    config, loss = OptimizerConfig(learning_rate=1e-2), LossConfig()
    params = add_scale(text.params, loss)
    optimizer = make_optimizer(config, params, 5)
    step = make_step(
        lambda params, tokens, key: text.embed(params, tokens),
        loss,
        optimizer,
        make_schedule(config, 5),
        0,
        1,
    )
    uncompiled = inspect.unwrap(step)
    one_stage = jax.jit(
        lambda state, batch, pixels: uncompiled(
            state, batch._replace(image_embeddings=tower.forward(tower.params, pixels))
        )
    )
    keys = split_keys(np.arange(12, dtype=np.uint64))
    batch = Batch(part.embeddings[:, 0], text.tokenizer(captions, 8), keys, keys)
    cached, uncached = init_state(params, optimizer), init_state(params, optimizer)
    losses: list[tuple[float, float]] = []
    for _ in range(5):
        cached, ours = step(cached, batch)
        uncached, theirs = one_stage(uncached, batch, pixels)
        losses.append((float(ours["loss"]), float(theirs["loss"])))
    np.testing.assert_allclose(*zip(*losses, strict=True), rtol=1e-4)
    assert losses[0][0] > 1.05 * losses[-1][0]  # five steps did something
