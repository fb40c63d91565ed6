"""A suite is checked whole before anything runs; paths are the suite's own."""

from pathlib import Path

import pytest

from trainer.evaluations.few_shot import FewShotConfig
from trainer.evaluations.retrieval import RetrievalConfig
from trainer.evaluations.suite_file import read_suite
from trainer.evaluations.zero_shot import ZeroShotConfig

GOOD = """
defaults: {batch_size: 64, tower_id: t}
evaluations:
  coco: {kind: retrieval, store: stores/coco, split: heldout}
  pets: {kind: zero-shot, store: gs://bucket/pets, classes: pets.json, templates: clip-7, batch_size: 8}
  probe: {kind: few-shot, store: /stores/pets, shots: [1, 5], l2: 2}
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "suite.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_entries_become_the_commands_options(tmp_path: Path) -> None:
    coco, pets, probe = read_suite(write(tmp_path, GOOD))
    assert [entry.name for entry in (coco, pets, probe)] == ["coco", "pets", "probe"]
    config = coco.config("RUN", "best", tmp_path / "out")
    assert config == RetrievalConfig(
        run="RUN",
        step="best",
        store=str(tmp_path / "stores/coco"),
        tower_id="t",
        split="heldout",
        batch_size=64,
        output=str(tmp_path / "out" / "coco.json"),
    )
    config = pets.config("RUN", None, None)
    assert isinstance(config, ZeroShotConfig)
    assert (config.store, config.templates, config.batch_size) == ("gs://bucket/pets", "clip-7", 8)
    assert (config.classes, config.output) == (str(tmp_path / "pets.json"), None)
    config = probe.config("RUN", 5, None)  # needs no run, and has no batch of texts
    assert config == FewShotConfig(store="/stores/pets", tower_id="t", shots=(1, 5), l2=2)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "evaluations: []",
            ["must hold `evaluations`", "found evaluations (list)", "write each evaluation's name"],
        ),
        ("evalutions: {a: {kind: retrieval, store: s}}", ["found evalutions"]),
        ("- a", ["found list"]),
        ("evaluations: {a: {store: s}}", ["a: kind: must be one of zero-shot, retrieval, few-shot"]),
        ("evaluations: {a/b: {kind: retrieval, store: s}}", ["the name must be of letters"]),
        ("evaluations: {suite: {kind: retrieval, store: s}}", ["none of suite"]),
        ("evaluations: {a: {kind: retrieval, store: s}, a: {kind: few-shot}}", ["a: must occur once"]),
        ("evaluations: {a: {kind: retrieval}}", ["a: missing 1 required", "store"]),
        ("evaluations: {a: {kind: retrieval, store: s, split: test}}", ["split: must be 'all' or 'train'"]),
        (
            "evaluations: {a: {kind: few-shot, store: s, shots: 5}}",
            ["shots: must be a list of a whole number"],
        ),
        (
            "evaluations: {a: {kind: few-shot, store: s, shots: [0]}}",
            ["--shots and --seeds must be 1 or more"],
        ),
        (
            "evaluations: {a: {kind: retrieval, store: s, batch_size: true}}",
            ["batch_size: must be a whole number"],
        ),
        ("evaluations: {a: {kind: retrieval, store: s, run: r}}", ["run: retrieval has no such option"]),
        ("{defaults: {nonsense: 1}, evaluations: {a: {kind: retrieval, store: s}}}", ["the option nonsense"]),
        (
            "evaluations: {a: {kind: retrieval, store: 1, color: x}, b: {kind: nap}}",
            ["a: color: retrieval has no such option", "a: store: must be text", "b: kind"],  # all at once
        ),
        ("evaluations: {a: !!python/object/apply:os.getcwd []}", ["must be a readable YAML file"]),
        ("a: [", ["must be a readable YAML file"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, messages: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        read_suite(write(tmp_path, text))
    for message in messages:
        assert message in str(error.value)


def test_a_suite_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--suite: .* must be a readable YAML file"):
        read_suite(str(tmp_path / "no.yaml"))
