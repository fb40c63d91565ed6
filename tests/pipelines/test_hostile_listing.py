"""A listing by somebody who means harm: what it may not reach, and what must not be kept of it."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.store.command import main as lit_store
from tests.pipelines.stores import manifest_of, rows_of

SECRETS = ("hunter2", "sig4711")
USER = "http://me:hunter2@127.0.0.1:9"


@pytest.fixture
def listing(tmp_path: Path, colour_rows: list[dict[str, Any]]) -> Path:
    """JSON lines beside three images, one of which lies outside of their folder."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, row in (("a", 0), ("b", 1)):
        (photos / f"{name}.png").write_bytes(colour_rows[row]["image"])
    (tmp_path / "outside.png").write_bytes(colour_rows[2]["image"])
    markup = "<script>alert(1)</script><img src=x onerror=alert(2)> & \u202e \x1b[31m"
    images = [
        "a.png",
        "b.png",
        "../outside.png",
        f"{tmp_path}/outside.png",
        f"file://{tmp_path}/outside.png",
        f"FILE:{tmp_path}/outside.png",
        f"simplecache::file://{tmp_path}/outside.png",
        "zip://a.png::http://127.0.0.1/x.zip",
        "%2e%2e/outside.png",
        f"{USER}/x.jpg?sig=sig4711",
        "http://localhost:9/x.jpg",
        "http://[::1]:9/x.jpg",
        "http://169.254.169.254/latest/meta-data/",
        "http://2130706433/x.jpg",
        "gs://bucket/x.jpg",
    ]
    rows = [
        {"id": f"{image}#{n}", "image": image, "caption": markup, "source": f"{USER}/page?sig=sig4711"}
        for n, image in enumerate(images)
    ]
    path = photos / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_only_what_lies_below_the_root_is_read_and_no_secret_is_kept(
    listing: Path,
    tmp_path: Path,
    embed: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, page = tmp_path / "store", tmp_path / "store.html"
    with caplog.at_level(logging.DEBUG):
        status = embed(
            *("--input", listing, "--format", "listing", "--id-column", "id", "--metadata-columns", "source"),
            *("--allow-protocols", "http", "--max-failure-rate", "1", "--tower-id", "t", "--output", store),
        )
        assert status == 0
        assert lit_store(["inspect", str(store), "--html", str(page)]) == 0
        assert lit_store(["verify", str(store)]) == 0
    assert list(rows_of(store)) == ["a.png#0", "b.png#1"]
    assert dict(manifest_of(store).failures) == {"refused": 13}
    printed = capfd.readouterr()
    texts = [printed.out, printed.err, caplog.text, page.read_text()]
    kept = [path.read_bytes() for path in store.rglob("*") if path.is_file()]
    for secret in SECRETS:
        assert not [text for text in texts if secret in text]
        assert not [data for data in kept if secret.encode() in data]
    assert not [text for text in texts if "\x1b[31m" in text]
    assert "<script>alert" not in texts[3]
    assert "<img src=x" not in texts[3]


def test_secrets_are_not_hidden_by_compression(
    listing: Path, tmp_path: Path, embed: Callable[..., int]
) -> None:
    """The tables themselves, where zstd would hide a text from a search of bytes."""
    import pyarrow.parquet as pq

    store = tmp_path / "store"
    assert (
        embed(
            *("--input", listing, "--format", "listing", "--id-column", "image"),
            *("--metadata-columns", "source", "image", "--max-failure-rate", "1"),
            *("--tower-id", "t", "--output", store),
        )
        == 0
    )
    tables = {
        path.name: pq.read_table(path).drop_columns(["embedding"] if "embeddings" in path.name else [])
        for path in store.rglob("*.parquet")
    }
    assert "127.0.0.1" in str(tables["pairs-g000-00000.parquet"].to_pylist())
    for table in tables.values():
        assert not [secret for secret in SECRETS if secret in str(table.to_pylist())]
