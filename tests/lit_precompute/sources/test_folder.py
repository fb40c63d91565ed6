import os
from pathlib import Path

import fsspec
import pytest

from lit_precompute.config import SourceConfig
from lit_precompute.plan import make_plan
from lit_precompute.records import Caption
from lit_precompute.sources import folder
from lit_precompute.units import Slice


def config(path: object, **options) -> SourceConfig:
    return SourceConfig((str(path),), "folder", **options)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    files = {
        "b.jpg": b"B",
        "b.txt": b"\xef\xbb\xbfa dog\r\n\n  two lines \n",
        "a.JPEG": b"A",
        "a.json": b'{"caption": "a cat", "label": 4}',
        "sub.dir/c.1.png": b"C",
        "sub.dir/c.1.TXT": b"nested",
        "sub.dir/d.webp": b"D",
        "classes.txt": b"cat\ndog",
        ".hidden.jpg": b"no",
        ".cache/x.jpg": b"no",
        "notes.md": b"no",
    }
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_images_with_texts_beside(photos: Path, read_all) -> None:
    records, damage = read_all(config(photos, label_column="label"))
    assert damage is None
    assert [(record.position, record.id, record.image) for record in records] == [
        (0, "a", b"A"),
        (1, "b", b"B"),
        (2, "sub.dir/c.1", b"C"),
        (3, "sub.dir/d", b"D"),
    ]
    assert [record.captions for record in records] == [
        (Caption("a cat"),),
        (Caption("a dog"), Caption("  two lines ")),
        (Caption("nested"),),
        (),
    ]
    assert (records[0].labels, records[0].metadata) == ((4,), '{"caption": "a cat", "label": 4}')
    assert records[3].caption_problems == ("missing",)
    assert records[2].locator == "c.1.png"


@pytest.mark.parametrize("pattern", ["*.jp*g", "[ab].*", "**/*", "{a.JPEG,b.jpg}"])
def test_patterns_find_the_texts_too(photos: Path, read_all, pattern: str) -> None:
    if "{" in pattern:
        os.rename(photos / "a.JPEG", photos / "a.jpeg")
        pattern = "{a.jpeg,b.jpg}"
    pattern = pattern.replace("*.jp*g", "b.jp*g")
    records, _ = read_all(config(f"{photos}/{pattern}"))
    by_id = {record.id: record for record in records}
    assert len(by_id["b"].captions) == 2
    if pattern != "b.jp*g":
        assert by_id["a"].captions == (Caption("a cat"),)


def test_a_changed_caption_is_a_changed_input(photos: Path) -> None:
    before = make_plan(config(photos)).digest
    (photos / "b.txt").write_bytes(b"another")
    assert make_plan(config(photos)).digest != before
    before = make_plan(config(photos)).digest
    (photos / "classes.txt").write_bytes(b"belongs to no image")
    assert make_plan(config(photos)).digest == before


def test_blank_and_broken_texts(photos: Path, read_all) -> None:
    (photos / "b.txt").write_bytes(b"\n \r\n")
    (photos / "sub.dir" / "c.1.TXT").write_bytes(b"good\nb\xe4d\n")
    records, _ = read_all(config(photos))
    assert (records[1].captions, records[1].caption_problems) == ((), ("empty",))
    assert (records[2].captions, records[2].caption_problems) == ((Caption("good"),), ("not_utf8",))


def test_two_images_of_one_stem_share_id_and_texts(photos: Path, read_all) -> None:
    (photos / "b.png").write_bytes(b"B2")
    records, _ = read_all(config(photos))
    assert [(record.id, record.image) for record in records[1:3]] == [("b", b"B"), ("b", b"B2")]
    assert records[1].captions == records[2].captions


@pytest.mark.parametrize("suffix", ["avif", "JFIF", "jpe", "TIFF", "heic"])
def test_any_common_suffix_is_an_image(tmp_path: Path, read_all, suffix: str) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(b"A")
    (tmp_path / "a.txt").write_text("a cat")
    (record,) = read_all(config(tmp_path))[0]
    assert (record.id, record.image, record.captions) == ("a", b"A", (Caption("a cat"),))


def test_of_one_stem_what_can_be_read_comes_first(tmp_path: Path, read_all) -> None:
    for name in ("a.heic", "a.jpg", "b.heic"):
        (tmp_path / name).write_bytes(name.encode())
    records = read_all(config(tmp_path))[0]
    assert [(record.id, record.image) for record in records] == [
        ("a", b"a.jpg"), ("a", b"a.heic"), ("b", b"b.heic")
    ]  # fmt: skip


