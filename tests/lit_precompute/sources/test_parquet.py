import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_precompute.config import SourceConfig
from lit_precompute.plan import make_plan
from lit_precompute.records import Caption, DamagedInput
from lit_precompute.sources import parquet
from lit_precompute.sources.listing import list_inputs
from lit_precompute.units import Slice, Unit


def config(path: object, **options) -> SourceConfig:
    return SourceConfig((str(path),), "parquet", **options)


def table(rows: int = 4, **columns) -> pa.Table:
    plain = {
        "key": [f"k{row}" for row in range(rows)],
        "image": pa.array([b"image %d" % row for row in range(rows)], pa.binary()),
        "caption": [f"caption {row}" for row in range(rows)],
    }
    return pa.table(plain | columns)


def write(path: Path, content: pa.Table, **options) -> Path:
    pq.write_table(content, path, **options)
    return path


def raw_text(values: list[bytes]) -> pa.Array:
    """Bytes that claim to be text."""
    column = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(column), column.buffers())


def test_rows_become_records_in_order(tmp_path: Path, read_all) -> None:
    path = write(tmp_path / "a.parquet", table(150), row_group_size=70)
    records, damage = read_all(config(path))
    assert damage is None
    assert [record.position for record in records] == list(range(150))
    assert records[149].locator == "a.parquet#149"
    assert (records[71].id, records[71].image) == ("k71", b"image 71")
    assert records[71].captions == (Caption("caption 71"),)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_image_column_types(tmp_path: Path, read_all, kind: pa.DataType) -> None:
    path = write(tmp_path / "a.parquet", table(2, image=pa.array([b"x", None], kind)))
    assert [record.image for record in read_all(config(path))[0]] == [b"x", None]


def test_hugging_face_images(tmp_path: Path, read_all) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": b"x", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}, None]
    path = write(tmp_path / "a.parquet", table(3, image=pa.array(images, kind)))
    assert [record.image for record in read_all(config(path))[0]] == [b"x", None, None]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_caption_column_types(tmp_path: Path, read_all, kind: pa.DataType) -> None:
    path = write(tmp_path / "a.parquet", table(3, caption=pa.array(["鍵", None, " "], kind)))
    records = read_all(config(path))[0]
    assert [record.captions for record in records] == [(Caption("鍵"),), (), ()]
    assert [record.caption_problems for record in records] == [(), ("missing",), ("empty",)]


def test_many_captions_of_several_kinds(tmp_path: Path, read_all) -> None:
    kind = pa.list_(pa.struct([("lang", pa.string()), ("text", pa.string())]))
    named = pa.array([[{"lang": "de", "text": "Hund"}, {"lang": "fr", "text": "chien"}], []], kind)
    tags = pa.array([["pet", "animal"], None], pa.list_(pa.string()))
    path = write(tmp_path / "a.parquet", table(2, names=named, tags=tags))
    first, second = read_all(config(path, caption_column=("caption", "names", "tags")))[0]
    assert first.captions == (
        Caption("caption 0", "caption"),
        Caption("Hund", "names", "de"),
        Caption("chien", "names", "fr"),
        Caption("pet", "tags"),
        Caption("animal", "tags"),
    )
    assert [caption.text for caption in second.captions] == ["caption 1"]
    assert second.caption_problems == ("missing",)


@pytest.mark.parametrize(
    ("column", "labels", "label_names"),
    [
        (pa.array([3, None], pa.int64()), [(3,), ()], [(), ()]),
        (pa.array([3.0, None]), [(3,), ()], [(), ()]),
        (pa.array(["cat", "dog"]), [(), ()], [("cat",), ("dog",)]),
        (pa.array([[1, 2], []], pa.list_(pa.int32())), [(1, 2), ()], [(), ()]),
        (pa.array([["a"], ["b", "c"]]), [(), ()], [("a",), ("b", "c")]),
    ],
)
def test_labels(tmp_path: Path, read_all, column: pa.Array, labels: list, label_names: list) -> None:
    path = write(tmp_path / "a.parquet", table(2, label=column))
    records = read_all(config(path, label_column="label"))[0]
    assert [record.labels for record in records] == labels
    assert [record.label_names for record in records] == label_names


