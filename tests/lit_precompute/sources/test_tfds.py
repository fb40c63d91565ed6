"""Data sets as TensorFlow Datasets prepares them, read from a golden one that it made."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image

from lit_precompute.config import SourceConfig
from lit_precompute.plan import Plan, make_plan
from lit_precompute.records import DamagedInput, Record
from lit_precompute.sources import tfds
from tests.conftest import square


@pytest.fixture
def data_dir(golden_dir: Path, tmp_path: Path) -> Path:
    """`tiny_squares`: splits train (4) and val (2) of two shards each, prepared by tensorflow-datasets 4.9.10."""
    shutil.copytree(golden_dir / "tfds", tmp_path / "data")
    return tmp_path / "data"


def config(data_dir: Any, **flags: Any) -> SourceConfig:
    given: dict[str, Any] = {"split": "train", "caption_column": ("captions/text",), "label_column": "label"}
    return SourceConfig((str(data_dir),), "tfds", **given | flags)


def read(plan: Plan, source: SourceConfig) -> list[Record]:
    return [record for unit in plan.units for record in tfds.read_unit(unit, source)]


def test_a_split_with_its_images_captions_and_labels(data_dir: Path) -> None:
    source = config(data_dir, id_column="image/id", metadata_columns=("title",))
    plan = make_plan(source)
    assert len(plan.units) == 1  # small shards share one
    assert [Path(part.path).name[-14:] for part in plan.units[0].slices] == [
        "00000-of-00002",
        "00001-of-00002",
    ]
    records = sorted(read(plan, source), key=lambda record: str(record.id))
    assert [record.id for record in records] == ["100", "101", "102", "103"]
    for number, record in enumerate(records):
        assert [one.text for one in record.captions] == [f"caption {number}.0", f"caption {number}.1"]
        assert (record.labels, record.metadata) == ((number,), json.dumps({"title": f"square {number}"}))
        seen, wanted = (
            Image.open(io.BytesIO(data)).convert("RGB").tobytes()
            for data in (record.image or b"", square(number / 6))
        )
        assert seen == wanted
    assert sorted(record.position for record in records) == [0, 1, 2, 3]


def test_several_splits_and_ids_by_row(data_dir: Path) -> None:
    source = config(data_dir, split="val+train", builder="tiny_squares:1.0.0")
    records = read(make_plan(source, unit_bytes=1), source)
    assert len(records) == 6
    assert records[0].id == "tiny_squares/1.0.0/tiny_squares-val.tfrecord-00000-of-00002/0"
    assert len({record.id for record in records}) == 6
    assert "tensorflow" not in sys.modules


def test_the_newest_version_unless_one_is_named(data_dir: Path) -> None:
    old, new = data_dir / "tiny_squares" / "1.0.0", data_dir / "tiny_squares" / "1.10.0"
    shutil.copytree(old, new)
    info = json.loads((new / "dataset_info.json").read_text()) | {"version": "1.10.0"}
    (new / "dataset_info.json").write_text(json.dumps(info))
    (newest,) = make_plan(config(data_dir)).units
    assert "/1.10.0/" in newest.slices[0].path
    (named,) = make_plan(config(data_dir, builder="tiny_squares:1.0.0")).units
    assert "/1.0.0/" in named.slices[0].path


def lose_a_shard(folder: Path) -> None:
    (folder / "tiny_squares-train.tfrecord-00001-of-00002").unlink()


def lose_the_info(folder: Path) -> None:
    (folder / "dataset_info.json").unlink()


def break_the_info(folder: Path) -> None:
    (folder / "dataset_info.json").write_text("[]")


def another_beside(folder: Path) -> None:
    shutil.copytree(folder, folder.parents[1] / "other" / "1.0.0")
    path = folder.parents[1] / "other" / "1.0.0" / "dataset_info.json"
    path.write_text(path.read_text().replace('"tiny_squares"', '"other"'))


@pytest.mark.parametrize(
    ("flags", "change", "words"),
    [
        (
            {"split": "train[:10%]"},
            None,
            r"--split: tiny_squares:1.0.0 must have train\[:10%\], found train, val",
        ),
        ({"builder": "coco"}, None, "--builder: must name one prepared data set, found tiny_squares:1.0.0"),
        ({"builder": "../x"}, None, "--builder: must look like name"),
        ({}, lose_a_shard, r"all 2 files of its splits, 1 are not there \(tiny_squares-train.tfrecord-00001"),
        ({}, lose_the_info, "found none"),
        ({}, break_the_info, "must be a JSON object"),
        ({}, another_beside, "found other:1.0.0, tiny_squares:1.0.0"),
        ({"image_column": "picture"}, None, "--image-column 'picture', found features"),
    ],
)
def test_refusals(
    data_dir: Path, flags: dict[str, Any], change: Callable[[Path], None] | None, words: str
) -> None:
    if change is not None:
        change(data_dir / "tiny_squares" / "1.0.0")
    with pytest.raises(ValueError, match=words):
        make_plan(config(data_dir, **flags))


def test_on_another_storage_and_a_damaged_shard(data_dir: Path) -> None:
    folder, memory = data_dir / "tiny_squares" / "1.0.0", fsspec.filesystem("memory")
    for file in folder.iterdir():
        data = file.read_bytes()
        memory.pipe(f"/test_tfds/tiny_squares/1.0.0/{file.name}", data[:-9] if "train" in file.name else data)
    source = config("memory://test_tfds")
    (unit,) = make_plan(source).units
    records = tfds.read_unit(unit, source)
    assert len([next(records), next(records)]) == 2
    with pytest.raises(DamagedInput, match="cut off"):
        next(records)


def test_array_record(data_dir: Path) -> None:
    module = pytest.importorskip(
        "array_record.python.array_record_module", reason="needs the package array_record (extra tfds)"
    )
    folder = data_dir / "tiny_squares" / "1.0.0"
    source = config(data_dir, id_column="image/id")
    expected = read(make_plan(source), source)
    for shard in folder.glob("*.tfrecord-*"):
        writer = module.ArrayRecordWriter(str(shard).replace("tfrecord", "array_record"), "group_size:1")
        data = shard.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            writer.write(data[12 : 12 + size])
            data = data[12 + size + 4 :]
        writer.close()
    info = (folder / "dataset_info.json").read_text().replace('"tfrecord"', '"array_record"')
    (folder / "dataset_info.json").write_text(info)
    plan = make_plan(source)
    assert "array_record" in plan.units[0].slices[0].path
    found = read(plan, source)
    assert [(one.id, one.image, one.captions) for one in found] == [
        (one.id, one.image, one.captions) for one in expected
    ]
    path = Path(plan.units[0].slices[1].path)
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(DamagedInput, match="ArrayRecord"):
        read(plan, source)


def test_through_lit_embed_twice(data_dir: Path, tmp_path: Path, embed: Callable[..., int]) -> None:
    flags = ["--input", data_dir, "--format", "tfds", "--split", "train", "--caption-column", "captions/text"]
    flags += ["--builder", "tiny_squares", "--output", tmp_path / "store", "--tower-id", "t"]
    assert embed(*flags) == 0
    (data_dir / "tiny_squares" / "1.0.0" / "notes.txt").write_text("not of the split")
    assert embed(*flags) == 0
    assert embed(*flags, "--append") == 2
