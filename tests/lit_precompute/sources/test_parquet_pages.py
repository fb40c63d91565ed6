from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_precompute.config import SourceConfig
from lit_precompute.plan import make_plan
from lit_precompute.sources import parquet, parquet_file, parquet_pages
from lit_precompute.sources.opening import InputStream
from lit_precompute.sources.parquet_file import ParquetInput
from lit_precompute.sources.parquet_pages import Chunk, _demand_modest
from lit_precompute.units import Slice

MIB = 1 << 20


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> int:
    """Only 1 MiB may come out of little."""
    for module in (parquet_pages, parquet_file):
        monkeypatch.setattr(module, "MOST_INFLATED", MIB)
    return MIB


def write(path: Path, images: list[bytes], captions: Any = None, **options: Any) -> SourceConfig:
    """Rows k0, k1, ... with these images and captions."""
    keys = [f"k{row}" for row in range(len(images))]
    captions = keys if captions is None else captions
    content = pa.table({"key": keys, "image": pa.array(images, pa.binary()), "caption": captions})
    pq.write_table(content, path, **{"compression": "zstd", **options})
    return SourceConfig((str(path),), "parquet")


def varint(number: int) -> bytes:
    """As Thrift writes an integer."""
    number *= 2
    pieces = []
    while number > 127:
        pieces.append(number & 127 | 128)
        number >>= 7
    return bytes([*pieces, number])


