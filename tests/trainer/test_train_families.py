"""Published text towers through lit-train: trained whole, head alone, in microbatches, resumed, evaluated."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from trainer.checkpoint import read_params
from trainer.run_directory import load_run
from trainer.train import main

pytestmark = pytest.mark.usefixtures("compiled_once")
CAPTIONS = ("a cat", "a dog on the beach", "two red birds", "the sea", "a tree in snow", "an old car")


@pytest.fixture
def flags(write_store, row, golden_dir: Path, tmp_path: Path):
    """A command line for a golden checkpoint and a store of its head's dimension."""

    def make(output: str, family: str, folder: str, tokenizer: str, dim: int, *more: str) -> list[str]:
        store = tmp_path / f"store-{dim}"
        if not store.exists():
            rows = [row(text, [np.eye(dim)[i].tolist()], (text,)) for i, text in enumerate(CAPTIONS)]
            write_store([rows], name=store.name)
        return [
            *("--store", str(store), "--output", str(tmp_path / output), "--no-tensorboard"),
            *("--spool-dir", str(tmp_path / "spool"), "--text-tower", family),
            *("--text-checkpoint", str(golden_dir / folder)),
            *("--text-tokenizer", str(golden_dir / "tokenizers" / tokenizer)),
            *[
                "--batch-size",
                "4",
                "--steps",
                "2",
                "--learning-rate",
                "1e-2",
                "--max-text-length",
                "16",
                "--log-every",
                "1",
            ],
            *more,
        ]

    return make


def _change(run: Path, family: str) -> float:
    """How far the vectors of a trained run are from those of another number of steps."""
    tower = load_run(run).text_tower
    assert tower.name == family
    embed = jax.jit(tower.embed)
    tokens = tower.tokenizer(CAPTIONS, 16)
    first = read_params(run / "checkpoints", 1)[1]
    before = {"backbone": first.get("backbone", tower.params["backbone"]), "head": first["head"]}
    return float(np.abs(np.asarray(embed(tower.params, tokens)) - np.asarray(embed(before, tokens))).max())


def test_clip_is_trained_whole_in_microbatches_and_goes_on(flags, tmp_path: Path, capsys) -> None:
    run = tmp_path / "whole"
    cut = ("--checkpoint-every", "1", "--microbatch-size", "2", "--text-dropout", "0.1")
    command = flags("whole", "clip", "hf/text_clip", "clip_bpe", 24, *cut)
    assert main(command) == 0
    assert "backbone and the checkpoint's head" in capsys.readouterr().out
    assert _change(run, "clip") > 1e-4
    straight = jax.tree.leaves(read_params(run / "checkpoints", 2)[1])
    shutil.rmtree(run / "checkpoints" / "2")
    (run / "summary.json").unlink()
    assert main(command) == 0
    assert "going on after step 1" in capsys.readouterr().out
    for ours, theirs in zip(jax.tree.leaves(read_params(run / "checkpoints", 2)[1]), straight, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("family", "folder", "tokenizer", "dim", "head"),
    [
        ("siglip", "hf/text_siglip", "siglip_spm", 32, "the checkpoint's head"),
        ("t5", "hf/text_t5_encoder_relu", "t5_spm", 8, "a new head"),
    ],
)
def test_a_head_alone(flags, tmp_path: Path, capsys, family, folder, tokenizer, dim, head) -> None:
    more = ("--train", "head", "--checkpoint-every", "1")
    assert main(flags("frozen", family, folder, tokenizer, dim, *more)) == 0
    assert f"{head} on a frozen backbone" in capsys.readouterr().out
    assert (tmp_path / "frozen" / "frozen.safetensors").is_file()
    assert _change(tmp_path / "frozen", family) > 1e-4
    kept = json.loads((tmp_path / "frozen" / "text_tower.json").read_text())
    assert kept["head"]["origin"] == ("checkpoint" if family == "siglip" else "new")


def test_rows_of_another_length_are_refused(flags, capsys) -> None:
    siglip = ("siglip", "hf/text_siglip", "siglip_spm", 32, "--max-text-length", "12")
    assert main(flags("short", *siglip)) == 2
    assert "Set --max-text-length 16" in capsys.readouterr().err
