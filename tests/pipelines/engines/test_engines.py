"""The same command on every engine: the same tables, progress on a terminal, the right exit status."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.runners
JVM = "--job_server_jvm_properties=-Xmx512m"
LOOPBACK = ["--job_endpoint=embed", "--environment_type=LOOPBACK"]


@pytest.fixture(scope="module")
def plain_store() -> dict[str, Any]:
    """Keeps the run every other is compared with."""
    return {}


@pytest.fixture
def plain(plain_store: dict[str, Any], photos: Path, lit_embed: Callable[..., Any]) -> Any:
    if not plain_store:
        plain_store["ran"] = lit_embed(photos, "plain", [])
        assert plain_store["ran"].status == 0
        assert list(plain_store["ran"].loads) == [plain_store["ran"].launcher]
    return plain_store["ran"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--direct_running_mode=multi_threading", "--direct_num_workers=2"],
        ["--runner=PortableRunner", *LOOPBACK],
    ],
    ids=["threads", "portable"],
)
def test_in_one_process(photos: Path, plain: Any, lit_embed: Any, check_ran: Any, flags: list[str]) -> None:
    ran = lit_embed(photos, "engine", flags)
    check_ran(ran, plain)
    assert list(ran.loads) == [ran.launcher]


def test_several_worker_processes(photos: Path, plain: Any, lit_embed: Any, check_ran: Any) -> None:
    ran = lit_embed(photos, "engine", ["--direct_running_mode=multi_processing", "--direct_num_workers=2"])
    check_ran(ran, plain)
    assert ran.launcher not in ran.loads
    assert 1 <= len(ran.loads) <= 2


def test_prism(photos: Path, plain: Any, lit_embed: Any, check_ran: Any, engine_file: Any) -> None:
    prism = engine_file("prism")
    check_ran(lit_embed(photos, "engine", ["--runner=PrismRunner", f"--prism_location={prism}"]), plain)


def test_flink(photos: Path, plain: Any, lit_embed: Any, check_ran: Any, engine_file: Any) -> None:
    jar = engine_file("flink.jar", "java")
    check_ran(
        lit_embed(photos, "engine", ["--runner=FlinkRunner", f"--flink_job_server_jar={jar}", JVM]), plain
    )


def test_spark(photos: Path, plain: Any, lit_embed: Any, check_ran: Any, engine_file: Any) -> None:
    jar = engine_file("spark.jar", "java")
    flags = ["--runner=SparkRunner", f"--spark_job_server_jar={jar}", "--spark_master_url=local[2]", JVM]
    check_ran(lit_embed(photos, "engine", flags), plain)


@pytest.mark.parametrize("engine", ["prism", "flink", "spark"])
def test_damaged_input_ends_with_status_3(
    tmp_path: Path, photos: Path, lit_embed: Any, engine_file: Any, engine: str
) -> None:
    """What went wrong in a worker reaches the exit status, however far away the worker is."""
    flags = {
        "prism": lambda: ["--runner=PrismRunner", f"--prism_location={engine_file('prism')}"],
        "flink": lambda: [
            "--runner=flink",
            f"--flink_job_server_jar={engine_file('flink.jar', 'java')}",
            JVM,
        ],
        "spark": lambda: [
            "--runner=spark",
            f"--spark_job_server_jar={engine_file('spark.jar', 'java')}",
            JVM,
        ],
    }[engine]()
    source = tmp_path / "damaged"
    source.mkdir()
    for path in sorted(photos.iterdir())[:2]:
        (source / path.name).write_bytes(path.read_bytes())
    broken = source / "1.parquet"
    broken.write_bytes(broken.read_bytes()[:-300])
    ran = lit_embed(source, "engine", flags)
    assert ran.status == 3, ran.terminal[-3000:] + ran.out
    assert "problem" in ran.out
    assert ran.tables is None
