import os
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_precompute.config import SourceConfig
from lit_precompute.plan import Plan, make_plan, read_plan, write_plan
from lit_precompute.units import Slice, Unit
from schemas.storage import Folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    table = pa.table({"key": ["a", "b"], "image": [b"1", b"2"], "caption": ["c", "d"]})
    for name in ("1.parquet", "0.parquet", "2.parquet"):
        pq.write_table(table, folder / name, row_group_size=1)
        os.utime(folder / name, ns=(10, 10))
    return folder


def config(data: Path, **options) -> SourceConfig:
    return SourceConfig((f"{data}/*.parquet",), "parquet", **options)


def test_the_same_input_gives_the_same_plan(data: Path) -> None:
    plan = make_plan(config(data), unit_bytes=1)
    assert [unit.name for unit in plan.units] == [f"g000-0000{n}" for n in range(6)]
    assert [os.path.basename(unit.slices[0].path)[0] for unit in plan.units] == list("001122")
    assert [(unit.slices[0].first, unit.slices[0].last) for unit in plan.units[:2]] == [(0, 1), (1, 2)]
    assert make_plan(config(data), unit_bytes=1) == plan


def test_digest_does_not_depend_on_where_the_data_lies(data: Path, tmp_path: Path) -> None:
    before = make_plan(config(data)).digest
    data.rename(tmp_path / "moved")
    assert make_plan(config(tmp_path / "moved")).digest == before


@pytest.mark.parametrize("change", ["content", "touch", "more", "fewer", "caption", "id", "cut"])
def test_digest_follows_the_input(data: Path, change: str) -> None:
    before = make_plan(config(data)).digest
    one, unit_bytes = config(data), 64 << 20
    if change == "content":
        (data / "0.parquet").write_bytes((data / "0.parquet").read_bytes() + b"x")
        os.utime(data / "0.parquet", ns=(10, 10))
    elif change == "touch":
        os.utime(data / "0.parquet", ns=(11, 11))
    elif change == "more":
        (data / "3.parquet").write_bytes(b"")
    elif change == "fewer":
        (data / "2.parquet").unlink()
    elif change == "caption":
        one = config(data, caption_column=("caption", "key"))
    elif change == "id":
        one = config(data, id_column="")
    else:
        unit_bytes = 1
    assert make_plan(one, unit_bytes).digest != before


def test_written_and_read_back_equal(data: Path, tmp_path: Path) -> None:
    store = Folder(f"{tmp_path}/store")
    plan = make_plan(config(data, id_column=""), unit_bytes=1)
    write_plan(store, plan)
    assert os.listdir(tmp_path / "store") == ["plan.parquet"]
    assert read_plan(store) == plan
    assert read_plan(store).digest == plan.digest
    assert read_plan(store, ["g000-00004", "g000-00001"]).units == (plan.units[1], plan.units[4])
    assert pq.read_schema(tmp_path / "store" / "plan.parquet").names == [
        "unit", "generation", "position", "path", "size", "version", "first", "last", "limit", "accepted"
    ]  # fmt: skip


def test_on_another_filesystem(data: Path) -> None:
    store = Folder("memory://test_plan/store")
    plan = make_plan(config(data))
    write_plan(store, plan)
    assert read_plan(store) == plan


def test_no_plan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"plan\.parquet: must exist"):
        read_plan(Folder(f"{tmp_path}/store"))


def test_generations_and_odd_names_survive() -> None:
    units = (
        Unit(0, 0, (Slice("/d/a", 1, "v"), Slice("/d/b", -1, "", 0, 3)), "/d"),
        Unit(0, 1, (Slice("/d/b", -1, "", 3, 9),), "/d"),
        Unit(1, 0, (Slice("/d/caf\udce9 鍵", 1, "v"),), "/", 7),
    )
    accepted = {"/d/a": "w"}
    plan = Plan(units, {"format": "parquet", "caption_column": ["a", "b"]}, "/d", accepted)
    again = Plan.from_table(plan.to_table())
    assert again == plan
    assert again.digest == plan.digest
    assert again.digests == (plan.upto(0).digest, plan.digest)
    assert plan.digest != replace(plan, units=(*units[:2], replace(units[2], limit=6))).digest
    assert plan.digest == replace(plan, accepted={}).digest  # the content is what was planned
    assert Plan.from_table(replace(plan, units=()).to_table()).units == ()


def test_credentials_never_enter_the_plan() -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/test_plan/0.tar", b"x")
    plan = make_plan(SourceConfig(("memory://me:secret@/test_plan/0.tar",), "webdataset"))
    assert plan.units[0].slices[0].path == "memory:///test_plan/0.tar"
    assert "secret" not in str(plan.to_table().schema.metadata)


def test_a_long_plan_stays_cheap(tmp_path: Path) -> None:
    units = tuple(
        Unit(0, n, (Slice(f"gs://b/{n}.tar", 10, f"generation:{n}"),), "gs://b") for n in range(100_000)
    )
    plan = Plan(units, {"format": "webdataset"}, "gs://b")
    store = Folder(str(tmp_path))
    start = time.process_time()
    write_plan(store, plan)
    read_plan(store)
    assert time.process_time() - start < 4  # about 1 s on a free core
    start = time.process_time()
    assert read_plan(store, ["g000-77777"]).units == (units[77777],)
    assert time.process_time() - start < 0.5
    assert (tmp_path / "plan.parquet").stat().st_size < 3_000_000
