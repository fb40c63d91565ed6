"""COCO captions and Karpathy splits."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from lit_precompute.config import SourceConfig
from lit_precompute.plan import make_plan
from lit_precompute.records import Caption
from lit_precompute.sources import SOURCES, captions_json

COCO: dict[str, Any] = {
    "info": {"year": 2014},
    "images": [
        {"id": 42, "file_name": "COCO_val2014_000000000042.jpg", "height": 4, "coco_url": "http://x/42"},
        {"id": 7, "file_name": "COCO_val2014_000000000007.jpg"},
        {"id": 9, "file_name": "../9.jpg"},
        {"file_name": "x.jpg"},
        "nonsense",
        {"id": "s1"},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "caption": "A dog."},
        {"id": 2, "image_id": 42, "caption": "A red boat"},
        {"id": 3, "image_id": 42, "caption": " "},
        {"id": 4, "image_id": 42, "caption": "a boat, seen from above\n"},
        {"id": 5, "image_id": 42, "category_id": 3},
    ],
}
KARPATHY: dict[str, Any] = {
    "dataset": "coco",
    "images": [
        {
            "filepath": "val2014", "filename": "COCO_val2014_42.jpg", "cocoid": 42, "split": "test", "imgid": 0,
            "sentences": [{"raw": "One."}, {"raw": "Two", "tokens": ["two"]}],
        },
        {"filename": "1000092795.jpg", "split": "train", "sentences": [{"raw": "flickr"}]},
        {"filepath": "train2014", "filename": "7.jpg", "cocoid": 7, "split": "restval", "sentences": "?"},
        {"filename": "9.jpg", "split": "val", "sentences": []},
        {"filename": "9.jpg", "split": ["val"]},
        {"filename": "9.jpg", "split": {"val": 1}},
    ],
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for name in ("val2014/COCO_val2014_42.jpg", "train2014/7.jpg", "1000092795.jpg", "9.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    for image in COCO["images"][:2]:
        (folder / image["file_name"]).write_bytes(str(image["id"]).encode())
    return folder


def write(path: Path, value: Any) -> Path:
    data = json.dumps(value).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def coco(path: Path, root: Path, **options) -> SourceConfig:
    return SourceConfig((str(path),), "coco", image_root=str(root), **options)


def karpathy(path: Path, root: Path, split: str) -> SourceConfig:
    return SourceConfig((str(path),), "karpathy", image_root=str(root), split=split)


@pytest.mark.parametrize("name", ["captions.json", "captions.json.gz"])
def test_coco(tmp_path: Path, root: Path, read_all, name: str) -> None:
    records, damage = read_all(coco(write(tmp_path / name, COCO), root))
    assert damage is None
    assert [(r.position, r.id, r.image) for r in records[:2]] == [(0, "42", b"42"), (1, "7", b"7")]
    assert records[0].captions == (Caption("A red boat"), Caption("a boat, seen from above\n"))
    assert records[0].caption_problems == ("empty",)
    assert records[0].metadata == '{"file_name": "COCO_val2014_000000000042.jpg"}'
    assert records[0].locator == f"{name}#0"
    assert records[1].captions == (Caption("A dog."),)
    assert [r.problem and r.problem[:2] for r in records[2:]] == [
        ("read", "refused"), ("read", "io"), ("read", "malformed"), ("read", "malformed")
    ]  # fmt: skip
    assert [r.id for r in records[2:]] == ["9", None, None, "s1"]


def test_the_folder_of_the_file_is_the_default_root(root: Path, read_all) -> None:
    path = write(root / "captions.json", COCO)
    assert [r.image for r in read_all(SourceConfig((str(path),), "coco"))[0][:2]] == [b"42", b"7"]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("test", [("42", b"val2014/COCO_val2014_42.jpg", ("One.", "Two"))]),
        ("val", [("9", b"9.jpg", ())]),
        ("train", [("1000092795", b"1000092795.jpg", ("flickr",))]),
        ("train+restval", [("1000092795", b"1000092795.jpg", ("flickr",)), ("7", b"train2014/7.jpg", ())]),
    ],
)
def test_karpathy(tmp_path: Path, root: Path, read_all, split: str, expected) -> None:
    records, damage = read_all(karpathy(write(tmp_path / "dataset.json", KARPATHY), root, split))
    assert damage is None
    assert [(r.id, r.image, tuple(c.text for c in r.captions)) for r in records] == expected


def test_units_are_runs_of_images_parsed_once(tmp_path: Path, root: Path, read_all, monkeypatch) -> None:
    monkeypatch.setattr(captions_json, "UNIT_IMAGES", 2)
    parsed: list[str] = []
    real = captions_json._load
    monkeypatch.setattr(
        captions_json, "_load", lambda file, options: (parsed.append(file.path), real(file, options))[1]
    )
    one = coco(write(tmp_path / "captions.json", COCO), root)
    units = make_plan(one).units
    assert [(unit.slices[0].first, unit.slices[0].last) for unit in units] == [(0, 2), (2, 4), (4, 6)]
    assert [r.position for r in read_all(one)[0]] == [0, 1, 0, 1, 0, 1]
    assert len(parsed) == 1


def test_no_more_than_two_files_are_kept(tmp_path: Path, root: Path) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.json", COCO)
    make_plan(coco(tmp_path / "*.json", root))
    assert len(captions_json._PARSED) == captions_json.KEPT


def test_a_file_that_changed_is_not_read(tmp_path: Path, root: Path) -> None:
    one = coco(write(tmp_path / "captions.json", COCO), root)
    unit = make_plan(one).units[0]
    write(tmp_path / "captions.json", COCO | {"images": []})
    captions_json._PARSED.clear()  # as another process
    with pytest.raises(OSError, match="as planned"):
        list(SOURCES["coco"].read_unit(unit, one))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "a.json: must be JSON"),
        ("[1]", "must be an object with a list `images`, found no object"),
        ('{"data": 1}', "found keys 'data'"),
        ('{"images": [], "annotations": {"a": 1}}', "`annotations` must be a list"),
        ('{"images": [], "annotations": [{"image_id": 1, "bbox": []}]}', "not instances_"),
        ('{"images": [{"id": 1, "file_name": "/etc/passwd"}]}', "none of the first 1 does"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, root: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        make_plan(coco(tmp_path / "a.json", root))


def test_a_split_that_is_not_there(tmp_path: Path, root: Path) -> None:
    path = write(tmp_path / "dataset.json", KARPATHY)
    with pytest.raises(ValueError, match="--split: must be of restval, test, train, val, found dev"):
        make_plan(karpathy(path, root, "dev+test"))