def test_a_file_that_can_not_be_read_costs_its_record(photos: Path, read_all, monkeypatch) -> None:
    monkeypatch.setattr("schemas.retries.FIRST_WAIT", 0.0)
    one = config(photos)
    unit = make_plan(one).units[0]
    (photos / "a.JPEG").unlink()
    (photos / "b.jpg").write_bytes(b"longer than planned")
    (photos / "b.txt").unlink()
    records = list(folder.read_unit(unit, one, max_bytes=100))
    assert [record.problem and record.problem[:2] for record in records] == [
        ("read", "io"),
        ("read", "io"),
        None,
        None,
    ]
    assert records[0].problem is not None
    assert "No such file" in records[0].problem[2]
    assert records[1].problem is not None
    assert "as planned" in records[1].problem[2]
    assert records[1].caption_problems == ("io",)


def test_too_large_images_are_not_read(photos: Path, read_all) -> None:
    (photos / "b.jpg").write_bytes(b"x" * 101)
    records, _ = read_all(config(photos), max_bytes=100)
    assert records[1].problem == ("read", "too_many_bytes", "101 bytes, the limit is 100")
    assert len(records[1].captions) == 2


def test_names_that_are_not_text(photos: Path, read_all) -> None:
    with open(os.fsencode(photos) + b"/z\xe9.jpg", "wb") as file:
        file.write(b"Z")
    records, _ = read_all(config(photos))
    bad = next(record for record in records if record.id is None)
    assert (bad.locator, bad.problem) == ("z\\udce9.jpg", ("id", "not_utf8", "z\\udce9"))
    assert len(records) == 5


def test_units_hold_1024_images_and_whole_stems(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(folder, "UNIT_FILES", 4)
    for name in ("0", "1", "2", "3", "4", "5"):
        (tmp_path / f"{name}.jpg").write_bytes(b"x" * 10)
        (tmp_path / f"{name}.txt").write_bytes(b"y")
    (tmp_path / "3.png").write_bytes(b"x" * 10)

    def units(unit_bytes: int) -> list[str]:
        plan = make_plan(config(tmp_path), unit_bytes)
        return [" ".join(Path(part.path).name for part in unit.slices) for unit in plan.units]

    assert units(1000) == [
        "0.jpg 0.txt 1.jpg 1.txt 2.jpg 2.txt",
        "3.jpg 3.png 3.txt 4.jpg 4.txt 5.jpg 5.txt",
    ]
    assert len(units(11)) == 6


def test_no_images(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match="must hold images"):
        make_plan(config(tmp_path))


def test_on_another_filesystem(read_all) -> None:
    files = {f"/test_folder/{n}.jpg": b"%d" % n for n in range(20)} | {"/test_folder/3.txt": b"three"}
    fsspec.filesystem("memory").pipe(files)
    for path in ("memory://test_folder", "memory://test_folder/*.jpg"):
        records, damage = read_all(config(path))
        assert damage is None
        assert [record.image for record in records] == [b"%d" % n for n in sorted(range(20), key=str)]
        assert next(record for record in records if record.id == "3").captions == (Caption("three"),)


def test_reading_ahead_is_bounded(monkeypatch) -> None:
    taken: list[int] = []

    def files():
        for number in range(100):
            taken.append(number)
            yield Slice(f"/none/{number}.jpg", 1, "")

    found = folder._read_ahead(files(), None, 100)
    next(found)
    assert len(taken) <= folder.READ_AHEAD
    found.close()


def test_captions_from_json_although_there_is_text(photos: Path, read_all) -> None:
    (photos / "b.json").write_text('{"caption": "from json"}')

    def texts(*suffixes: str) -> list[list[str]]:
        records, _ = read_all(config(photos, caption_suffixes=suffixes))
        return [[caption.text for caption in record.captions] for record in records]

    assert texts() == [["a cat"], ["a dog", "  two lines "], ["nested"], []]
    assert texts("json") == [["a cat"], ["from json"], [], []]
    assert texts("json;txt") == [["a cat"], ["from json"], ["nested"], []]
    assert texts("txt") == [[], ["a dog", "  two lines "], ["nested"], []]
