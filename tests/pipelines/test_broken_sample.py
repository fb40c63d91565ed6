"""A file of real and deliberately broken records goes through `lit-embed` with the outcome its own table expects."""

import re
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from schemas.store import open_store

pytestmark = pytest.mark.shared

EMBEDDED = {"ok", "ok_convert", "ok_or_filtered", "bad_caption"}


@pytest.fixture
def sample(shared_dir: Path) -> Path:
    return shared_dir / "data" / "imagenet_sample"


@pytest.fixture
def table(sample: Path) -> list[tuple[int, str, str]]:
    """(row, key, kind) of BROKEN.md."""
    rows = re.findall(r"^\| (\d+) \| `(.*?)` \| \w+ \| (\w+) \|", (sample / "BROKEN.md").read_text(), re.M)
    found = [(int(row), key, kind) for row, key, kind in rows]
    assert [row for row, _, _ in found] == list(range(30))
    return found


def outcome(store: Path) -> tuple[list[str], list[dict], list[dict]]:
    images = store / "images" / "t"
    ids = [id for part in open_store(str(store)).images("t").iter_joined() for id in part.ids.to_pylist()]
    return ids, *(pq.read_table(images / f"{name}.parquet").to_pylist() for name in ("failures", "excluded"))


def test_parquet(
    sample: Path, table: list[tuple[int, str, str]], tmp_path: Path, embed: Callable[..., int]
) -> None:
    file = sample / "broken-00000.parquet"
    assert embed("--input", file, "--format", "parquet", "--tower-id", "t", "--output", tmp_path / "s") == 0
    ids, failures, excluded = outcome(tmp_path / "s")
    kept = [key for row, key, kind in table if kind in EMBEDDED or row == 25]
    assert ids == kept
    bad = [(row, key or None) for row, key, kind in table if kind in ("bad_image", "bad_key")]
    assert [(failure["position"], failure["id"]) for failure in failures] == bad
    assert [(one["locator"], one["id"]) for one in excluded] == [("broken-00000.parquet#26", "duplicate_key")]
    captions = {
        row["id"]: row["captions"]
        for row in pq.read_table(tmp_path / "s/pairs/pairs-g000-00000.parquet").to_pylist()
    }
    for _, key, kind in table:
        if kind == "bad_caption":
            assert captions[key] == []


def test_webdataset(
    sample: Path, table: list[tuple[int, str, str]], tmp_path: Path, embed: Callable[..., int]
) -> None:
    file = sample / "wds" / "broken-000000.tar"
    assert (
        embed("--input", file, "--format", "webdataset", "--tower-id", "t", "--output", tmp_path / "s") == 0
    )
    ids, failures, _ = outcome(tmp_path / "s")
    by_row = {int(re.match(r"(?:.*/)?(\d+)", id)[1]): id for id in ids if re.match(r"(?:.*/)?\d+", id)}
    good = {row for row, _, kind in table if kind in EMBEDDED | {"duplicate", "bad_key"}}
    bad = {row for row, _, kind in table if kind == "bad_image"}
    assert good <= set(by_row)
    assert not bad & set(by_row)
    assert bad <= {int(re.match(r"(?:.*/)?(\d+)", failure["id"])[1]) for failure in failures}


@pytest.mark.parametrize(
    ("name", "format", "kept"),
    [("truncated-00000.parquet", "parquet", 0), ("wds/truncated-000000.tar", "webdataset", 12)],
)
def test_truncated(
    sample: Path,
    tmp_path: Path,
    embed: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    name: str,
    format: str,
    kept: int,
) -> None:
    flags = ["--input", sample / name, "--format", format, "--tower-id", "t", "--output", tmp_path / "s"]
    assert embed(*flags) == 3
    assert Path(name).name in capsys.readouterr().out
    assert embed(*flags, "--accept-damaged") == 0
    ids, failures, _ = outcome(tmp_path / "s")
    assert (len(ids), failures) == (kept, [])


def test_a_caption_that_is_not_utf8_costs_only_itself(
    sample: Path, tmp_path: Path, embed: Callable[..., int]
) -> None:
    file = sample / "broken_utf8-00000.parquet"
    assert embed("--input", file, "--format", "parquet", "--tower-id", "t", "--output", tmp_path / "s") == 0
    ids, failures, _ = outcome(tmp_path / "s")
    assert (len(ids), failures) == (3, [])
    captions = [
        row["captions"] for row in pq.read_table(tmp_path / "s/pairs/pairs-g000-00000.parquet").to_pylist()
    ]
    assert [len(found) for found in captions] == [1, 0, 1]
