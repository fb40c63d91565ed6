"""Reports: written whole, in folders that need not exist, shown as a small table."""

import json
import math

import pytest

from trainer.evals import report


def test_a_report_is_written_whole_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "a" / "b" / "report.json"
    report.check_output(str(path))
    report.write_report({"top1": 0.5, "name": "Käfer"}, str(path))
    report.write_report({"top1": 0.75}, str(path))
    assert json.loads(path.read_text(encoding="utf-8")) == {"top1": 0.75}
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.write_report({"top1": math.nan}, str(path))
    assert json.loads(path.read_text(encoding="utf-8")) == {"top1": 0.75}
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]


def test_an_output_that_cannot_be_written_is_refused_early(tmp_path):
    with pytest.raises(ValueError, match="--output: must be a file to write, found the folder"):
        report.check_output(str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--output: its folder must exist"):
        report.check_output(str(tmp_path / "file" / "report.json"))


def test_standard_error_and_versions():
    assert report.standard_error(0.5, 100) == 0.05
    assert report.standard_error(1.0, 7) == 0.0
    assert {"python", "numpy", "jax"} <= report.versions().keys()


def test_the_table_lines_up():
    shown = report.show("title", {"i2t": {"r1": 0.5, "m": 1.0}}, {"i2t": {"r1": 0.05}}, ["mind"])
    assert shown.splitlines() == [
        "title",
        "                            r1               m",
        "i2t               50.0 ± 5.0 %         100.0 %",
        "Note: mind",
    ]
