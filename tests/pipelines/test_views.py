"""`lit-embed --views`: one decode, V forward passes, the same rows whatever the batches and units."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lit_precompute import pixels
from lit_precompute.decode import DecodeLimits, decode
from lit_precompute.embedder import Embedder
from lit_precompute.preprocess import Preprocess
from lit_precompute.views import Views
from pipelines.store.command import main as lit_store
from schemas.store import open_store
from tests.conftest import hue_features
from tests.pipelines.stores import manifest_of, tables_of

REPO = Path(__file__).resolve().parents[2]
Rows = list[dict[str, Any]]
Embed = Callable[..., int]


@pytest.fixture
def rows() -> Rows:
    """Seven pictures whose every part has colours of its own."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(7):
        blocks = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        file = io.BytesIO()
        blocks.resize((60 + number, 50), Image.Resampling.BILINEAR).save(file, "PNG")
        found.append({"key": f"p-{number}", "image": file.getvalue(), "caption": f"picture {number}"})
    return found


@pytest.fixture
def pictures(tmp_path: Path, rows: Rows, write_rows: Callable[..., Path]) -> Path:
    write_rows(tmp_path / "input" / "a.parquet", rows[:4])
    write_rows(tmp_path / "input" / "b.parquet", rows[4:])
    return tmp_path / "input"


def arguments(source: Path, store: Path, *more: str) -> list[str]:
    places = ["--input", str(source), "--format", "parquet", "--output", str(store), "--tower-id", "t"]
    return [*places, "--unit-bytes", "1", "--batch-size", "5", "--dtype", "float32", *more]


def words(text: str) -> str:
    """A message without the box it is printed in."""
    return " ".join(text.replace("│", " ").split())


def vectors_of(store: Path) -> dict[str, np.ndarray]:
    """[V, D] by id."""
    parts = open_store(str(store)).images("t").iter_joined()
    return {
        id: found for part in parts for id, found in zip(part.ids.to_pylist(), part.embeddings, strict=True)
    }


def test_every_image_has_all_its_views(pictures: Path, tmp_path: Path, rows: Rows, embed: Embed) -> None:
    assert embed(*arguments(pictures, tmp_path / "store", "--views", "3")) == 0
    assert embed(*arguments(pictures, tmp_path / "one")) == 0
    part = pq.read_table(tmp_path / "store" / "images" / "t" / "embeddings-g000-00000.parquet")
    assert part["id"].to_pylist() == [f"p-{n}" for n in range(4) for _ in range(3)]
    assert part["view"].to_pylist() == [0, 1, 2] * 4
    manifest, plain = manifest_of(tmp_path / "store"), manifest_of(tmp_path / "one")
    assert (manifest.views, plain.views) == (3, 1)
    assert (manifest.counts["embedded"], manifest.counts["distinct_images"]) == (7, 7)
    assert manifest.space_id == plain.space_id
    assert manifest.run_id != plain.run_id
    found, alone = vectors_of(tmp_path / "store"), vectors_of(tmp_path / "one")
    for row in rows:
        shown = Views(Preprocess("pillow", 8), 3)(decode(row["image"], DecodeLimits()), row["key"])
        np.testing.assert_allclose(found[row["key"]], hue_features(shown), atol=1e-5)
        np.testing.assert_array_equal(found[row["key"]][0], alone[row["key"]][0])
        assert np.abs(found[row["key"]][1] - found[row["key"]][2]).max() > 1e-3
    assert lit_store(["verify", str(tmp_path / "store")]) == 0


def test_views_do_not_depend_on_batches_units_or_processes(
    pictures: Path, tmp_path: Path, embed: Embed
) -> None:
    wanted = None
    cuts = (["--batch-size", "1"], ["--batch-size", "4"], ["--batch-size", "50", "--unit-bytes", "1000000"])
    for number, flags in enumerate(cuts):
        store = tmp_path / str(number)
        assert embed(*arguments(pictures, store, "--views", "2", *flags)) == 0
        found = vectors_of(store)
        wanted = wanted or found
        assert list(found) == list(wanted)
        for id, vectors in found.items():
            np.testing.assert_array_equal(vectors, wanted[id])


