"""`lit-eval all`: every report written, one failure told and the others untouched."""

import json
from pathlib import Path

import pytest

from trainer import evaluate
from trainer.evaluations.table import read_column


def test_a_suite_on_a_real_run(trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, run = trained()
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "evaluations:\n"
        f"  seen: {{kind: retrieval, store: {store}, split: train}}\n"
        f"  no-labels: {{kind: few-shot, store: {store}}}\n"
        f"  no-store: {{kind: retrieval, store: elsewhere}}\n"
        f"  unseen: {{kind: retrieval, store: {store}, split: heldout, batch_size: 7}}\n",
        encoding="utf-8",
    )
    words = ["all", "--run", str(run), "--suite", str(suite)]
    capsys.readouterr()
    assert evaluate.main(words) == 3
    printed = capsys.readouterr()
    assert "unseen: retrieval:" in printed.out
    assert "2 of 4 evaluations written" in printed.out
    assert "failed: no-labels, no-store" in printed.err
    folder = run / "evaluations"
    assert {path.name for path in folder.iterdir()} == {"seen.json", "unseen.json", "suite.json"}
    summary = json.loads((folder / "suite.json").read_text(encoding="utf-8"))
    assert summary["checkpoint_step"] == 30
    assert list(summary["evaluations"]) == ["seen", "no-labels", "no-store", "unseen"]
    assert "found none" in summary["evaluations"]["no-labels"]["error"]
    assert str(tmp_path / "elsewhere") in summary["evaluations"]["no-store"]["error"]
    report = json.loads((folder / "unseen.json").read_text(encoding="utf-8"))
    assert summary["evaluations"]["unseen"]["t2i r5"] == report["t2i"]["r5"]
    assert report["options"]["split"] == "heldout"
    assert report["options"]["store"] == "store"  # a bare name
    assert "output" not in report["options"]
    assert set(read_column(str(run)).reports) == {"seen", "unseen"}

    # One report of a suite is the report of the command alone.
    alone = tmp_path / "alone.json"
    flags = ["--run", str(run), "--store", store, "--split", "heldout", "--output", str(alone)]
    assert evaluate.main(["retrieval", *flags]) == 0
    assert json.loads(alone.read_text(encoding="utf-8")) == report

    assert evaluate.main([*words, "--only", "seen", "--output", str(tmp_path / "only")]) == 0
    assert {path.name for path in (tmp_path / "only").iterdir()} == {"seen.json", "suite.json"}
    assert evaluate.main([*words, "--only", "nothing"]) == 2
    assert "--only: must be of seen, no-labels" in capsys.readouterr().err
    assert evaluate.main(["retrieval", "--run", str(run), "--store", store]) == 0
    assert (folder / "retrieval.json").is_file()  # where reports go by default
    assert evaluate.main(["few-shot", "--store", store]) == 2
    assert "--output: must be given" in capsys.readouterr().err
    assert evaluate.main([*words, "--step", "best"]) == 2
    assert "--step best" in capsys.readouterr().err
