"""Flags that are Beam's: taken in either spelling, refused when nobody knows them, before anything is written."""

from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    WorkerOptions,
)

from lit_precompute.config import EmbedConfig
from pipelines.beam_flags import beam_options, flag_names, split_passed


def test_beams_flags_are_taken_with_hyphens_and_underscores() -> None:
    options = beam_options(
        ["--direct-num-workers", "3", "--disk_size_gb=70", "--environment-type=LOOPBACK", "--num-workers=2"]
    )
    assert options.view_as(DirectOptions).direct_num_workers == 3
    assert options.view_as(PortableOptions).environment_type == "LOOPBACK"
    assert (options.view_as(WorkerOptions).disk_size_gb, options.view_as(WorkerOptions).num_workers) == (
        70,
        2,
    )


def test_a_misspelt_flag_names_the_near_ones_of_beam_and_of_ours() -> None:
    with pytest.raises(ValueError) as error:
        beam_options(["--num_wokers", "4", "--btach-size=8"], ours=flag_names(EmbedConfig))
    lines = str(error.value).splitlines()
    assert lines[0].startswith("--num_wokers: unknown; did you mean --num_workers")
    assert lines[1].startswith("--btach-size: unknown; did you mean --batch-size")
    assert len(lines) == 3  # and what may stand where; the value 4 is no mistake of its own


def test_a_flag_is_never_completed_from_its_beginning() -> None:
    with pytest.raises(ValueError, match="--num_work: unknown"):
        beam_options(["--num_work=4"])


def test_a_value_that_beam_can_not_take_is_an_error_to_report() -> None:
    with pytest.raises(ValueError, match="--num_workers: invalid int value: 'many'"):
        beam_options(["--num_workers=many"])


def test_a_stray_word_is_refused() -> None:
    with pytest.raises(ValueError, match="photos: must follow a flag"):
        beam_options(["photos"])


def test_what_a_job_server_knows_passes_after_two_hyphens() -> None:
    before, after = split_passed(["--input", "a", "--", "--spark_thing=3", "--", "x"])
    assert (before, after) == (["--input", "a"], ["--spark_thing=3", "--", "x"])
    options = beam_options([], ["--spark_thing=3"])
    assert options.get_all_options(retain_unknown_options=True)["spark_thing"] == "3"
    assert isinstance(options, PipelineOptions)


def test_our_own_flags_are_known_by_name() -> None:
    assert {"--input", "--batch-size", "--max-failure-rate", "--output", "--tower-id"} <= flag_names(
        EmbedConfig
    )
    assert "--source" not in flag_names(EmbedConfig)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--runner=DataflowRunner", "--worker_acelerator=x"], "--worker_acelerator: unknown"),
        (["--btach-size", "4"], "did you mean --batch-size"),
        (["--runner=Dusk"], "--runner: must be"),
        (["--runner=dask"], "DaskRunner is refused: it drops output"),
        (["--disk_size_gb=big"], "--disk_size_gb: invalid int value"),
    ],
)
def test_wrong_flags_end_the_command_before_anything_is_written(
    tmp_path: Path, embed: Any, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    places = [
        "--input",
        str(tmp_path / "nowhere"),
        "--format",
        "parquet",
        "--output",
        str(tmp_path / "store"),
    ]
    assert embed(*places, *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
