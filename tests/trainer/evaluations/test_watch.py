"""Evaluation while training: lines and events written, the best state kept, mistakes said before the first step."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer import evaluate, train
from trainer.run_directory import load_run


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_held_out_part_is_watched_and_the_best_kept(trained, tmp_path: Path, capsys) -> None:
    store, run = trained("--eval-every", "10", "--checkpoint-every", "10", "--tensorboard")
    found = lines(run)
    assert [line["step"] for line in found] == [10, 20, 30]
    best = json.loads((run / "best.json").read_text(encoding="utf-8"))
    measures = [line["measure"] for line in found]
    assert best["value"] == max(measures)
    assert best["step"] == found[int(np.argmax(measures))]["step"]  # the first of equals
    assert [line["is_best"] for line in found] == [
        value > max([-1, *measures[:i]]) for i, value in enumerate(measures)
    ]
    first = found[0]
    assert first["measure"] == pytest.approx(
        (first["heldout/i2t_r1"] + first["heldout/t2i_r1"]) / 2, abs=1e-6
    )
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert (summary["best_step"], summary["best"]) == (best["step"], best["value"])
    assert list((run / "tensorboard").glob("*.eval"))

    # What was measured while training is what lit-eval says of the kept state.
    loaded, same = load_run(run, "best"), load_run(run, best["step"])
    assert loaded.step == best["step"]
    np.testing.assert_array_equal(
        loaded.text_tower.params["head"]["kernel"], same.text_tower.params["head"]["kernel"]
    )
    flags = ["--run", str(run), "--store", store, "--split", "heldout", "--step", "best"]
    assert evaluate.main(["retrieval", *flags]) == 0
    report = json.loads((run / "evaluations" / "retrieval.json").read_text(encoding="utf-8"))
    assert report["checkpoint_step"] == best["step"]
    assert report["t2i"]["r5"] == pytest.approx(best["figures"]["heldout/t2i_r5"], abs=1e-6)

    # A run that was cut off after step 10 drops the later lines and writes them again, alike.
    shutil.rmtree(run / "checkpoints" / "20")
    shutil.rmtree(run / "checkpoints" / "30")
    (run / "summary.json").unlink()
    capsys.readouterr()
    trained_again = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert trained_again["eval_every"] == 10
    resume(store, run, tmp_path, "--eval-every", "10", "--checkpoint-every", "10")
    assert "going on after step 10" in capsys.readouterr().out
    again = lines(run)
    assert [line["step"] for line in again] == [10, 20, 30]
    assert [line["measure"] for line in again] == measures
    assert json.loads((run / "best.json").read_text(encoding="utf-8"))["value"] == best["value"]


def resume(store: str, run: Path, tmp_path: Path, *more: str) -> None:
    tiny = "--text-width 16 --text-depth 1 --text-heads 2 --text-mlp 16 --vocab-size 64 --max-text-length 4"
    flags = f"{tiny} --batch-size 12 --steps 30 --learning-rate 1e-2 --holdout-fraction 0.3 --no-tensorboard"
    places = ["--store", store, "--output", str(run), "--spool-dir", str(tmp_path / "spool")]
    assert train.main([*places, *flags.split(), *more]) == 0


def test_a_suite_with_a_measure_of_one_s_own(trained, tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "evaluations:\n"
        "  all: {kind: retrieval, store: store}\n"
        "  seen: {kind: retrieval, store: store, split: train}\n"
        "  probe: {kind: few-shot, store: store}\n",  # looks at no text tower: left out
        encoding="utf-8",
    )
    _, run = trained("--eval-every", "20", "--eval-suite", str(suite), "--eval-best", "seen/i2t_r5")
    found = lines(run)
    assert [line["step"] for line in found] == [20, 30]
    assert {name.split("/")[0] for name in found[0] if "/" in name} == {"all", "seen"}
    assert found[0]["measure"] == found[0]["seen/i2t_r5"]


@pytest.mark.parametrize(
    ("suite", "flags", "message"),
    [
        (None, ("--holdout-fraction", "0"), "--eval-every: must have something to evaluate on"),
        ("evaluations: {a: {kind: nap}}", (), "a: kind: must be one of"),
        (
            "evaluations: {a: {kind: retrieval, store: none}}",
            (),
            "--eval-every: a cannot be evaluated: --store",
        ),
        ("evaluations: {a: {kind: few-shot, store: store}}", (), "must evaluate the text tower"),
    ],
)
def test_mistakes_are_said_before_the_first_step(
    write_store, row, tmp_path: Path, capsys, suite: str | None, flags: tuple[str, ...], message: str
) -> None:
    store = write_store([[row(f"id{n}", [np.eye(8)[n].tolist()], (f"word {n}",)) for n in range(8)]])
    more = []
    if suite is not None:
        (tmp_path / "suite.yaml").write_text(suite, encoding="utf-8")
        more = ["--eval-suite", str(tmp_path / "suite.yaml")]
    tiny = "--text-width 16 --text-depth 1 --text-heads 2 --text-mlp 16 --vocab-size 64 --max-text-length 4"
    places = ["--store", store, "--output", str(tmp_path / "run"), "--spool-dir", str(tmp_path / "spool")]
    words = [*places, *tiny.split(), "--batch-size", "4", "--steps", "2", "--eval-every", "1", *more, *flags]
    assert train.main(words) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "step 1/" not in printed.out


def test_an_evaluation_that_fails_leaves_the_training_alone(trained, tmp_path: Path, monkeypatch) -> None:
    from trainer.evaluations import watch

    def fail(*arguments: Any) -> tuple[None, str]:
        return None, "the store went away"

    monkeypatch.setattr(watch, "attempt", fail)
    _, run = trained("--eval-every", "30")
    (line,) = lines(run)
    assert line["errors"] == {"heldout": "the store went away"}
    assert (line["measure"], line["is_best"]) == (None, False)
    assert not (run / "best.json").exists()
