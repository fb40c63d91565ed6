"""Published text towers through lit-train: trained whole, head alone, in microbatches, resumed, evaluated."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from trainer import evaluate, export
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
        ("modernbert", "hf/text_modernbert", "bert_uncased", 8, "a new head"),
        ("xlm-roberta", "hf/text_xlm_roberta", "xlmr_spm", 8, "a new head"),
    ],
)
def test_a_head_alone(flags, tmp_path: Path, capsys, family, folder, tokenizer, dim, head) -> None:
    more = ("--train", "head", "--checkpoint-every", "1")
    command = flags("frozen", family, folder, tokenizer, dim, *more)
    assert main(command) == 0
    assert f"{head} on a frozen backbone" in capsys.readouterr().out
    assert (tmp_path / "frozen" / "frozen.safetensors").is_file()
    assert _change(tmp_path / "frozen", family) > 1e-4
    kept = json.loads((tmp_path / "frozen" / "text_tower.json").read_text())
    assert kept["head"]["origin"] == ("checkpoint" if family == "siglip" else "new")
    evaluated_and_exported(tmp_path / "frozen", command[1], tmp_path)


def evaluated_and_exported(run: Path, store: str, folder: Path) -> None:
    """Both evaluations of a text tower say what its vectors say, and the run leaves the house."""
    tower = load_run(run).text_tower
    texts = np.asarray(jax.jit(tower.embed)(tower.params, tower.tokenizer(CAPTIONS, 16)))
    texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    found = np.argmax(
        texts[:, : len(CAPTIONS)], axis=0
    )  # images are the axes: which caption is nearest to each
    share = float(np.mean(found == np.arange(len(CAPTIONS))))
    assert evaluate.main(["retrieval", "--run", str(run), "--store", store]) == 0
    assert json.loads((run / "evaluations" / "retrieval.json").read_text())["i2t"]["r1"] == pytest.approx(
        share
    )
    (folder / "classes.json").write_text(json.dumps(CAPTIONS))
    (folder / "labels.json").write_text(json.dumps({text: [number] for number, text in enumerate(CAPTIONS)}))
    lists = ["--classes", str(folder / "classes.json"), "--labels", str(folder / "labels.json")]
    assert evaluate.main(["zero-shot", "--run", str(run), "--store", store, *lists]) == 0
    assert json.loads((run / "evaluations" / "zero-shot.json").read_text())["top1"] == pytest.approx(share)
    out = folder / "hf"
    assert export.main([str(run), "--output", str(out), "--format", "hf", "--no-latency"]) == 0
    assert (out / "model.safetensors").is_file()
    card = (out / "README.md").read_text()
    assert f"| retrieval | image → text r1 | {100 * share:.1f}" in card  # the run's own reports, unasked


def test_rows_of_another_length_are_refused(flags, capsys) -> None:
    siglip = ("siglip", "hf/text_siglip", "siglip_spm", 32, "--max-text-length", "12")
    assert main(flags("short", *siglip)) == 2
    assert "Set --max-text-length 16" in capsys.readouterr().err
