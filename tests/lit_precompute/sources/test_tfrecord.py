import gzip
import random
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_precompute.config import SourceConfig
from lit_precompute.plan import make_plan
from lit_precompute.records import Caption
from lit_precompute.sources import tf_example, tfrecord
from lit_precompute.sources.crc32c import crc32c, crc32c_function, masked
from lit_precompute.sources.tf_example import parse_example
from lit_precompute.units import Slice, Unit

# One framed example as protobuf and google-crc32c wrote it.
GOLDEN = bytes.fromhex(
    "6c00000000000000f5dab0d70a6a0a190a0c63617074696f6e2f7465787412090a070a036f6e650a000a190a0d696d61"
    "67652f656e636f64656412080a060a0489504e470a1b0a08696d6167652f6964120f1a0d0a0b2affffffffffffffffff"
    "010a150a0573636f7265120c120a0a080000003f000000c00799f660"
)


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(**features: list) -> bytes:
    """A serialized Example; bytes, int and float lists by the type of the first value."""
    entries = b""
    for name, values in features.items():
        if not values or isinstance(values[0], bytes):
            kind = field(1, b"".join(field(1, value) for value in values))
        elif isinstance(values[0], float):
            kind = field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
        else:
            kind = field(3, field(1, b"".join(map(varint, values))))
        entries += field(1, field(1, name.encode()) + field(2, kind))
    return field(1, entries)


def framed(data: bytes) -> bytes:
    size = struct.pack("<Q", len(data))
    return size + struct.pack("<I", masked(crc32c(size))) + data + struct.pack("<I", masked(crc32c(data)))


ROWS = [
    example(key=[b"a"], jpg=[b"A"], txt=[b"one", b"two"], label=[3], url=[b"https://u:p@h/a?x"], w=[4, 5]),
    example(key=[b"b"], jpg=[b"B"], txt=[], label=[b"tabby"], score=[0.5]),
    example(key=[7], txt=[b"\xff"]),
]


def config(path: Path, **options) -> SourceConfig:
    given = {"id_column": "key", "image_column": "jpg", "caption_column": ("txt",)} | options
    return SourceConfig((str(path),), "tfrecord", **given)


def write(path: Path, rows: list[bytes]) -> Path:
    data = b"".join(map(framed, rows))
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["x.tfrecord", "x.tfrecord.gz"])
def test_examples_become_records(tmp_path: Path, read_all, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    records, damage = read_all(config(path, label_column="label", metadata_columns=("url", "w", "score")))
    assert damage is None
    assert [(r.position, r.locator, r.id, r.image) for r in records] == [
        (0, f"{name}#0", "a", b"A"), (1, f"{name}#1", "b", b"B"), (2, f"{name}#2", "7", None)
    ]  # fmt: skip
    assert records[0].captions == (Caption("one"), Caption("two"))
    assert [r.caption_problems for r in records] == [(), ("missing",), ("not_utf8",)]
    assert [(r.labels, r.label_names) for r in records] == [((3,), ()), ((), ("tabby",)), ((), ())]
    assert records[0].metadata == '{"url": "https://h/a", "w": [4, 5], "score": []}'


def test_ids_from_places(tmp_path: Path, read_all) -> None:
    records, _ = read_all(config(write(tmp_path / "x.tfrec", ROWS), id_column=""))
    assert [r.id for r in records] == ["x.tfrec/0", "x.tfrec/1", "x.tfrec/2"]


def test_the_golden_example(tmp_path: Path, read_all) -> None:
    (tmp_path / "x.tfrecord").write_bytes(GOLDEN)
    options = {"id_column": "image/id", "image_column": "image/encoded", "caption_column": ("caption/text",)}
    records, damage = read_all(
        config(tmp_path / "x.tfrecord", **options, metadata_columns=("score", "image/id"))
    )
    assert damage is None
    assert [(r.id, r.image, r.captions) for r in records] == [("42", b"\x89PNG", (Caption("one"),))]
    assert records[0].caption_problems == ("empty",)
    assert records[0].metadata == '{"score": [0.5, -2.0], "image/id": [42, -1]}'


def test_checksums_agree_with_the_library() -> None:
    data = random.Random(0).randbytes(999)
    assert crc32c(data) == crc32c_function()(data)
    assert crc32c(b"123456789") == 0xE3069283


def test_a_wrong_checksum_costs_its_example(tmp_path: Path, read_all) -> None:
    path = write(tmp_path / "x.tfrecord", ROWS)
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    records, damage = read_all(config(path))
    assert damage is None
    assert records[0].problem == ("id", "malformed", "wrong checksum")
    assert [r.id for r in records] == [None, "b", "7"]


@pytest.mark.parametrize("cut", [1, 5, 13, 60])
def test_what_came_before_a_break_is_kept(tmp_path: Path, read_all, cut: int) -> None:
    path = write(tmp_path / "x.tfrecord", ROWS)
    size = len(b"".join(map(framed, ROWS[:2])))
    path.write_bytes(path.read_bytes()[: size + min(cut, len(framed(ROWS[2])) - 1)])
    records, damage = read_all(config(path))
    assert [r.id for r in records] == ["a", "b"]
    assert damage is not None


def test_large_images_and_large_examples(tmp_path: Path, read_all, monkeypatch) -> None:
    monkeypatch.setattr(tfrecord, "BESIDE_IMAGE", 100)
    rows = [ROWS[0], example(key=[b"c"], jpg=[b"x" * 60]), example(key=[b"d"], jpg=[b"x" * 900]), ROWS[1]]
    records, _ = read_all(config(write(tmp_path / "x.tfrecord", rows)), max_bytes=50)
    assert [r.problem and r.problem[:2] for r in records] == [
        None, ("read", "too_many_bytes"), ("id", "malformed"), None
    ]  # fmt: skip


def test_missing_features_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tfrecord", ROWS)
    with pytest.raises(ValueError, match=r"--image-column 'image/encoded', found features 'key', 'jpg'"):
        make_plan(config(path, image_column="image/encoded"))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80), st.integers(0, 200))
def test_no_bytes_break_a_reader(tmp_path: Path, noise: bytes, place: int) -> None:
    with suppress(ValueError):
        parse_example(noise, ["key"])
    data = framed(noise) + framed(ROWS[0][:place] + noise + ROWS[0][place:])
    path = tmp_path / "x.tfrecord"
    path.write_bytes(data)
    unit = Unit(0, 0, (Slice(str(path), len(data), ""),), str(tmp_path))
    assert len(list(tfrecord.read_unit(unit, config(path)))) == 2


def test_a_flood_of_values_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(tf_example, "_MAX_VALUES", 3)
    for values in ([1, 2, 3, 4], [b""] * 4, [0.5] * 4):
        assert len(parse_example(example(x=values[:3]), ["x"])["x"]) == 3
        with pytest.raises(ValueError, match="more than 3 values"):
            parse_example(example(x=values), ["x"])