@pytest.mark.parametrize("page", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd", "lz4"])
def test_every_page_is_looked_at(tmp_path: Path, codec: str, page: str) -> None:
    noise = np.random.default_rng(0)
    images = [noise.bytes(3000) for _ in range(500)]
    lists = [["one", "two"], [], None, ["three"]] * 125
    one = write(
        tmp_path / "a.parquet",
        images,
        lists,
        compression=codec,
        data_page_version=page,
        data_page_size=20_000,
        row_group_size=300,
    )
    with InputStream(Slice(one.input[0], -1, "")) as stream:
        file = ParquetInput(stream)
        for group in (0, 1):
            found = [row for batch in file.batches(group, ["caption", "image"]) for row in batch["image"]]
            assert found == images[300 * group : 300 * group + 300]
            chunks = [chunk for chunk in file._chunks[group] if chunk.path[0] != "key"]
            assert [chunk.path for chunk in chunks] == [("image",), ("caption", "list", "element")]
            for chunk in chunks:
                assert (chunk.place, chunk.seen_inflated) == (chunk.end, chunk.inflated)
            assert [chunk.seen_values for chunk in chunks] == [chunk.values for chunk in chunks]


def test_a_page_that_would_inflate_is_not_inflated(tmp_path: Path, read_all, little_room: int) -> None:
    one = write(tmp_path / "a.parquet", [bytes(64 * MIB), b"y"])
    assert Path(one.input[0]).stat().st_size < 10_000
    records, damage = read_all(one)
    assert records == []
    assert "a.parquet: row group 0: column 'image', page at byte" in str(damage)
    assert "would inflate to 67,10" in str(damage)


def test_good_row_groups_beside_it_are_kept(tmp_path: Path, read_all, little_room: int) -> None:
    one = write(tmp_path / "a.parquet", [b"x", bytes(5 * MIB), b"z"], row_group_size=1)
    records, damage = read_all(one)
    assert [record.id for record in records] == ["k0", "k2"]
    assert "row group 1" in str(damage)


def test_a_page_that_does_not_shrink_may_be_large(tmp_path: Path, read_all, little_room: int) -> None:
    noise = np.random.default_rng(0).bytes(3 * MIB)
    records, damage = read_all(write(tmp_path / "a.parquet", [noise]))
    assert (damage, records[0].image) == (None, noise)


def test_a_footer_may_not_lie(tmp_path: Path, read_all) -> None:
    one = write(tmp_path / "a.parquet", [bytes(5_000_000), b"y"], use_dictionary=False)
    path = Path(one.input[0])
    facts = pq.ParquetFile(path).metadata.row_group(0)
    data = path.read_bytes()
    for number in (facts.column(1).total_uncompressed_size, facts.total_byte_size):
        assert data.count(varint(number)) == 1
        data = data.replace(varint(number), varint(MIB))
    path.write_bytes(data)
    records, damage = read_all(one)
    assert records == []
    assert "the pages inflate to more than the 1,048,576 bytes that the footer says" in str(damage)


def test_small_pages_of_blank_images_are_read_one_by_one(tmp_path: Path, read_all, little_room: int) -> None:
    images = [bytes(MIB // 2)] * 40
    one = write(tmp_path / "a.parquet", images, use_dictionary=False, write_batch_size=1, data_page_size=1)
    with InputStream(Slice(one.input[0], -1, "")) as stream:
        batches = [len(batch["image"]) for batch in ParquetInput(stream).batches(0, ["image"])]
    assert batches == [1] * 40
    records, damage = read_all(one)
    assert (damage, [len(record.image) for record in records]) == (None, [MIB // 2] * 40)


def test_a_large_value_named_by_every_row_is_not_held_many_times(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(parquet_file, "MOST_INFLATED", 16 * MIB)
    image = np.random.default_rng(0).bytes(4 * MIB)
    one = write(tmp_path / "a.parquet", [image] * 64)
    assert Path(one.input[0]).stat().st_size < 5 * MIB
    before = pa.total_allocated_bytes()
    records = parquet.read_unit(make_plan(one, 1 << 30).units[0], one)
    assert next(records).image == image
    assert pa.total_allocated_bytes() - before < 60 * MIB
    records.close()


def test_a_text_named_ever_again_in_one_row_is_refused(tmp_path: Path, read_all, little_room: int) -> None:
    one = write(tmp_path / "a.parquet", [b"x", b"y"], [["t" * 100_000] * 20, ["u"]])
    records, damage = read_all(one)
    assert records == []
    assert "may have 1,048,576 bytes of text in lists, found 2,000,001" in str(damage)


@pytest.mark.parametrize("objects", [False, True])
def test_texts_in_lists_are_the_same_read_by_number(
    tmp_path: Path, read_all, little_room: int, objects: bool
) -> None:
    texts = [["t" * 100_000, "red", None], [], None] + [["red", "blü"]] * 200
    captions: Any = texts
    if objects:
        captions = [one and [{"text": text, "lang": "de"} for text in one] for one in texts]
    one = write(tmp_path / "a.parquet", [b"x"] * len(texts), captions)
    with InputStream(Slice(one.input[0], -1, "")) as stream:
        file = ParquetInput(stream)
        list(file.batches(0, ["caption"]))
        assert any(map(parquet_file._may_repeat_much, file._chunks[0]))
    records, damage = read_all(one)
    assert damage is None
    found = [[caption.text for caption in record.captions] for record in records]
    assert found == [[text for text in one or [] if text] for one in texts]


def test_values_in_lists_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_all) -> None:
    monkeypatch.setattr(parquet_pages, "MOST_VALUES", 100)
    one = write(tmp_path / "a.parquet", [b"x"], pa.array([[None] * 101], pa.list_(pa.string())))
    assert "may have 100 values in lists, found 101 or more" in str(read_all(one)[1])
    one = write(tmp_path / "b.parquet", [b"x"], pa.array([[None] * 100], pa.list_(pa.string())))
    assert read_all(one)[1] is None


def test_a_chain_that_leaves_the_file_is_damage(tmp_path: Path) -> None:
    one = write(tmp_path / "a.parquet", [b"x"])
    with InputStream(Slice(one.input[0], -1, "")) as stream:
        file = ParquetInput(stream)
        chunk = file._chunks[0][1]
        chunk.place, chunk.end = 10**9, 10**9 + 50
        with pytest.raises(ValueError, match="page at byte 1,000,000,000: ends in the middle"):
            file._guard._look(chunk, chunk.end, 0, b"")


@pytest.mark.parametrize("values", [b"many", -1, {}, None])
def test_a_page_must_count_its_values(values: Any) -> None:
    chunk = Chunk(("caption",), 0, 100, 1000, 10, False, True, 0)
    _demand_modest(chunk, {1: 0, 2: 50, 3: 40, 5: {1: 7}}, 20)
    assert chunk.seen_values == 7
    with pytest.raises(ValueError, match="how many values"):
        _demand_modest(chunk, {1: 0, 2: 50, 3: 40, 5: {1: values}}, 20)
