import gzip
import json
import os
import threading
import time
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_precompute.config import SourceConfig
from lit_precompute.plan import make_plan
from lit_precompute.records import Caption, DamagedInput
from lit_precompute.sources import image_fetch, image_listing, table_rows
from lit_precompute.sources.image_listing import read_unit
from schemas.failures import REASONS

ROWS = [
    {
        "id": "a",
        "image": "a.jpg",
        "caption": "one, with a comma",
        "y": 3,
        "source": "https://me:pw@h/a?sig=1",
    },
    {"id": "b", "image": "sub/b.png", "caption": "two\nlines", "y": -1, "source": "plain"},
    {"id": "c", "image": "c.jpg", "caption": "", "y": 5, "source": ""},
]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "sub/b.png", "c.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def config(path: object, **options) -> SourceConfig:
    return SourceConfig((str(path),), "listing", **({"id_column": "id"} | options))


def write_listing(path: Path, rows: list[dict]) -> Path:
    """Rows as the kind of file that the suffix says."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
        return path
    if name.endswith(".jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        mark = "\t" if name.endswith(".tsv") else ","
        cells = [list(rows[0]), *(list(map(str, row.values())) for row in rows)]
        text = "".join(mark.join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in cells)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["l.parquet", "l.csv", "l.tsv", "l.jsonl", "l.csv.gz", "l.jsonl.gz"])
def test_rows_become_records(images: Path, read_all, name: str) -> None:
    path = write_listing(images / name, ROWS)
    records, damage = read_all(config(path, label_column="y", metadata_columns=("source", "y")))
    assert damage is None
    assert [(r.position, r.locator, r.id, r.image) for r in records] == [
        (0, f"{name}#0", "a", b"a.jpg"),
        (1, f"{name}#1", "b", b"sub/b.png"),
        (2, f"{name}#2", "c", b"c.jpg"),
    ]
    assert [r.captions for r in records] == [(Caption("one, with a comma"),), (Caption("two\nlines"),), ()]
    assert [r.caption_problems for r in records] == [(), (), ("empty",)]
    assert [r.labels for r in records] == [(3,), (), (5,)]
    assert [json.loads(r.metadata or "")["source"] for r in records] == ["https://h/a", "plain", ""]


def test_several_captions_with_kinds_and_languages(images: Path, read_all) -> None:
    rows = [
        {
            "image": "a.jpg",
            "title": "T",
            "captions": ["x", {"text": "ein Hund", "lang": "de", "kind": "alt"}, None],
        },
        {"image": "c.jpg", "title": None},
    ]
    path = write_listing(images / "l.jsonl", rows)
    records, _ = read_all(config(path, id_column="", caption_column=("title", "captions")))
    assert [r.id for r in records] == ["l.jsonl/0", "l.jsonl/1"]
    assert records[0].captions == (
        Caption("T", "title"), Caption("x", "captions"), Caption("ein Hund", "alt", "de")
    )  # fmt: skip
    assert records[1].caption_problems == ("missing",)


def test_what_a_row_may_not_name_is_never_opened(images: Path, read_all, monkeypatch) -> None:
    (images / "data").mkdir()
    (images / "data" / "ok.jpg").write_bytes(b"ok")
    os.mkfifo(images / "data" / "pipe.jpg")
    names = [
        "ok.jpg", f"{images}/a.jpg", "../a.jpg", f"file://{images}/data/ok.jpg", "zip://x::/a.zip", "https://h/x?k=S",
        "http://169.254.169.254/", "gone.jpg", "", "pipe.jpg", ".",
    ]  # fmt: skip
    rows = [{"id": f"{n}", "image": name, "caption": "c"} for n, name in enumerate(names)]
    opened: list[str] = []
    real = image_fetch._read
    monkeypatch.setattr(
        image_fetch, "_read", lambda address, *rest: (opened.append(address), real(address, *rest))[1]
    )
    records, damage = read_all(config(write_listing(images / "data" / "l.csv", rows)))
    assert damage is None
    found = [r.problem[:2] if r.problem else r.image for r in records]
    refused, io = ("read", "refused"), ("read", "io")
    assert found == [
        b"ok", refused, refused, refused, refused, refused, refused, io, ("read", "missing"), io, refused
    ]  # fmt: skip
    assert sorted(opened) == [f"{images}/data/{name}.jpg" for name in ("gone", "ok", "pipe")]
    assert all(r.problem[1] in REASONS for r in records if r.problem)
    assert not any("k=S" in str(r) or str(images) in str(r.problem) for r in records)


def test_urls_as_ids_lose_their_secrets(images: Path, read_all) -> None:
    rows = [{"url": "https://me:pw@h/a.jpg?sig=S", "caption": "c"}, {"url": "a.jpg", "caption": "d"}]
    path = write_listing(images / "l.jsonl", rows)
    records, _ = read_all(config(path, id_column="url", image_column="url"))
    assert [r.id for r in records] == ["https://h/a.jpg", "a.jpg"]


def test_malformed_rows_cost_only_themselves(images: Path, read_all) -> None:
    (images / "l.csv").write_text('id,image,caption\na,a.jpg,x\nb,c.jpg,x,y\nc,c.jpg,z\n"d,c.jpg\n')
    records, _ = read_all(config(images / "l.csv"))
    assert [(r.id, r.image) for r in records] == [
        ("a", b"a.jpg"),
        (None, None),
        ("c", b"c.jpg"),
        (None, None),
    ]
    assert records[1].problem == ("id", "malformed", "4 cells, the header has 3")
    records, _ = read_all(config(images / "l.csv", id_column=""))
    assert records[1].id == "l.csv/1"
    assert records[1].problem == ("read", "malformed", "4 cells, the header has 3")


def test_bad_text_costs_only_itself(images: Path, read_all) -> None:
    (images / "l.csv").write_bytes(b"id,image,caption\n\xff,a.jpg,x\nb,c.jpg,\xff\nc,c\xff.jpg,z\n")
    (images / os.fsdecode(b"c\xff.jpg")).write_bytes(b"raw name")
    records, _ = read_all(config(images / "l.csv"))
    assert records[0].problem[:2] == ("id", "not_utf8")
    assert records[1].caption_problems == ("not_utf8",)
    assert records[2].image == b"raw name"


def test_too_large_an_image(images: Path, read_all) -> None:
    records, _ = read_all(config(write_listing(images / "l.csv", ROWS)), max_bytes=5)
    assert [r.problem[1] if r.problem else r.image for r in records] == [b"a.jpg", "too_many_bytes", b"c.jpg"]


def test_images_on_other_storage(tmp_path: Path, read_all) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe({"/image_listing/a.jpg": b"1", "/image_listing/d/b.jpg": b"2", "/elsewhere/c.jpg": b"3"})
    rows = [
        {"id": str(n), "image": name, "caption": "c"}
        for n, name in enumerate(
            ["a.jpg", "memory://image_listing/d/b.jpg", "memory://elsewhere/c.jpg", "/etc/passwd", "gone.jpg"]
        )
    ]
    path = write_listing(tmp_path / "l.parquet", rows)
    records, _ = read_all(config(path, image_root="memory://image_listing"))
    assert [r.problem[1] if r.problem else r.image for r in records] == [
        b"1",
        b"2",
        "refused",
        "refused",
        "io",
    ]
    records, _ = read_all(config(path, image_root="memory://image_listing", allow_protocols=("memory",)))
    assert [r.problem[1] if r.problem else r.image for r in records] == [b"1", b"2", b"3", "refused", "io"]


def test_storage_that_stumbles_is_asked_again(images: Path, read_all, monkeypatch) -> None:
    monkeypatch.setattr("schemas.retries.FIRST_WAIT", 0.0)
    path = write_listing(images / "l.csv", ROWS)
    real, failures = (
        image_fetch._read_local,
        iter([OSError(5, "x"), ConnectionResetError(), None, None, None]),
    )
    lock = threading.Lock()

    def flaky(path: str, limit: int) -> bytes:
        with lock:
            trouble = next(failures, None)
        if trouble is not None:
            raise trouble
        return real(path, limit)

    monkeypatch.setattr(image_fetch, "_read_local", flaky)
    assert all(r.image for r in read_all(config(path))[0])
    monkeypatch.setattr(
        image_fetch, "_read_local", lambda path, limit: (_ for _ in ()).throw(OSError(5, path))
    )
    assert read_all(config(path))[0][0].problem == ("read", "io", "OSError: Input/output error")


def test_fetching_ahead_is_bounded_and_in_order(images: Path, monkeypatch) -> None:
    rows = [{"id": str(n), "image": f"{n}.jpg", "caption": "c"} for n in range(100)]
    path = write_listing(images / "l.jsonl", rows)
    asked: list[str] = []

    def slow(address: str, limit: int) -> bytes:
        asked.append(address)
        time.sleep(0.002 if int(Path(address).stem) % 3 else 0.0)
        return address.encode()

    monkeypatch.setattr(image_fetch, "_read_local", slow)
    one = config(path)
    records = read_unit(make_plan(one).units[0], one)
    assert next(records).image == f"{images}/0.jpg".encode()
    assert len(asked) <= image_fetch.AHEAD
    assert [r.id for r in records] == [str(n) for n in range(1, 100)]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_units_are_runs_of_rows(images: Path, read_all, monkeypatch, kind: str) -> None:
    monkeypatch.setattr(image_listing, "UNIT_ROWS", 4)
    for name, size in (("0", 10), ("1", 1), ("2", 1), ("3", 3)):
        rows = [{"id": f"{name}-{n}", "image": "a.jpg", "caption": "c"} for n in range(size)]
        write_listing(images / f"{name}.{kind}", rows)
    one = config(images / f"*.{kind}")
    units = make_plan(one).units
    assert [[(part.first, part.last) for part in unit.slices] for unit in units] == [
        [(0, 4)], [(4, 8)], [(8, 10), (0, 1), (0, 1)], [(0, 3)]
    ]  # fmt: skip
    records, _ = read_all(one)
    assert [r.id for r in records] == [*(f"0-{n}" for n in range(10)), "1-0", "2-0", "3-0", "3-1", "3-2"]
    assert records[10].position == 2


def test_a_damaged_listing_keeps_what_came_before(images: Path, read_all) -> None:
    rows = [{"id": f"{n}-{n * 7919 % 1009}", "image": "a.jpg", "caption": "c"} for n in range(1000)]
    whole = write_listing(images / "l.jsonl.gz", rows).read_bytes()
    (images / "l.jsonl.gz").write_bytes(whole[: len(whole) * 2 // 3])
    records, damage = read_all(config(images / "l.jsonl.gz"))
    assert isinstance(damage, DamagedInput)
    assert 0 < len(records) < 1000
    assert all(r.image == b"a.jpg" for r in records)
    pq_path = write_listing(images / "l.parquet", rows)
    pq_path.write_bytes(pq_path.read_bytes()[:-5])
    assert read_all(config(pq_path))[1] is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_column": "path"}, "--image-column 'path'"),
        ({"caption_column": ("caption", "text")}, "--caption-column 'text'"),
        ({"id_column": "key"}, "empty --id-column"),
        ({"csv_separator": "tab"}, "--csv-separator"),
        ({"image_root": "/elsewhere", "image_column": "absolute"}, "--image-root or --allow-protocols"),
        ({"image_column": "url"}, "protocol https is not allowed"),
        ({"image_root": "nosuch://x"}, "--image-root: must be on storage"),
    ],
)
def test_what_can_be_said_before_any_work_is(images: Path, options: dict, message: str) -> None:
    rows = [row | {"absolute": f"{images}/a.jpg", "url": "https://h/a"} for row in ROWS]
    path = write_listing(images / "l.csv", rows)
    with pytest.raises(ValueError, match=message):
        make_plan(config(path, **options))


def test_parquet_columns_are_checked(images: Path) -> None:
    path = write_listing(images / "l.parquet", [{"id": "a", "image": b"bytes", "caption": "c"}])
    with pytest.raises(ValueError, match="encoded images: --format parquet"):
        make_plan(config(path))
    with pytest.raises(ValueError, match="--metadata-columns: must name one column"):
        make_plan(config(path, metadata_columns=("nowhere",)))
    path = write_listing(images / "m.jsonl", [{"id": "a", "picture": "a.jpg"}])
    with pytest.raises(ValueError, match="'image' must be in the rows"):
        make_plan(config(path))


def test_another_kind_of_file_is_refused(images: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in one of \.parquet"):
        make_plan(config(images / "a.jpg"))


def test_a_listing_that_changed_is_not_read(images: Path) -> None:
    one = config(write_listing(images / "l.csv", ROWS))
    unit = make_plan(one).units[0]
    with (images / "l.csv").open("a") as file:
        file.write("d,a.jpg,x\n")
    with pytest.raises(OSError, match="as planned"):
        list(read_unit(unit, one))


def test_a_large_row_group_is_read_in_part(images: Path) -> None:
    rows = [{"id": str(n), "image": "a.jpg", "caption": "c"} for n in range(300)]
    path = write_listing(images / "l.parquet", rows)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=200)
    one = config(path)
    (spans,) = make_plan(one).units[0].slices
    part = type(spans)(spans.path, spans.size, spans.version, 150, 250)
    found = table_rows.read_rows(part, ["id"], one)
    assert [row.values["id"] for row in found] == [str(n).encode() for n in range(150, 250)]
