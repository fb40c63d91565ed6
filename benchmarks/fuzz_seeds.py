"""The small valid files that fuzzing breaks, one kind per record reader."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lit_precompute.sources.crc32c import crc32c_function, masked


@dataclass(frozen=True)
class Seed:
    """What a reader is given.

    Attributes:
        format: of `lit-embed`; None for the decoder.
        name: of the file.
        make: valid contents of it.
        flags: of the source.
        beside: other files, by name.
    """

    format: Any
    name: str
    make: Callable[[], list[bytes]]
    flags: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, bytes] = field(default_factory=dict)

    def whole(self) -> list[bytes]:
        return _made(self.make)


@cache
def _made(make: Callable[[], list[bytes]]) -> list[bytes]:
    return make()


@cache
def picture(kind: str = "PNG", mode: str = "RGB", side: int = 12) -> bytes:
    file = io.BytesIO()
    image = Image.linear_gradient("L").resize((side, side)).convert(mode)
    image.save(file, kind)
    return file.getvalue()


def _pictures() -> list[bytes]:
    kinds = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
    found = [picture(kind, "RGB" if kind != "GIF" else "P", side) for kind in kinds for side in (1, 12, 40)]
    found += [picture("PNG", mode) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")]
    return [
        *found,
        picture("JPEG", "CMYK"),
        picture("JPEG", "L"),
        picture("TIFF", "CMYK"),
        picture("TIFF", "F"),
    ]


def _tar(compress: bool = False, kind: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz" if compress else "w", format=kind) as tar:
        for number in range(3):
            long = "long-" * 30 if number == 2 and kind != tarfile.USTAR_FORMAT else ""
            stem = f"{long}{number:04}"
            members = {
                "jpg": picture("JPEG"),
                "txt": b"a caption",
                "json": b'{"caption": ["a", "b"], "x": 1}',
            }
            for suffix, data in (*members.items(), ("cls", b"3" * (1 + 5000 * number))):
                info = tarfile.TarInfo(f"dir.x/{stem}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def _tars() -> list[bytes]:
    return [_tar(), _tar(kind=tarfile.GNU_FORMAT), _tar(kind=tarfile.USTAR_FORMAT), _tar(compress=True)]


ROWS: list[dict[str, Any]] = [
    {"key": f"k{n}", "image": picture("JPEG", side=60 + n), "caption": f"caption {n}", "label": n}
    for n in range(8)
]


def _parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, **{"row_group_size": 4, **options})
    return file.getvalue()


def _parquets() -> list[bytes]:
    structs = [
        row | {"image": {"bytes": row["image"], "path": "x"}, "caption": [row["caption"]]} for row in ROWS
    ]
    compressions = ("none", "snappy", "zstd", "gzip", "lz4")
    return [
        *(_parquet(ROWS, compression=one) for one in compressions),
        _parquet(structs),
        _parquet(ROWS, use_dictionary=False, data_page_version="2.0", write_page_checksum=True),
    ]


def _paths() -> list[dict[str, Any]]:
    return [{"key": f"k{n}", "image": "0.png", "caption": f"caption {n}", "label": n} for n in range(6)]


def _csvs() -> list[bytes]:
    rows = "".join(f'k{n},0.png,"a ""quoted""\ncaption {n}",{n}\r\n' for n in range(6))
    text = f"key,image,caption,label\n{rows}".encode()
    return [text, b"\xef\xbb\xbf" + text.replace(b"\r\n", b"\n"), text.replace(b'"', b"")]


def _json_lines() -> list[bytes]:
    rows = [
        {**row, "caption": [row["caption"], {"text": "t", "lang": "de", "kind": "title"}]} for row in _paths()
    ]
    return ["\n".join(map(json.dumps, rows)).encode(), "\n".join(map(json.dumps, _paths())).encode() + b"\n"]


def _coco() -> list[bytes]:
    images = [{"id": n, "file_name": "0.png"} for n in range(4)]
    captions = [{"image_id": n % 4, "caption": f"caption {n}"} for n in range(8)]
    return [json.dumps({"images": images, "annotations": captions}).encode()]


def _karpathy() -> list[bytes]:
    images = [
        {"cocoid": n, "filename": "0.png", "split": "test", "sentences": [{"raw": f"caption {n}"}] * 5}
        for n in range(4)
    ]
    return [json.dumps({"images": images, "dataset": "coco"}).encode()]


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def _message(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _tfrecords() -> list[bytes]:
    checksum, found = crc32c_function(), b""
    for row in ROWS:
        features = b""
        for name, kind, value in (
            ("key", 1, _message(1, row["key"].encode())),
            ("image", 1, _message(1, row["image"])),
            ("caption", 1, _message(1, b"one") + _message(1, b"two")),
            ("label", 3, _message(1, _varint(row["label"]))),
        ):
            features += _message(1, _message(1, name.encode()) + _message(2, _message(kind, value)))
        data = _message(1, features)
        head = len(data).to_bytes(8, "little")
        found += head + masked(checksum(head)).to_bytes(4, "little")
        found += data + masked(checksum(data)).to_bytes(4, "little")
    return [found, gzip.compress(found)]


def _short_parquets() -> list[bytes]:
    return [_parquet(_paths()), _parquet(_paths(), compression="gzip")]


def _tsvs() -> list[bytes]:
    return [gzip.compress(one.replace(b",", b"\t")) for one in _csvs()]


def _karpathy_gz() -> list[bytes]:
    return [*_karpathy(), gzip.compress(_karpathy()[0])]


def _text() -> list[bytes]:
    return [b"a\nb\n", "ä\r\n\n".encode(), b"\xef\xbb\xbfwith a mark"]


def _json() -> list[bytes]:
    return [b'{"caption": ["a", {"text": "b", "lang": "de"}], "label": 3, "url": "https://u:p@h/x?y"}']


COLUMNS = {"label_column": "label", "metadata_columns": ("caption",)}
LABEL = {"label_column": "label"}
BESIDE = {"0.png": picture("PNG")}
SEEDS = {
    "decoder": Seed(None, "image", _pictures),
    "webdataset": Seed("webdataset", "a.tar", _tars, LABEL),
    "parquet": Seed("parquet", "a.parquet", _parquets, COLUMNS),
    "tfrecord": Seed("tfrecord", "a.tfrecord", _tfrecords, COLUMNS),
    "listing-csv": Seed("listing", "a.csv", _csvs, COLUMNS, BESIDE),
    "listing-tsv-gz": Seed("listing", "a.tsv.gz", _tsvs, {}, BESIDE),
    "listing-jsonl": Seed("listing", "a.jsonl", _json_lines, COLUMNS, BESIDE),
    "listing-parquet": Seed("listing", "a.parquet", _short_parquets, {}, BESIDE),
    "coco": Seed("coco", "a.json", _coco, {}, BESIDE),
    "karpathy": Seed("karpathy", "a.json.gz", _karpathy_gz, {"split": "test"}, BESIDE),
    "folder-text": Seed("folder", "0.txt", _text, {}, BESIDE),
    "folder-json": Seed("folder", "0.json", _json, LABEL, BESIDE),
}
