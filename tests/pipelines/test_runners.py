"""What each engine is told and refused; the engines that need nothing but Beam give one and the same store."""

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import runners
from pipelines.beam_flags import beam_options
from pipelines.runners import Ending, check_reach, execute, runner_name
from schemas.manifest import ImagesManifest

DATAFLOW = ["--runner=DataflowRunner"]


@pytest.mark.parametrize(
    "spelling", ["DaskRunner", "dask", "daskrunner", "apache_beam.runners.dask.dask_runner.DaskRunner"]
)
def test_dask_is_refused_with_the_reason_however_it_is_spelt(spelling: str) -> None:
    with pytest.raises(ValueError, match="DaskRunner is refused: it drops output without a word"):
        beam_options([f"--runner={spelling}"])


def test_an_unknown_runner_lists_those_that_work() -> None:
    with pytest.raises(ValueError, match=r"must be FnApiRunner, .* DataflowRunner, found 'SlinkRunner'"):
        beam_options(["--runner=SlinkRunner"])


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("flink", "FlinkRunner"),
        ("FlinkRunner", "FlinkRunner"),
        ("dataflow", "DataflowRunner"),
        ("apache_beam.runners.portability.fn_api_runner.FnApiRunner", "FnApiRunner"),
    ],
)
def test_a_runner_has_one_name(given: str, name: str) -> None:
    assert runner_name(PipelineOptions([f"--runner={given}"])) == name


def test_no_runner_means_the_one_in_this_process() -> None:
    options = beam_options([])
    assert runner_name(options) is None
    assert type(runners.runner_of(options)).__name__ == "FnApiRunner"


@pytest.mark.parametrize("path", ["/data/photos", "photos", "file:///data", "memory://store"])
def test_dataflow_refuses_paths_of_this_machine(path: str) -> None:
    options = PipelineOptions(DATAFLOW)
    with pytest.raises(ValueError, match="--output " + path):
        check_reach(options, {"--output": path, "--input #1": "gs://bucket/photos"})
    check_reach(PipelineOptions([]), {"--output": path})


def test_dataflow_takes_storage_that_workers_reach() -> None:
    places = ("gs://b/in", "s3://b/in", "hf://org/model@main", "random:0", "zip://a.tar::gs://b/a.zip")
    check_reach(PipelineOptions(DATAFLOW), dict.fromkeys(places, "gs://b") | {name: name for name in places})


def _boom(pipeline: beam.Pipeline) -> object:
    return pipeline | beam.Create([0]) | beam.Map(lambda number: 1 / number)


def test_what_a_step_raises_in_this_process_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        execute(beam_options([]), _boom)


def test_an_engine_that_gives_up_is_told_and_not_raised() -> None:
    options = beam_options(["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"])
    ending = execute(options, _boom)
    assert ending.trouble is not None
    assert ending.trouble.startswith("PortableRunner: ")
    assert "\n" not in ending.trouble
    assert not ending.handed_over


def tables(store: Path) -> dict[str, str]:
    """What a store holds, as digests."""
    found = {}
    for manifest in sorted((store / "images").glob("*/manifest.json")):
        images = ImagesManifest.from_json(manifest.read_bytes())
        found[manifest.parent.name] = f"{images.content_id} {images.counts} {images.failures}"
    assert found
    return found


@pytest.fixture
def squares(tmp_path: Path, colour_rows: list[dict[str, Any]], write_rows: Callable[..., Path]) -> Path:
    rows = [dict(row) for row in colour_rows]
    rows[5]["image"] = b"no image"
    for part in range(4):
        write_rows(tmp_path / "input" / f"{part}.parquet", rows[3 * part : 3 * part + 3])
    return tmp_path / "input"


@pytest.mark.parametrize(
    "flags",
    [
        ["--runner=FnApiRunner"],
        ["--direct_running_mode=multi_threading", "--direct_num_workers=3"],
        ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"],
    ],
    ids=["in-memory", "threads", "portable"],
)
def test_every_engine_gives_the_same_store(
    squares: Path, tmp_path: Path, embed: Any, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    job = ["--input", str(squares), "--format", "parquet", "--unit-bytes", "1", "--tower-id", "t"]
    assert embed(*job, "--output", str(tmp_path / "plain")) == 0
    capsys.readouterr()
    assert embed(*job, "--output", str(tmp_path / "engine"), *flags) == 0
    assert tables(tmp_path / "engine") == tables(tmp_path / "plain")
    assert "12 seen = 11 embedded + 1 failed" in capsys.readouterr().out


def test_an_engine_that_gives_up_leaves_a_run_to_repeat(
    squares: Path,
    tmp_path: Path,
    embed: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Some units are done, then the workers are gone: status 3, and the second run does the rest."""

    def half(options: Any, graph: Any) -> Ending:
        from pipelines import embed as command

        build = command.build
        with monkeypatch.context() as patch:
            patch.setattr(command, "build", lambda pipeline, job, todo: build(pipeline, job, todo[:2]))
            execute(options, graph)
        return Ending(trouble="FlinkRunner: the last TaskManager is gone")

    job = ["--input", str(squares), "--format", "parquet", "--unit-bytes", "1", "--tower-id", "t"]
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.embed.execute", half)
        assert embed(*job, "--output", str(tmp_path / "store")) == 3
    printed = capsys.readouterr().out
    assert "problem    engine FlinkRunner: the last TaskManager is gone" in printed
    assert "Run the same command again" in printed
    assert embed(*job, "--output", str(tmp_path / "store")) == 0
    assert embed(*job, "--output", str(tmp_path / "plain")) == 0
    assert tables(tmp_path / "store") == tables(tmp_path / "plain")


def test_a_template_is_handed_over_and_the_store_left_to_its_job(
    squares: Path,
    tmp_path: Path,
    embed: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("pipelines.embed.execute", lambda options, graph: Ending(handed_over=True))
    job = ["--input", str(squares), "--format", "parquet", "--tower-id", "t"]
    assert embed(*job, "--output", str(tmp_path / "store")) == 0
    assert "template written. The job that is launched from it finishes the store." in capsys.readouterr().out
    assert not (tmp_path / "store" / "images" / "t" / "manifest.json").exists()
    assert not (tmp_path / "store" / "images" / "t" / "lease.json").exists()


def test_a_process_loads_the_tower_once_however_many_threads_ask(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in_tower: list[int]
) -> None:
    from pipelines import embed as command
    from pipelines import graph

    jobs: list[Any] = []
    loads: list[str] = []
    monkeypatch.setattr(graph, "load_tower", _counting(graph.load_tower, loads))
    monkeypatch.setattr(command, "build", _keeping(command.build, jobs))
    flags = ["--input", str(squares), "--format", "parquet", "--unit-bytes", "1", "--tower-id", "t"]
    tower = ["--tower", "stand-in", "--checkpoint", "random:0", "--output", str(tmp_path / "store")]
    assert command.main([*flags, *tower]) == 0
    loads.clear()
    sent = pickle.dumps(graph.EmbedUnit(jobs[0]))
    steps = [pickle.loads(sent) for _ in range(4)]  # noqa: S301 - as Beam hands them to its threads
    threads = [threading.Thread(target=step.setup) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert len({id(step._loaded) for step in steps}) == 1


def _counting(function: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def counted(*args: Any) -> Any:
        calls.append(function.__name__)
        return function(*args)

    return counted


def _keeping(build: Callable[..., Any], jobs: list[Any]) -> Callable[..., Any]:
    def kept(pipeline: Any, job: Any, numbers: Any) -> Any:
        jobs.append(job)
        return build(pipeline, job, numbers)

    return kept
