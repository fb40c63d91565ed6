"""The commands of the documentation: their flags are right, and those of each source read what the page shows."""

import json
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tyro

from lit_precompute.config import EmbedConfig
from lit_precompute.plan import make_plan
from lit_precompute.sources import SOURCES
from pipelines.beam_flags import beam_options, flag_names, split_passed
from tests.lit_precompute.sources.conftest import tar_bytes
from tests.lit_precompute.sources.test_tfrecord import example, framed

REPO = Path(__file__).resolve().parents[2]
TOWER = "--tower efficientnet-lite0 --checkpoint efficientnet-lite0.pth"
REST = {"--input x": "--input", "--format folder": "--format", "--output store": "--output", TOWER: "--tower"}

DATAFLOW = {
    "--project=P --region=R --temp_location=gs://b/t": "--project=PROJECT",
    "--sdk_container_image=IMAGE": "--sdk_container_image=IMAGE",
}


def commands(page: Path) -> list[str]:
    """Every `lit-embed` command of a page, on one line, without remarks."""
    joined = re.sub(r"\\\n\s*", "", page.read_text())
    found = re.findall(r"^(?: {4})?lit-embed (.*--.*)$", joined, re.MULTILINE)
    return [re.split(r"\s{3,}|\s+# ", one)[0].replace("TOWER", TOWER) for one in found]


DOCUMENTED = [
    (page.relative_to(REPO).as_posix(), command)
    for page in [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
    for command in commands(page)
]


def parse(flags: Sequence[str]) -> EmbedConfig:
    ours, passed = split_passed(flags)
    config, rest = tyro.cli(
        EmbedConfig, args=ours, return_unknown_args=True, config=(tyro.conf.OmitArgPrefixes,)
    )
    beam_options(rest, passed, flag_names(EmbedConfig))
    return config


def test_the_commands_are_found() -> None:
    pages = [page for page, _ in DOCUMENTED]
    assert pages.count("docs/sources.md") >= 16
    assert {"README.md", "docs/dataflow.md", "docs/runners.md", "docs/towers.md"} <= set(pages)


@pytest.mark.parametrize(
    ("page", "command"), DOCUMENTED, ids=[f"{p}-{n}" for n, (p, _) in enumerate(DOCUMENTED)]
)
def test_flags_of_documented_commands_are_right(
    page: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pipelines.beam_flags.prepare_options", lambda options: None
    )  # asks for Dataflow's parts
    if "..." in command:
        flags = re.sub(r"(--\w+ )?\.\.\.", "", command, count=1)
        usual = REST | (DATAFLOW if "DataflowRunner" in command else {})
        command = " ".join([*(text for text, flag in usual.items() if flag not in flags.split()), flags])
    parse(shlex.split(command))


def holiday(folder: Path) -> None:
    beach = folder / "holiday" / "beach"
    beach.mkdir(parents=True)
    for name in ("0001.jpg", "0002.PNG"):
        (beach / name).write_bytes(name.encode())
    (beach / "0001.txt").write_text("a castle of sand\nchildren\n")
    (beach / "0002.json").write_text('{"title": "Boat", "tags": ["red", "harbour"], "class": 3}')


def train_tars(folder: Path) -> None:
    (folder / "train").mkdir()
    for number in range(2):
        members = [(f"{number}.jpg", b"J"), (f"{number}.txt", b"caption"), (f"{number}.cls", b"5")]
        (folder / "train" / f"{number:05}.tar").write_bytes(tar_bytes(members))


def rows(folder: Path) -> None:
    (folder / "rows").mkdir()
    columns = {
        "key": ["a"],
        "image": [b"J"],
        "title": ["T"],
        "description": [["D", "E"]],
        "url": ["https://h/a?x"],
    }
    pq.write_table(pa.table(columns | {"license": ["CC0"]}), folder / "rows" / "0.parquet")


def photos_csv(folder: Path) -> None:
    page = (REPO / "docs" / "sources.md").read_text()
    listing = re.search(r"^    id,file,caption\n(?:    .*\n)+", page, re.MULTILINE)
    assert listing is not None
    (folder / "photos.csv").write_text(re.sub(r"^ {4}", "", listing[0], flags=re.MULTILINE))
    beach = folder / "photos" / "beach"
    beach.mkdir(parents=True)
    for name in ("0001.jpg", "0002.png"):
        (beach / name).write_bytes(b"J")


def metadata_jsonl(folder: Path) -> None:
    (folder / "photos").mkdir()
    (folder / "photos" / "0001.png").write_bytes(b"J")
    (folder / "photos" / "metadata.jsonl").write_text('{"file_name": "0001.png", "text": "a boat"}\n')


def coco(folder: Path) -> None:
    (folder / "val2014").mkdir()
    (folder / "val2014" / "COCO_val2014_000000000042.jpg").write_bytes(b"J")
    images = [{"id": 42, "file_name": "COCO_val2014_000000000042.jpg"}]
    captions = [{"image_id": 42, "caption": text, "id": n} for n, text in enumerate(["one", "two"])]
    text = json.dumps({"images": images, "annotations": captions})
    (folder / "captions_val2014.json").write_text(text)


def karpathy(folder: Path) -> None:
    images = []
    (folder / "coco" / "val2014").mkdir(parents=True)
    for number, split in enumerate(("test", "train", "restval", "val")):
        (folder / "coco" / "val2014" / f"{number}.jpg").write_bytes(b"J")
        sentences = [{"raw": f"{split} one"}, {"raw": f"{split} two"}]
        one = {"filepath": "val2014", "filename": f"{number}.jpg", "cocoid": 100 + number, "split": split}
        images.append(one | {"sentences": sentences})
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images}))


