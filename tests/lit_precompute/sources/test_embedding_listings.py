"""Listings and caption files through the whole of `lit-embed`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from schemas.store import open_store


@pytest.fixture
def images(tmp_path: Path, colour_rows: list[dict[str, Any]]) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for row in colour_rows:
        (folder / f"{row['key']}.png").write_bytes(row["image"])
    return folder


def captions_of(store: Path) -> dict[str, list[str]]:
    """By id, of everything that was embedded."""
    (part,) = open_store(str(store)).images("t").iter_joined(("captions",))
    texts = [[caption["text"] for caption in row] for row in part.pairs["captions"].to_pylist()]
    return dict(zip(part.ids.to_pylist(), texts, strict=True))


def test_a_listing(images: Path, tmp_path: Path, embed: Callable[..., int], colour_rows) -> None:
    rows = [f'{row["key"]},images/{row["key"]}.png,"a {row["caption"]}, square"' for row in colour_rows]
    rows += [
        "thief,/etc/passwd,x",
        "web,https://user:SECRET@h/x.jpg?token=SECRET,x",
        "gone,images/gone.png,x",
    ]
    (tmp_path / "l.csv").write_text("\n".join(["name,path,text", *rows]) + "\n")
    flags = [
        "--input",
        tmp_path / "l.csv",
        "--format",
        "listing",
        "--id_column",
        "name",
        "--image-column",
        "path",
    ]
    flags += ["--caption-column", "text", "--output", tmp_path / "store", "--tower-id", "t"]
    assert embed(*flags) == 0
    assert captions_of(tmp_path / "store") == {
        row["key"]: [f"a {row['caption']}, square"] for row in colour_rows
    }
    failures = pq.read_table(tmp_path / "store/images/t/failures.parquet").to_pylist()
    assert [(row["id"], row["stage"], row["reason"], row["locator"]) for row in failures] == [
        ("thief", "read", "refused", "l.csv#12"),
        ("web", "read", "refused", "l.csv#13"),
        ("gone", "read", "io", "l.csv#14"),
    ]
    for path in (tmp_path / "store").rglob("*"):
        assert path.is_dir() or b"SECRET" not in path.read_bytes()
    assert embed(*flags) == 0  # finished: nothing to do
    assert embed(*flags, "--allow-protocols", "https") == 2  # another job


def test_coco(images: Path, tmp_path: Path, embed: Callable[..., int], colour_rows) -> None:
    content = {
        "images": [{"id": row["label"], "file_name": f"{row['key']}.png"} for row in colour_rows],
        "annotations": [
            {"image_id": row["label"], "caption": f"{row['caption']} {n}"}
            for n in range(2)
            for row in colour_rows
        ],
    }
    (tmp_path / "captions_val.json").write_text(json.dumps(content))
    flags = ["--input", tmp_path / "captions_val.json", "--preset", "coco", "--image-root", images]
    assert embed(*flags, "--output", tmp_path / "store", "--tower-id", "t") == 0
    assert captions_of(tmp_path / "store") == {
        str(row["label"]): [f"{row['caption']} 0", f"{row['caption']} 1"] for row in colour_rows
    }