def test_one_bad_text_costs_only_itself(tmp_path: Path, read_all) -> None:
    columns = {"key": raw_text([b"a", b"b\xff", b"c"]), "caption": raw_text([b"good", b"fine", b"b\xe4d"])}
    records = read_all(config(write(tmp_path / "a.parquet", table(3, **columns))))[0]
    assert [record.id for record in records] == ["a", None, "c"]
    assert records[1].problem == ("id", "not_utf8", "b'b\\xff'")
    assert [record.caption_problems for record in records] == [(), (), ("not_utf8",)]
    assert records[2].image == b"image 2"


def test_ids(tmp_path: Path, read_all) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "a.parquet", table(2, key=pa.array([7, None], pa.int64())))
    write(tmp_path / "b.parquet", table(2, key=pa.array([8, 9], pa.int64())))
    assert [record.id for record in read_all(config(tmp_path))[0]] == ["8", "9", "7", None]
    expected = ["b.parquet/0", "b.parquet/1", "sub/a.parquet/0", "sub/a.parquet/1"]
    assert [record.id for record in read_all(config(tmp_path, id_column=""))[0]] == expected


def test_too_large_images_are_dropped(tmp_path: Path, read_all) -> None:
    path = write(tmp_path / "a.parquet", table(2, image=pa.array([b"x" * 101, b"y"], pa.binary())))
    records = read_all(config(path), max_bytes=100)[0]
    assert [record.image for record in records] == [None, b"y"]
    assert records[0].problem == ("read", "too_many_bytes", "101 bytes, the limit is 100")


def test_a_large_file_is_cut_between_row_groups(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    images = pa.array([noise.bytes(1000) for _ in range(100)], pa.binary())
    path = write(tmp_path / "a.parquet", table(100, image=images), row_group_size=10)
    one = config(path)
    plan = make_plan(one, unit_bytes=path.stat().st_size // 5)
    cuts = [(part.first, part.last) for unit in plan.units for part in unit.slices]
    assert len(cuts) == 5
    assert [group for first, last in cuts for group in range(first, last)] == list(range(10))
    cut = [record for unit in plan.units for record in parquet.read_unit(unit, one)]
    whole = [record for unit in make_plan(one).units for record in parquet.read_unit(unit, one)]
    assert [(record.id, record.image, record.locator) for record in cut] == [
        (record.id, record.image, record.locator) for record in whole
    ]
    assert [record.position for record in cut if record.position == 0] == [0] * 5
    assert len(make_plan(one, unit_bytes=1).units) == 10


@settings(derandomize=True)
@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=30), pieces=st.integers(0, 40))
def test_cuts_lose_no_row_group(sizes: list[int], pieces: int) -> None:
    ends = parquet._cut_points(sizes, pieces)
    assert len(ends) == min(len(sizes), max(1, pieces))
    assert ends[-1] == len(sizes)
    assert ends == sorted(set(ends))
    assert ends[0] > 0


def test_small_neighbours_share_a_unit(tmp_path: Path) -> None:
    for number in range(70):
        write(tmp_path / f"{number:02d}.parquet", table(1))
    plan = make_plan(config(tmp_path))
    assert [len(unit.slices) for unit in plan.units] == [64, 6]
    size = plan.units[0].slices[0].size
    assert [len(unit.slices) for unit in make_plan(config(tmp_path), 10 * size).units] == [10] * 7
    assert len(make_plan(config(tmp_path), size).units) == 70


def test_wrong_columns_are_all_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", table(1))
    (tmp_path / "0-damaged.parquet").write_bytes(b"not parquet")
    with pytest.raises(
        ValueError, match=r"--image-column.*'caption' is string.*--id-column.*'name'"
    ) as caught:
        make_plan(config(tmp_path, image_column="caption", id_column="name"))
    assert "Its columns: key (string), image (binary), caption (string)" in str(caught.value)
    with pytest.raises(ValueError, match="--label-column"):
        make_plan(config(tmp_path, label_column="image2"))


