"""Manifests: the golden one reads, writes back the same, and edited ones are refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from schemas.manifest import (
    ImagesManifest,
    PairsManifest,
    PartEntry,
    TowerInfo,
    content_digest,
    parts_from_table,
    parts_to_table,
)

TOWER = TowerInfo(
    tower="efficientnet-lite0",
    architecture={"family": "efficientnet-lite", "variant": "lite0"},
    weights="5793442" + "4" * 57,
    features="pooled",
    preprocessing={"family": "pillow", "image_size": 224, "resize": "crop", "mean": 127.0},
    embedding_dim=1280,
)


def test_the_golden_manifests_read_and_write_back_the_same(golden_dir: Path) -> None:
    """Stores of the past must open; a changed field name, digest rule or version shows here."""
    text = (golden_dir / "store" / "images_manifest.json").read_text()
    manifest = ImagesManifest.from_json(text)
    assert manifest.to_json() == text
    assert manifest.tower == TOWER
    assert manifest.space_id == TOWER.space_id
    assert manifest.embedding_dim == 1280
    assert manifest.counts["seen"] == sum(
        manifest.counts[name] for name in ("embedded", "failed", "duplicate")
    )
    text = (golden_dir / "store" / "pairs_manifest.json").read_text()
    assert PairsManifest.from_json(text).to_json() == text


def test_space_id_is_of_what_decides_the_vectors() -> None:
    assert replace(TOWER, tower="another-name").space_id == TOWER.space_id
    for change in (
        {"weights": "random:0"},
        {"features": "pre-head"},
        {"embedding_dim": 1},
        {"architecture": {}},
        {"preprocessing": {**TOWER.preprocessing, "resize": "full"}},
    ):
        assert replace(TOWER, **change).space_id != TOWER.space_id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "format must be 'lit-precompute/images', found 'other'"),
        ({"version": 2}, "reads version 1, found 2"),
        ({"space_id": "0" * 64}, "The manifest was edited"),
        ({"surprise": 1}, "unknown fields surprise"),
        ({"dtype": None}, "must have dtype"),
    ],
)
def test_edited_manifests_are_refused(golden_dir: Path, change: dict, message: str) -> None:
    body = json.loads((golden_dir / "store" / "images_manifest.json").read_text()) | change
    body = {name: value for name, value in body.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        ImagesManifest.from_json(json.dumps(body))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"null", b'{"format": "lit-precompute/images"}'])
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"where\.json: "):
        ImagesManifest.from_json(text, "where.json")


def test_part_entries_come_back_and_hold_bare_names() -> None:
    parts = [
        PartEntry("pairs-g000-00000.parquet", "g000-00000", 4, 100, "ab", "cd"),
        PartEntry(
            "embeddings-g000-00000.parquet", "g000-00000", 3, 200, "ef", "01", "pairs-g000-00000.parquet"
        ),
    ]
    assert parts_from_table(parts_to_table(parts)) == parts
    for name in ("../x.parquet", "/etc/passwd", "a\\b", ".hidden"):
        with pytest.raises(ValueError, match="bare file name"):
            replace(parts[0], name=name)
        with pytest.raises(ValueError, match="bare file name"):
            replace(parts[1], pairs_part=name)


def test_content_digest_is_of_rows_and_order_not_of_files() -> None:
    one = PartEntry("a", "g000-00000", 1, 100, "x", "content-1")
    two = PartEntry("b", "g000-00001", 1, 100, "y", "content-2")
    assert content_digest([one, two]) == content_digest([replace(one, sha256="z", bytes=5), two])
    assert len({content_digest(parts) for parts in ([one, two], [two, one], [one], [])}) == 4
    assert content_digest([one], "pairs") != content_digest([one])
