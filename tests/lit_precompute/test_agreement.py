"""Two launches that plan one store: they agree, or one is told to run again."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_precompute.agreement import Agreement, agree_plan, settle
from lit_precompute.config import EmbedConfig, SourceConfig, TowerConfig, WorkConfig
from lit_precompute.plan import make_plan, publish_plan, read_plan
from schemas.storage import Folder


def config(folder: Path, *patterns: str, **work: bool) -> EmbedConfig:
    source = SourceConfig(tuple(str(folder / pattern) for pattern in patterns), "parquet")
    return EmbedConfig(
        source, TowerConfig("none", "random:0"), str(folder / "store"), work=WorkConfig(**work)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table = pa.table({"key": ["a"], "image": [b"1"], "caption": ["c"]})
    for name in ("a", "b", "c"):
        pq.write_table(table, tmp_path / f"{name}.parquet")
        os.utime(tmp_path / f"{name}.parquet", ns=(1, 1))
    return tmp_path


def test_the_first_plan_wins_and_an_equal_one_goes_along(folder: Path) -> None:
    store = Folder(str(folder / "store"))
    first, same = (agree_plan(config(folder, "a.parquet"), {}) for _ in range(2))
    other = agree_plan(config(folder, "b.parquet"), {})
    assert settle(store, first) == settle(store, same) == read_plan(store)
    with pytest.raises(ValueError, match="another launch has just planned another input"):
        settle(store, other)
    assert publish_plan(store, make_plan(config(folder, "a.parquet").source)) == first.plan


def test_of_two_that_append_at_once_the_second_runs_again(folder: Path) -> None:
    store = Folder(str(folder / "store"))
    settle(store, agree_plan(config(folder, "a.parquet"), {}))
    one, two = (
        agree_plan(config(folder, "a.parquet", f"{name}.parquet", append=True), {}) for name in ("b", "c")
    )
    settle(store, one)
    with pytest.raises(ValueError, match="another launch has just changed the plan"):
        settle(store, two)
    again = agree_plan(config(folder, "a.parquet", "c.parquet", append=True), {})
    plan = settle(store, again)
    assert [(unit.name, Path(unit.slices[0].path).name) for unit in plan.units] == [
        ("g000-00000", "a.parquet"), ("g001-00000", "b.parquet"), ("g002-00000", "c.parquet")
    ]  # fmt: skip
    assert read_plan(store) == plan
    assert sorted(os.listdir(folder / "store")) == ["plan.parquet"]  # the lease is given back
    assert settle(store, Agreement(plan, plan)) == plan


def test_units_of_an_older_generation_keep_their_digest(folder: Path) -> None:
    store = Folder(str(folder / "store"))
    before = settle(store, agree_plan(config(folder, "a.parquet"), {}))
    after = settle(store, agree_plan(config(folder, "*.parquet", append=True), {}))
    assert after.digests[0] == before.digest != after.digest
    assert after.upto(0).units == before.units