def test_a_file_of_another_schema_is_damage(tmp_path: Path, read_all) -> None:
    write(tmp_path / "a.parquet", table(1))
    write(tmp_path / "b.parquet", table(1).drop_columns("caption"))
    records, damage = read_all(config(tmp_path))
    assert len(records) == 1
    assert "b.parquet: must have the columns caption" in str(damage)


def test_a_damaged_file_costs_no_neighbour(tmp_path: Path, read_all) -> None:
    write(tmp_path / "a.parquet", table(2))
    data = write(tmp_path / "b.parquet", table(2)).read_bytes()
    (tmp_path / "b.parquet").write_bytes(data[:-20])
    (tmp_path / "c.parquet").write_bytes(b"")
    write(tmp_path / "d.parquet", table(2))
    records, damage = read_all(config(tmp_path))
    assert [record.locator for record in records] == [
        "a.parquet#0",
        "a.parquet#1",
        "d.parquet#0",
        "d.parquet#1",
    ]
    assert [record.position for record in records] == [0, 1, 2, 3]
    assert damage is not None
    assert [name for name, _ in damage.damages] == ["b.parquet", "c.parquet"]


def test_a_damaged_page_costs_its_row_group(tmp_path: Path, read_all) -> None:
    content = table(300)
    path = write(
        tmp_path / "a.parquet", content, row_group_size=100, compression="none", write_page_checksum=True
    )
    data = bytearray(path.read_bytes())
    data[data.index(b"image 150")] ^= 1
    path.write_bytes(data)
    records, damage = read_all(config(path))
    rows = [int(record.locator.split("#")[1]) for record in records]
    assert rows == list(range(100)) + list(range(200, 300))
    assert "a.parquet: row group 1" in str(damage)


def test_reading_holds_a_few_rows(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(1 << 20)
    images = pa.array([noise] * 100, pa.binary())
    path = write(tmp_path / "a.parquet", table(100, image=images), use_dictionary=False, write_batch_size=1)
    del images
    one = config(path)
    records = parquet.read_unit(make_plan(one, 1 << 30).units[0], one)
    next(records)
    assert pa.total_allocated_bytes() < 60 << 20
    records.close()


def sample(**options) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table(12, tags=pa.array([["a", "b"]] * 12)), sink, row_group_size=5, **options)
    return sink.getvalue()


SAMPLES = [
    sample(compression="zstd"),
    sample(compression="none", write_page_checksum=True),
    sample(use_dictionary=False),
]


@settings(
    max_examples=300,
    deadline=2000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    data=st.sampled_from(SAMPLES),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=6), st.integers(0, 6)), max_size=6),
    end=st.floats(0, 1) | st.none(),
)
def test_mutated_files_give_records_or_damage(tmp_path: Path, data: bytes, edits, end: float | None) -> None:
    for place, inserted, removed in edits:
        at = int(place * len(data))
        data = data[:at] + inserted + data[at + removed :]
    data = data if end is None else data[: int(end * len(data))]
    read_bytes(tmp_path, data)


@settings(
    max_examples=100,
    deadline=2000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.binary(max_size=300), size=st.integers(0, 400))
def test_random_bytes_are_damage(tmp_path: Path, data: bytes, size: int) -> None:
    read_bytes(tmp_path, b"PAR1" + data + size.to_bytes(4, "little") + b"PAR1")


def read_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fuzz.parquet"
    path.write_bytes(data)
    unit = Unit(0, 0, (Slice(str(path), len(data), ""),))
    try:
        for record in parquet.read_unit(unit, config(path, caption_column=("caption", "tags"))):
            assert record.locator.startswith("fuzz.parquet#")
    except DamagedInput:
        return


