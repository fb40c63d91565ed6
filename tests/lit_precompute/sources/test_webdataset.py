import gzip
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_precompute.config import SourceConfig
from lit_precompute.plan import make_plan
from lit_precompute.records import Caption, DamagedInput
from lit_precompute.sources import webdataset
from lit_precompute.sources.webdataset import split_key
from lit_precompute.units import Slice, Unit


def config(path: object, **options) -> SourceConfig:
    return SourceConfig((str(path),), "webdataset", **options)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("000.jpg", ("000", "jpg")),
        ("dir.with.dots/000.JPG", ("dir.with.dots/000", "jpg")),
        ("a/b/c.seg.png", ("a/b/c", "seg.png")),
        ("./c.txt", ("./c", "txt")),
        ("/abs/../c.txt", ("/abs/../c", "txt")),
        ("noext", None),
        (".hidden.jpg", None),
        ("a/._b.jpg", None),
    ],
)
def test_split_key(name: str, expected) -> None:
    assert split_key(name) == expected


def test_members_of_one_key_make_a_record(write_tar, read_all) -> None:
    path = write_tar(
        "x.tar",
        [
            ("a/0.jpg", b"0"), ("a/0.txt", b"a dog\n"), ("a/0.json", b'{"caption": "unused", "n": 1}'),
            ("a/1.PNG", b"1"), ("a/1.JSON", b'{"caption": "a cat", "y": 7}'), ("a/1.cls", b"3\n"),
            ("a/2.cls", b"tabby"), ("a/2.webp", b"2"), ("a/2.npy", b"ignored"), ("a/2.seg.png", b"ignored"),
            ("README", b"no record"), ("notes.md", b"no record"),
        ],
    )  # fmt: skip
    records, damage = read_all(config(path, label_column="y"))
    assert damage is None
    assert [(record.position, record.id, record.image) for record in records] == [
        (0, "a/0", b"0"),
        (1, "a/1", b"1"),
        (2, "a/2", b"2"),
    ]
    assert [record.captions for record in records] == [(Caption("a dog"),), (Caption("a cat"),), ()]
    assert [record.labels for record in records] == [(), (3, 7), ()]
    assert records[2].label_names == ("tabby",)
    assert records[2].caption_problems == ("missing",)
    assert records[0].metadata == '{"caption": "unused", "n": 1}'
    assert [record.locator for record in records] == ["x.tar#a/0.jpg", "x.tar#a/1.PNG", "x.tar#a/2.webp"]


def test_captions_from_json_fields(write_tar, read_all) -> None:
    json = b'{"title": "T", "tags": ["x", "y"], "alt": null}'
    path = write_tar("x.tar", [("0.jpg", b"0"), ("0.json", json)])
    records, _ = read_all(config(path, caption_column=("title", "tags", "alt")))
    assert records[0].captions == (Caption("T", "title"), Caption("x", "tags"), Caption("y", "tags"))
    assert records[0].caption_problems == ("missing",)


def test_which_members_are_read(write_tar, read_all) -> None:
    path = write_tar(
        "x.tar",
        [
            ("0.jpg", b"j"), ("0.PNG", b"p"), ("0.seg.png", b"s"), ("0.txt", b"text"), ("0.json", b'{"alt": "A"}'),
            ("1.jpg", b"1"), ("1.gif", b"g"), ("1.caption", b"own"), ("1.json", b'{"alt": null}'),
            ("2.gif", b"2"), ("2.txt", b"last"),
        ],
    )  # fmt: skip

    def read(**options):
        return [(r.image, tuple(c.text for c in r.captions)) for r in read_all(config(path, **options))[0]]

    assert read() == [(b"j", ("text",)), (b"1", ()), (b"2", ("last",))]
    one = read(image_suffixes=("png;jpg",), caption_suffixes=("json",), caption_column=("alt",))
    assert one == [(b"p", ("A",)), (b"1", ()), (None, ())]
    two = read(
        image_suffixes=(".SEG.png", "gif"), caption_suffixes=("caption", "json;txt"), caption_column=("alt",)
    )
    assert two == [(b"s", ("A",)), (b"g", ("own",)), (b"2", ("last",))]
    records, _ = read_all(config(path, caption_suffixes=("caption",)))
    assert [r.caption_problems for r in records] == [("missing",), (), ("missing",)]


@pytest.mark.parametrize("bad", [b"[1]", b"{", b'{"a": "\xff"}', b'{"caption": "\\ud800"}'])
def test_bad_json_costs_only_itself(write_tar, read_all, bad: bytes) -> None:
    path = write_tar("x.tar", [("0.jpg", b"0"), ("0.json", bad), ("1.jpg", b"1"), ("1.txt", b"fine")])
    records, damage = read_all(config(path))
    assert damage is None
    assert [(record.image, len(record.captions)) for record in records] == [(b"0", 0), (b"1", 1)]


def test_faults_of_single_members(write_tar, read_all) -> None:
    path = write_tar(
        "x.tar",
        [
            ("0.jpg", b""), ("0.txt", b""),
            ("1.txt", b"caption without image"),
            ("2.jpg", b"2"), ("2.txt", b"\xffbad"),
            ("3.jpg", b"3"), ("3.txt", b" \t\n "),
            ("4.jpg", b"4" * 200), ("4.txt", b"too large"),
            ("5.jpg", b"5"), ("5.txt", b"x" * ((1 << 20) + 1)),
            ("6.jpg", b"6"), ("6.txt", b"ten\x00ch \xe2\x80\xae\xef\xbb\xbf"),
            ("bad\udce9.jpg", b"7"), ("bad\udce9.txt", b"seven"),
            ("/abs/../../8.jpg", b"8"),
        ],
    )  # fmt: skip
    records, damage = read_all(config(path), max_bytes=100)
    assert damage is None
    assert [record.image for record in records] == [b"", None, b"2", b"3", None, b"5", b"6", None, b"8"]
    assert [record.caption_problems for record in records] == [
        ("empty",), (), ("not_utf8",), ("empty",), (), ("too_many_bytes",), (), (), ("missing",)
    ]  # fmt: skip
    assert records[4].problem == ("read", "too_many_bytes", "200 bytes, the limit is 100")
    assert records[6].captions[0].text == "ten\x00ch \u202e\ufeff"
    assert (records[7].id, records[7].problem) == (None, ("id", "not_utf8", "bad\\udce9"))
    assert records[8].id == "/abs/../../8"