def test_four_views_cost_four_forwards_and_one_decode(
    pictures: Path, tmp_path: Path, stand_in_tower: list[int], embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def counted(image: bytes, *rest: Any) -> Image.Image:
        decoded.append(len(image))
        return decode(image, *rest)

    monkeypatch.setattr(pixels, "decode", counted)
    flags = ["--views", "4", "--batch-size", "7", "--unit-bytes", "1000000"]
    assert embed(*arguments(pictures, tmp_path / "store", *flags)) == 0
    assert len(decoded) == 7
    assert stand_in_tower == [7, 7, 7, 7]


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """View 1 of p-2 is not finite."""
    plain = Embedder.stream_views

    def stream(self: Embedder, images: Any) -> Iterator[Any]:
        for item, vectors in plain(self, images):
            if item.record.id == "p-2":
                vectors[1, 3] = np.nan
            yield item, vectors

    with monkeypatch.context() as patch:
        patch.setattr(Embedder, "stream_views", stream)
        yield patch


def test_an_image_has_all_views_or_none_and_a_retry_brings_all(
    pictures: Path, tmp_path: Path, embed: Embed, spoilt: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    assert embed(*arguments(pictures, store, "--views", "2")) == 0
    assert sorted(vectors_of(store)) == ["p-0", "p-1", "p-3", "p-4", "p-5", "p-6"]
    (failure,) = pq.read_table(store / "images" / "t" / "failures.parquet").to_pylist()
    assert (failure["id"], failure["stage"], failure["reason"]) == ("p-2", "embed", "not_finite")
    assert failure["detail"] == "view 1: 1 components"
    spoilt.undo()
    retry = ["--retry-failed", "--retry-reasons", "not_finite"]
    assert embed(*arguments(pictures, store, "--views", "2", *retry)) == 0
    assert embed(*arguments(pictures, tmp_path / "whole", "--views", "2")) == 0
    found, wanted = vectors_of(store), vectors_of(tmp_path / "whole")
    assert sorted(found) == sorted(wanted)
    for id, vectors in wanted.items():
        np.testing.assert_array_equal(found[id], vectors)
    assert lit_store(["verify", str(store)]) == 0


def test_a_grown_store_equals_one_made_at_once(
    pictures: Path, tmp_path: Path, embed: Embed, write_rows: Callable[..., Path], rows: Rows
) -> None:
    first = tmp_path / "first"
    first.mkdir()
    shutil.copy(pictures / "a.parquet", first)
    assert embed(*arguments(first, tmp_path / "store", "--views", "2")) == 0
    shutil.copy(pictures / "b.parquet", first)
    assert embed(*arguments(first, tmp_path / "store", "--views", "2", "--append")) == 0
    assert embed(*arguments(first, tmp_path / "once", "--views", "2")) == 0
    found, wanted = vectors_of(tmp_path / "store"), vectors_of(tmp_path / "once")
    assert list(found) == list(wanted)
    np.testing.assert_array_equal(np.stack(list(found.values())), np.stack(list(wanted.values())))


def test_what_does_not_go_together_is_refused(
    pictures: Path, tmp_path: Path, embed: Embed, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(*arguments(pictures, tmp_path / "no", "--views", "2", "--dedup-exact")) == 2
    assert "--dedup-exact: must not be given with --views above 1" in words(capsys.readouterr().err)
    assert embed(*arguments(pictures, tmp_path / "no", "--views", "0")) == 2
    assert "--views: must be 1 to 1000, found 0." in words(capsys.readouterr().err)
    assert not (tmp_path / "no").exists()
    assert embed(*arguments(pictures, tmp_path / "store", "--views", "2")) == 0
    before = tables_of(tmp_path / "store")
    assert embed(*arguments(pictures, tmp_path / "store", "--views", "3")) == 2
    assert "views: the store has 2, this command gives 3" in capsys.readouterr().err
    assert tables_of(tmp_path / "store") == before


def test_crops_of_other_rules_do_not_join_a_store(
    pictures: Path,
    tmp_path: Path,
    embed: Embed,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = tmp_path / "store"
    assert embed(*arguments(pictures, store, "--views", "2")) == 0
    assert manifest_of(store).view_rules == 1
    assert lit_store(["verify", str(store)]) == 0  # run_id is reckoned with them
    monkeypatch.setattr("lit_precompute.views.RULES", 2)
    assert embed(*arguments(pictures, store, "--views", "2")) == 2
    assert "view_rules: the store has 1, this command gives 2" in capsys.readouterr().err


def test_a_dry_run_counts_all_views(
    pictures: Path,
    tmp_path: Path,
    stand_in_tower: list[int],
    embed: Embed,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert embed(*arguments(pictures, tmp_path / "no", "--views", "2", "--dry-run")) == 0
    assert "stored     8 x float32, 2 views of each image" in capsys.readouterr().out
    assert sum(stand_in_tower) == 5 + 15  # two views that compile, then fourteen in batches of five


def test_a_text_tower_is_tuned_to_a_store_of_views(pictures: Path, tmp_path: Path, embed: Embed) -> None:
    from trainer.train import main as train

    assert embed(*arguments(pictures, tmp_path / "store", "--views", "2")) == 0
    small = "--text-tower transformer --text-width 16 --text-depth 1 --text-heads 2 --vocab-size 64"
    steps = "--batch-size 7 --steps 30 --learning-rate 1e-2 --max-text-length 8 --seed 0 --log-every 1"
    places = [
        "--store",
        f"{tmp_path}/store",
        "--spool-dir",
        f"{tmp_path}/spool",
        "--output",
        f"{tmp_path}/run",
    ]
    assert train([*places, *small.split(), *steps.split(), "--no-tensorboard"]) == 0
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < 0.8 * losses[0]


SHARDED = """
import sys
import jax
from lit_precompute.embedder import Embedder

dispatch = Embedder._dispatch

def watched(self, batch):
    vectors = dispatch(self, batch)
    shards = sorted(shard.data.shape[0] for shard in vectors.addressable_shards)
    print("batch", len(batch), "on", len(vectors.devices()), "devices:", shards)
    return vectors

Embedder._dispatch = watched
from pipelines.embed import main
sys.exit(main(sys.argv[1:]))
"""


def test_several_devices_share_every_batch_and_give_the_same_vectors(pictures: Path, tmp_path: Path) -> None:
    """A real network, in a process with four devices and in one with one."""
    (tmp_path / "sharded.py").write_text(SHARDED)
    tower = ["--tower", "vit-mu-16", "--checkpoint", "random:0", "--image-size", "32", "--views", "2"]
    said = {}
    for devices in (1, 4):
        done = subprocess.run(
            [
                sys.executable,
                str(tmp_path / "sharded.py"),
                *arguments(pictures, tmp_path / str(devices)),
                *tower,
            ],
            env={
                **os.environ,
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                "JAX_PLATFORMS": "cpu",
                "PYTHONPATH": str(REPO),
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        said[devices] = [line for line in done.stdout.splitlines() if line.startswith("batch")]
    # 8 and 6 views of two units; batches of five are rounded up to eight
    assert said[1] == ["batch 5 on 1 devices: [5]"] * 4
    assert said[4] == ["batch 8 on 4 devices: [2, 2, 2, 2]"] * 2
    one, four = vectors_of(tmp_path / "1"), vectors_of(tmp_path / "4")
    assert list(one) == list(four)
    for id, vectors in one.items():
        np.testing.assert_allclose(four[id], vectors, rtol=0, atol=2e-6 * np.abs(vectors).max())
