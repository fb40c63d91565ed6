"""The walk of docs/swapping-the-backbone.md: a second image tower on the same pairs, its text tower from the first."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pipelines.embed import main as embed
from schemas.store import open_store
from trainer.evaluate import main as evaluate
from trainer.run_directory import load_run
from trainer.train import main as train


def checksums(folder: Path) -> dict[str, str]:
    """sha256 by path, of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_second_tower_on_the_same_pairs(
    tmp_path: Path,
    colour_rows: list[dict[str, Any]],
    write_rows: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    store, run_a, run_b = tmp_path / "store", tmp_path / "run-a", tmp_path / "run-b"
    write_rows(tmp_path / "squares" / "x.parquet", colour_rows)

    def embed_with(tower_id: str, seed: int) -> int:
        tower = ("--tower", "vit-mu-16", "--image-size", "32", "--checkpoint", f"random:{seed}")
        source = ("--input", f"{tmp_path}/squares", "--format", "parquet", "--output", str(store))
        return embed([*source, *tower, "--tower-id", tower_id, "--dtype", "float32"])

    def train_on(tower_id: str, output: Path, *more: str) -> int:
        places = ("--store", str(store), "--tower-id", tower_id, "--output", str(output))
        usual = ("--batch-size", "12", "--steps", "8", "--learning-rate", "1e-2", "--no-tensorboard")
        return train([*places, *usual, "--spool-dir", f"{tmp_path}/spool", *more])

    def retrieval(run: Path, tower_id: str) -> int:
        return evaluate(["retrieval", "--run", str(run), "--store", str(store), "--tower-id", tower_id])

    small = ("--text-width", "16", "--text-depth", "1", "--text-heads", "2", "--vocab-size", "300")
    assert embed_with("tower-a", 0) == 0
    assert train_on("tower-a", run_a, *small, "--max-text-length", "8") == 0
    assert retrieval(run_a, "tower-a") == 0
    before, images_before = checksums(store / "pairs"), checksums(store / "images")

    assert embed_with("tower-b", 1) == 0
    assert checksums(store / "pairs") == before
    assert len(before) == 3  # manifest, list of parts, the part
    assert sorted(path.name for path in (store / "images").iterdir()) == ["tower-a", "tower-b"]
    after = checksums(store / "images")
    assert {
        name: digest for name, digest in after.items() if not name.startswith("tower-b/")
    } == images_before
    spaces = [open_store(str(store)).images(name).manifest.space_id for name in ("tower-a", "tower-b")]
    assert spaces[0] != spaces[1]

    capsys.readouterr()
    assert evaluate(["align", "--store", str(store), "--neighbours", "3"]) == 0
    said = capsys.readouterr().out
    assert "12 images" in said
    assert {line.split()[0] for line in said.splitlines()[2:]} == {"tower-a", "tower-b"}

    assert train_on("tower-b", run_b, "--init", str(run_a), "--train", "head") == 0
    told = capsys.readouterr().out
    assert f"text tower: that of {run_a} after step 8" in told
    assert "a new head on a frozen backbone" in told
    ours, theirs = load_run(run_b), load_run(run_a)
    assert (ours.space_id, theirs.space_id) == (spaces[1], spaces[0])
    for one, other in zip(
        jax.tree.leaves(ours.text_tower.params["backbone"]),
        jax.tree.leaves(theirs.text_tower.params["backbone"]),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert ours.text_tower.tokenizer.digest == theirs.text_tower.tokenizer.digest
    assert retrieval(run_b, "tower-b") == 0

    capsys.readouterr()
    assert evaluate(["table", str(run_a), str(run_b)]) == 0
    table = capsys.readouterr().out
    assert "| evaluation | figure | run-a | run-b |" in table
    assert "retrieval: the runs differ in" in table
    assert "image tower (space_id)" in table
    for run, space in zip((run_a, run_b), spaces, strict=True):
        report = json.loads((run / "evaluations" / "retrieval.json").read_text())
        assert (report["space_id"], report["n_images"], report["checkpoint_step"]) == (space, 12, 8)
