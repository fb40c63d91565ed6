"""`lit-eval --model`: published dual encoders on stores embedded with their own image towers, without training."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pipelines.embed import main as embed
from schemas.store import open_store
from trainer.evals.published_figures import published_figures
from trainer.evaluate import main as evaluate
from trainer.text_towers.published import load_text_side


@pytest.fixture(scope="module")
def store_of(tmp_path_factory: pytest.TempPathFactory, colour_rows: Any, write_rows: Any) -> Any:
    """`store_of(tower, checkpoint) -> path`: the twelve squares through a published image tower."""

    def make(tower: str, checkpoint: Path, *more: str) -> str:
        folder = tmp_path_factory.mktemp("published")
        write_rows(folder / "squares.parquet", colour_rows)
        flags = ["--input", f"{folder}/squares.parquet", "--format", "parquet", "--output", f"{folder}/store"]
        tower_flags = ["--tower", tower, "--checkpoint", str(checkpoint), "--dtype", "float32"]
        assert embed([*flags, *tower_flags, "--label-column", "label", *more]) == 0
        return f"{folder}/store"

    return make


def tokenizer_of(golden_dir: Path, model: str, pieces: Path | None = None) -> str:
    tokenizers, fonts = golden_dir / "tokenizers", golden_dir / "clippo_render"
    if "clippo" in model:
        return f"{fonts / 'synthetic.hex'},{fonts / 'synthetic_upper.hex'}"
    if "two_towers/siglip" in model:
        return f"siglip:{pieces}"
    if "bert" in model:
        return str(tokenizers / "reference" / "bert_vocab.txt")
    return str(tokenizers / ("siglip_spm" if "siglip" in model else "clip_bpe"))


MODELS = [
    ("hf/dual_clip", "clip", []),
    ("two_towers/lit_bert_24_24.params.npz", "vit", ["--model-text-heads", "2"]),  # with an image head
    ("hf/dual_siglip", "siglip", []),
    ("two_towers/siglip_none_32.params.npz", "vit", []),
    ("one_tower/clippo_map_24.params.npz", "vit", []),
]


@pytest.mark.parametrize(("model", "tower", "flags"), MODELS)
def test_recall_is_that_of_the_two_halves_put_together(
    golden_dir: Path, tmp_path: Path, store_of: Any, pieces: Path, model: str, tower: str, flags: list[str]
) -> None:
    path, tokenizer = golden_dir / model, tokenizer_of(golden_dir, model, pieces)
    store = store_of(tower, path)
    report = tmp_path / "retrieval.json"
    command = ["--model", str(path), "--model-tokenizer", tokenizer, *flags, "--store", store]
    assert evaluate(["retrieval", *command, "--output", str(report)]) == 0
    found = json.loads(report.read_text())

    images, captions = [], []
    folder = open_store(store).images(open_store(store).tower_ids()[0])
    for part in folder.iter_joined(columns=("captions",)):
        images.append(part.embeddings[:, 0])
        captions += [row[0]["text"] for row in part.pairs.column("captions").to_pylist()]
    side = load_text_side(str(path), tokenizer=tokenizer, text_heads=2 if flags else None)
    tokens = side.tower.tokenizer(captions, side.tower.max_text_length)
    texts = np.asarray(jax.jit(side.tower.embed)(side.tower.params, tokens))
    similarity = unit(np.concatenate(images)) @ unit(texts).T
    place = (similarity >= np.diag(similarity)[:, None]).sum(axis=1) - 1
    assert found["i2t"]["r5"] == pytest.approx(np.mean(place < 5), abs=1e-6)
    assert found["model"] == path.name
    assert found["space_id"] == folder.manifest.space_id
    assert found["n_images"] == 12
    assert "published" in found
    assert found["standard_error"]["i2t"].keys() == {"r1", "r5", "r10"}


def test_the_authors_figures_stand_beside_the_measured_ones(
    golden_dir: Path, tmp_path: Path, store_of: Any, capsys: Any
) -> None:
    path = tmp_path / "LiT-B16B_2.npz"  # a tiny file of a released name
    shutil.copy(golden_dir / "two_towers" / "lit_bert_none_32.params.npz", path)
    (tmp_path / "classes.json").write_text(json.dumps([f"colour {number}" for number in range(12)]))
    command = [
        "--model",
        str(path),
        "--model-tokenizer",
        tokenizer_of(golden_dir, "bert"),
        "--model-text-heads",
        "2",
    ]
    places = ["--store", store_of("vit", path), "--output", str(tmp_path / "report.json")]
    assert evaluate(["zero-shot", *command, *places, "--classes", str(tmp_path / "classes.json")]) == 0
    assert "Published for this model: ImageNet top-1 73.9 %" in capsys.readouterr().out
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["published"]["COCO T→I R@1"] == 31.8
    assert found["n"] == 12
    assert found["standard_error"].keys() == {"top1", "top5", "mean_per_class"}


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_store_of_another_tower_is_refused(
    golden_dir: Path, colour_store: Path, tmp_path: Path, capsys: Any
) -> None:
    command = ["--model", str(golden_dir / "hf" / "dual_clip"), "--store", str(colour_store)]
    tokenizer = ["--model-tokenizer", tokenizer_of(golden_dir, "clip"), "--output", str(tmp_path / "r.json")]
    assert evaluate(["retrieval", *command, *tokenizer]) == 2
    assert "must be embedded with the image tower of the same file" in capsys.readouterr().err


def test_a_store_without_the_image_head_is_refused(
    golden_dir: Path, tmp_path: Path, store_of: Any, capsys: Any
) -> None:
    path = golden_dir / "hf" / "dual_clip"
    store = store_of("clip", path, "--features", "pre-head")
    tokenizer = ["--model-tokenizer", tokenizer_of(golden_dir, "clip"), "--output", str(tmp_path / "r.json")]
    assert evaluate(["retrieval", "--model", str(path), "--store", store, *tokenizer]) == 2
    assert "after its image head" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "must be given one of the two, found neither"),
        (["--run", "r", "--model", "m"], "must be given one of the two, found both"),
        (["--model", "m", "--split", "heldout"], "belong to a --run"),
        (["--model", "m"], "--output: must be given"),
    ],
)
def test_what_does_not_go_together_is_refused(flags: list[str], message: str, capsys: Any) -> None:
    assert evaluate(["retrieval", "--store", "s", *flags]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_published_figures_are_found_by_the_files_name() -> None:
    assert published_figures("LiT-B16B_2.npz")["ImageNet top-1"] == 73.9
    assert published_figures("LiT-L16L.npz")["COCO I→T R@1"] == 48.5
    assert "Pets top-1" not in published_figures("coco_B16B.npz")
    assert published_figures("mine.npz") == {}
    assert published_figures("google/siglip-base-patch16-224")["ImageNet top-1"] == 76.2
    assert published_figures("webli_en_so400m_384_58765454.npz")["COCO T→I R@1"] == 52.0
    assert published_figures("openai/clip-vit-base-patch16")["COCO I→T R@1"] == 52.4
