"""The suite in the documentation is one that can be run."""

import re
from pathlib import Path

from trainer.evaluations.suite_file import read_suite

REPO = Path(__file__).resolve().parents[3]


def test_the_documented_suite(tmp_path: Path) -> None:
    text = (REPO / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (suite,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    path = tmp_path / "suite.yaml"
    path.write_text(suite, encoding="utf-8")
    entries = {entry.name: entry.config("RUN", None, None) for entry in read_suite(str(path))}
    assert entries.keys() == {"coco", "coco-1k", "imagenet", "pets-10"}
    assert entries["coco-1k"].fold_size == 1000
    assert entries["coco-1k"].batch_size == 512
    assert entries["imagenet"].classes == str(tmp_path / "imagenet.json")
