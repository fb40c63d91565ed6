"""The deliberately broken records, carried by every format that can name or hold them, read as from Parquet."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_precompute.config import SourceConfig
from lit_precompute.sources.crc32c import crc32c_function, masked

Rows = list[dict[str, Any]]


@pytest.fixture
def broken(shared_dir: Path, tmp_path: Path) -> Rows:
    """The rows; their images also as files, named in `path`."""
    rows = pq.read_table(shared_dir / "data/imagenet_sample/broken-00000.parquet").to_pylist()
    for number, row in enumerate(rows):
        if row["image"] is not None:
            (tmp_path / f"{number}.bin").write_bytes(row["image"])
        row["path"] = None if row["image"] is None else f"{number}.bin"
    return rows


def write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(
        pa.Table.from_pylist([{k: row[k] for k in ("key", "path", "caption")} for row in rows]), path
    )


def write_jsonl(path: Path, rows: Rows) -> None:
    lines = [json.dumps({k: row[k] for k in ("key", "path", "caption")}, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines), newline="")


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["key", "path", "caption"])
        table.writerows([row["key"], row["path"], row["caption"]] for row in rows)


def write_tfrecord(path: Path, rows: Rows) -> None:
    def size(value: int) -> bytes:
        return bytes([value & 0x7F | 0x80]) + size(value >> 7) if value > 0x7F else bytes([value])

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2]) + size(len(data)) + data

    def feature(name: str, value: bytes | None) -> bytes:
        values = b"" if value is None else field(1, value)
        return field(1, field(1, name.encode()) + field(2, field(1, values)))

    with path.open("wb") as file:
        for row in rows:
            texts = [(name, None if row[name] is None else row[name].encode()) for name in ("key", "caption")]
            data = field(1, b"".join(feature(*pair) for pair in [*texts, ("path", row["image"])]))
            length = len(data).to_bytes(8, "little")
            for part in (length, data):
                file.write(part + masked(crc32c_function()(part)).to_bytes(4, "little"))


FORMATS: dict[str, tuple[str, Callable[[Path, Rows], None]]] = {
    "l.parquet": ("listing", write_parquet),
    "l.jsonl": ("listing", write_jsonl),
    "l.csv": ("listing", write_csv),
    "x.tfrecord": ("tfrecord", write_tfrecord),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", FORMATS)
def test_broken_sample(broken: Rows, shared_dir: Path, tmp_path: Path, read_all, name: str) -> None:
    format, write = FORMATS[name]
    write(tmp_path / name, broken)
    records, damage = read_all(SourceConfig((f"{tmp_path}/{name}",), format, image_column="path"))
    plain, _ = read_all(SourceConfig((f"{shared_dir}/data/imagenet_sample/broken-00000.parquet",), "parquet"))
    assert damage is None
    assert [(r.id, r.image, r.captions) for r in records] == [(r.id, r.image, r.captions) for r in plain]
    assert [r.problem and r.problem[1] for r in records] == [
        "missing" if format == "listing" and row["image"] is None else None for row in broken
    ]