def tfrecords(folder: Path) -> None:
    features: dict[str, Any] = {"image/id": [7], "image/encoded": [b"J"], "caption/text": [b"one", b"two"]}
    record = framed(example(**features, **{"class/label": [3]}))
    (folder / "coco-train.tfrecord-00000-of-00001").write_bytes(record)


def tfds(folder: Path) -> None:
    """The golden set under the name that the page has."""
    shutil.copytree(REPO / "tests" / "golden" / "tfds", folder / "tensorflow_datasets")


Read = list[tuple[str | None, list[tuple[str, str]]]]
CASES: dict[str, tuple[Callable[[Path], None], dict[str, str], Read]] = {
    "--input holiday/ --format folder": (
        holiday,
        {},
        [
            ("beach/0001", [("caption", "a castle of sand"), ("caption", "children")]),
            ("beach/0002", [("title", "Boat"), ("tags", "red"), ("tags", "harbour")]),
        ],
    ),
    "--input 's3://bucket/train/": (
        train_tars,
        {"s3://bucket/": "", "00127": "00001"},
        [("0", [("caption", "caption")]), ("1", [("caption", "caption")])],
    ),
    "--input 'rows/*.parquet' --format parquet": (
        rows,
        {},
        [("a", [("title", "T"), ("description", "D"), ("description", "E")])],
    ),
    "--input photos.csv": (
        photos_csv,
        {"gs://bucket/photos": "photos"},
        [("a", [("caption", "two children, building\na sand castle")]), ("b", [("caption", "a red boat")])],
    ),
    "--input photos/metadata.jsonl": (metadata_jsonl, {}, [("0001.png", [("caption", "a boat")])]),
    "--input captions_val2014.json": (coco, {}, [("42", [("caption", "one"), ("caption", "two")])]),
    "--split test --image-root coco/": (
        karpathy,
        {},
        [("100", [("caption", "test one"), ("caption", "test two")])],
    ),
    "--split train+restval": (
        karpathy,
        {},
        [
            ("101", [("caption", "train one"), ("caption", "train two")]),
            ("102", [("caption", "restval one"), ("caption", "restval two")]),
        ],
    ),
    "--input 'coco-train.tfrecord-*'": (tfrecords, {}, [("7", [("caption", "one"), ("caption", "two")])]),
    "--format tfds": (
        tfds,
        {"~/": "", "coco_captions": "tiny_squares"},
        [
            (str(n), [("caption", f"caption {n - 100}.0"), ("caption", f"caption {n - 100}.1")])
            for n in range(100, 104)
        ],
    ),
}


@pytest.mark.parametrize("words", CASES)
def test_each_source_reads_what_its_example_says(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, elsewhere, expected = CASES[words]
    (command,) = (one for one in commands(REPO / "docs" / "sources.md") if words in one)
    for there, here in elsewhere.items():
        assert there in command
        command = command.replace(there, here)
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    source = parse(shlex.split(command)).source
    read = SOURCES[source.format].read_unit
    records = [record for unit in make_plan(source).units for record in read(unit, source)]
    found = [(one.id, [(caption.kind, caption.text) for caption in one.captions]) for one in records]
    assert sorted(found, key=str) == expected
    assert all(record.image for record in records)
    assert [record.problem for record in records] == [None] * len(records)