def test_one_image_a_record_and_no_record_lost(write_tar, read_all) -> None:
    members = [
        ("a.jpg", b"1"),
        ("a.png", b"2"),
        ("a.txt", b"x"),
        ("a.jpg", b"3"),
        ("a.txt", b"y"),
        ("b.jpg", b"4"),
    ]
    records, _ = read_all(config(write_tar("x.tar", members)))
    assert [(record.id, record.image) for record in records] == [("a", b"1"), ("a", b"3"), ("b", b"4")]
    assert [record.captions for record in records] == [(Caption("x"),), (Caption("y"),), ()]


def test_each_archive_is_a_unit(write_tar, read_all) -> None:
    for number in range(3):
        write_tar(f"{number}.tar", [("k.jpg", b"%d" % number)])
    path = write_tar("3.tgz", [("k.jpg", b"3")])
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert len(make_plan(config(path.parent)).units) == 4
    assert [record.image for record in read_all(config(path.parent))[0]] == [b"0", b"1", b"2", b"3"]


def test_a_cut_archive_keeps_its_whole_records(write_tar, read_all) -> None:
    members = [member for n in range(4) for member in ((f"{n}.jpg", b"x" * 600), (f"{n}.txt", b"c"))]
    path = write_tar("x.tar", members)
    record_bytes = 512 * 5
    path.write_bytes(path.read_bytes()[: 2 * record_bytes + 700])
    records, damage = read_all(config(path))
    assert [record.id for record in records] == ["0", "1"]
    assert str(damage) == "x.tar: at byte 5,120: cut off inside a member, after '2'"
    path.write_bytes(path.read_bytes()[: 2 * record_bytes])
    records, damage = read_all(config(path))
    assert [record.id for record in records] == ["0", "1"]
    assert "end mark" in str(damage)


MEMBERS = [
    (f"{'long' * 30 if n % 3 else 'k'}{n}.{s}", b"{}" * n) for n in range(6) for s in ("jpg", "txt", "json")
]


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("samples")
    found = []
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(folder / "x.tar", "w", format=format) as archive:
            for name, data in MEMBERS:
                (folder / "member").write_bytes(data)
                archive.add(folder / "member", name)
        found.append((folder / "x.tar").read_bytes())
    return [*found, gzip.compress(found[0])]


@settings(
    max_examples=400,
    deadline=2000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    sample=st.integers(0, 2),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=6), st.integers(0, 600)), max_size=6),
    end=st.floats(0, 1) | st.none(),
)
def test_mutated_archives_give_records_or_damage(tmp_path: Path, samples, sample: int, edits, end) -> None:
    data = samples[sample]
    for place, inserted, removed in edits:
        at = int(place * len(data))
        data = data[:at] + inserted + data[at + removed :]
    read_bytes(tmp_path, data if end is None else data[: int(end * len(data))])


@settings(
    max_examples=200,
    deadline=2000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.binary(max_size=2000), gzipped=st.booleans())
def test_random_bytes_are_damage(tmp_path: Path, data: bytes, gzipped: bool) -> None:
    read_bytes(tmp_path, gzip.compress(data) if gzipped else data)


def read_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fuzz.tar"
    path.write_bytes(data)
    try:
        for record in webdataset.read_unit(Unit(0, 0, (Slice(str(path), len(data), ""),)), config(path)):
            record.locator.encode()
    except DamagedInput:
        return


@pytest.mark.shared
def test_broken_sample(shared_dir: Path, read_all) -> None:
    records, damage = read_all(config(shared_dir / "data" / "imagenet_sample" / "wds" / "broken-000000.tar"))
    assert damage is None
    by_id = {record.id: record for record in records}
    assert len(records) == len(by_id) == 34
    assert {id for id, record in by_id.items() if record.image is None} == {"005_null_image", "901_text_only"}
    assert by_id["004_zero_bytes"].image == b""
    assert {id: record.caption_problems for id, record in by_id.items() if not record.captions} == {
        "020_caption_null": ("missing",),
        "021_caption_empty": ("empty",),
        "022_caption_whitespace": ("empty",),
        "900_utf8_bad": ("not_utf8",),
    }
    assert by_id["dir.with.dots/902_dotted"].image
    assert by_id["903_uppercase"].captions
    assert len(by_id["023_caption_very_long"].captions[0].text) == 24_000
    assert all(record.problem is None for record in records)


@pytest.mark.shared
def test_truncated_sample(shared_dir: Path, read_all) -> None:
    folder = shared_dir / "data" / "imagenet_sample" / "wds"
    whole, no_damage = read_all(config(folder / "imagenet_sample-*.tar"))
    cut, damage = read_all(config(folder / "truncated-000000.tar"))
    assert no_damage is None
    assert len(whole) == 1000
    images = {record.id: record.image for record in whole}
    assert len(cut) == 12
    assert all(images[record.id] == record.image and record.captions for record in cut)
    assert str(damage).startswith("truncated-000000.tar: at byte 398,848: cut off inside a member")