@pytest.mark.shared
def test_broken_sample(shared_dir: Path, read_all) -> None:
    folder = shared_dir / "data" / "imagenet_sample"
    records, damage = read_all(config(folder / "broken-00000.parquet"))
    assert damage is None
    assert len(records) == 30
    by_row = {record.position: record for record in records}
    assert [row for row, record in by_row.items() if record.image is None] == [5]
    assert by_row[4].image == b""
    assert {row: r.caption_problems for row, r in by_row.items() if not r.captions} == {
        20: ("missing",), 21: ("empty",), 22: ("empty",)
    }  # fmt: skip
    assert len(by_row[23].captions[0].text) == 24_000
    assert by_row[24].captions[0].text.startswith("ten\x00ch \u202e")
    assert by_row[25].id == by_row[26].id == "duplicate_key"
    assert (by_row[27].id, by_row[28].id) == ("", "clé/ünï code 鍵")
    assert all(record.problem is None for record in records)


@pytest.mark.shared
def test_broken_text_and_footer(shared_dir: Path, read_all) -> None:
    folder = shared_dir / "data" / "imagenet_sample"
    records, damage = read_all(config(folder / "broken_utf8-00000.parquet"))
    assert (damage, [record.caption_problems for record in records]) == (None, [(), ("not_utf8",), ()])
    records, damage = read_all(config(folder / "truncated-00000.parquet"))
    assert records == []
    assert damage is not None
    assert damage.path == "truncated-00000.parquet"


@pytest.mark.shared
def test_real_samples(shared_dir: Path, read_all) -> None:
    pattern = shared_dir / "data" / "imagenet_sample" / "imagenet_sample-*.parquet"
    one = config(pattern, label_column="class_index")
    assert len(make_plan(one).units) == 4
    records, damage = read_all(one)
    assert damage is None
    assert sorted(record.labels for record in records) == [(label,) for label in range(1000)]
    emoji = config(shared_dir / "data" / "emoji", caption_column=("caption", "captions", "keywords"))
    records, damage = read_all(emoji)
    assert (damage, len(records), len(list_inputs(emoji.input, parquet.SUFFIXES).files)) == (None, 2660, 2)
    languages = {caption.lang for caption in records[0].captions if caption.kind == "captions"}
    assert len(languages) == 16


def test_further_columns_become_metadata(tmp_path: Path, read_all) -> None:
    columns = {
        "url": ["https://me:pw@h/a?sig=1", None],
        "size": [3, 4],
        "score": [0.5, float("nan")],
        "boxes": [[[0.0, 1.0]], []],
        "day": pa.array([0, 1], pa.date32()),
        "raw": pa.array([b"\xff", b"ok"], pa.binary()),
    }
    path = write(tmp_path / "a.parquet", table(2, **columns))
    records, _ = read_all(config(path, metadata_columns=tuple(columns)))
    assert [json.loads(record.metadata or "") for record in records] == [
        {
            "url": "https://h/a",
            "size": 3,
            "score": 0.5,
            "boxes": [[0.0, 1.0]],
            "day": "1970-01-01",
            "raw": None,
        },
        {"url": None, "size": 4, "score": None, "boxes": [], "day": "1970-01-02", "raw": "ok"},
    ]
    path = write(tmp_path / "b.parquet", table(2, big=["x" * 70_000, "y"]))
    assert [record.metadata for record in read_all(config(path, metadata_columns=("big",)))[0]] == [
        None, '{"big": "y"}'
    ]  # fmt: skip


def test_columns_as_img2dataset_writes_them(tmp_path: Path, read_all) -> None:
    row = {
        "url": ["https://h/a.jpg"],
        "caption": ["A"],
        "key": ["000000000"],
        "status": ["success"],
        "jpg": [b"J"],
    }
    path = write(tmp_path / "00000.parquet", pa.table(row))
    records, _ = read_all(config(path, preset="img2dataset"))
    assert (records[0].id, records[0].image, records[0].captions) == ("000000000", b"J", (Caption("A"),))
