"""`lit-store plan`: arithmetic that can be done by hand."""

import json
import shutil
from pathlib import Path

import pytest

from pipelines.store.command import main
from pipelines.store.estimate import EstimateConfig, Rates, lines, rates_of


def test_given_figures_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--images", "1_000_000", "--embedding_dim", "768", "--images-per-second", "250"]
    assert main(["plan", *flags, "--workers", "4", "--mean-image-bytes", "50000"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:8] == [
        "images     1,000,000",
        "vectors    1.6 GB = 1,000,000 x 1,590.0 bytes (768 x float16)",  # 768 x 2 + 32 + 4 + 2 + 16
        "pairs      120.0 MB = 1,000,000 x 120.0 bytes",
        "store      1.7 GB",
        "input      50.0 GB = 1,000,000 x 50,000 bytes",
        "work       1.11 worker hours at 250.0 images/s",  # 1e6 / 250 / 3600
        "time       16 m 40 s with 4 workers",  # 1e6 / 250 / 4 = 1,000 s
        "reading    50.0 MB/s in all",  # 50,000 x 250 x 4
    ]


def test_views_multiply_vectors_and_work_and_not_texts() -> None:
    config = EstimateConfig(images=100, embedding_dim=1, views=4)
    found = lines(config, Rates(1, "float32", 10.0, 7.0, 2.0, 3.0))
    assert "vectors    4.0 kB = 400 x 10.0 bytes (1 x float32)" in found
    assert "pairs      700 B = 100 x 7.0 bytes" in found
    assert "work       0.06 worker hours at 2.0 images/s" in found  # 400 / 2 = 200 s
    assert "reading    2 B/s in all" in found  # an image of 3 bytes every 4 passes, 2 passes a second


def test_float32_is_twice_the_vector() -> None:
    half = rates_of(EstimateConfig(images=1, embedding_dim=512))
    full = rates_of(EstimateConfig(images=1, embedding_dim=512, dtype="float32"))
    assert full.embedding_row - half.embedding_row == 1024


def test_measured_figures_of_a_store(
    colour_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = shutil.copytree(colour_store, tmp_path / "store")
    run = json.loads((store / "images/stand-in/run.json").read_text())
    assert run["images"] == 12  # written by lit-embed
    assert run["images_per_second"] == pytest.approx(12 / run["seconds"], rel=1e-2)
    (store / "images/stand-in/run.json").write_text(json.dumps(run | {"images": 12, "seconds": 4.0}))
    rates = rates_of(EstimateConfig(images=1, store=str(store)))
    embeddings = sum(path.stat().st_size for path in store.glob("images/stand-in/embeddings-*"))
    pairs = sum(path.stat().st_size for path in store.glob("pairs/pairs-*"))
    inputs = sum(path.stat().st_size for path in (colour_store.parent / "input").iterdir())
    assert (rates.embedding_dim, rates.dtype, rates.images_per_second) == (8, "float32", 3.0)
    assert (rates.embedding_row, rates.pairs_row, rates.image_bytes) == (
        embeddings / 12,
        pairs / 12,
        inputs / 12,
    )
    given = rates_of(EstimateConfig(images=1, store=str(store), images_per_second=9.0, embedding_dim=16))
    assert (given.images_per_second, given.embedding_row) == (9.0, 16 * 4 + 54)  # the store's own dtype
    (store / "images/stand-in/run.json").write_text("{}")
    assert main(["plan", "--images", "9", "--store", str(store), "--tower-id", "stand-in"]) == 0
    assert "time       unknown: give --images-per-second" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images", "9"], "--embedding-dim: must be given, or a --store to take it from; found neither"),
        (["--images", "0", "--embedding-dim", "8"], "--images: must be above 0, found 0"),
        (
            ["--images", "9", "--embedding-dim", "8", "--images-per-second", "0"],
            "--images-per-second: must be",
        ),
        (["--images", "9", "--embedding-dim", "8", "--tower-id", "t"], "must come with the --store"),
        (["--images", "9", "--store", "nowhere"], "found nothing at nowhere"),
    ],
)
def test_refusals(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *flags]) == 2
    printed = capsys.readouterr()
    assert message in " ".join((printed.err + printed.out).split())


def test_a_store_of_several_towers_must_be_told_which(
    colour_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = shutil.copytree(colour_store, tmp_path / "store")
    shutil.copytree(store / "images/stand-in", store / "images/other")
    assert main(["plan", "--images", "9", "--store", str(store)]) == 2
    assert "must name one tower" in capsys.readouterr().err
