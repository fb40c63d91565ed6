"""The training loop as the command line runs it: learn, stop, go on, refuse."""

import json
import math
import shutil
import signal
import threading

import numpy as np
import pytest

from tests.trainer.runs import TINY, WORDS, leaves, lines, places, stop_after, word_rows
from trainer import train
from trainer.checkpoint import read_params
from trainer.command_line import DESCRIPTION, parse
from trainer.config import TrainConfig
from trainer.run_directory import load_run

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture
def store(write_store, row) -> str:
    """24 images, one caption each, in two parts."""
    rows = word_rows(row)
    return write_store([rows[:14], rows[14:]])


@pytest.fixture
def flags(store, tmp_path):
    """A command line for a tiny tower, with dropout and templates so that resuming covers them; later flags win."""
    templates = tmp_path / "templates.txt"
    templates.write_text("{}\na {} one\n")
    usual = "--batch-size 10 --steps 10 --learning-rate 1e-2 --seed 1 --log-every 1 --text-dropout 0.3"

    def make(output: str, *more: str) -> list[str]:
        where = places(tmp_path, store, output)
        return [*where, *TINY, *usual.split(), "--caption-templates", str(templates), *more]

    return make


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_tiny_tower_learns_the_store_by_heart(flags, tmp_path, loss, capsys):
    more = (
        "--loss",
        loss,
        "--steps",
        "150",
        "--batch-size",
        "24",
        "--log-every",
        "50",
        "--text-dropout",
        "0",
    )
    assert train.main(flags("run", *more)) == 0
    found = lines(tmp_path / "run")
    assert [line["step"] for line in found] == [1, 50, 100, 150]
    assert found[-1]["i2t_r1"] >= 0.9
    assert found[-1]["loss"] < found[0]["loss"]
    assert found[-1]["samples_seen"] == 150 * 24
    assert ("logit_bias" in found[-1]) == (loss == "sigmoid")
    loaded = load_run(tmp_path / "run")
    assert loaded.step == 150
    assert (loaded.bias is None) == (loss == "softmax")
    assert loaded.config["loss"]["loss"] == loss
    assert "lit-eval retrieval" in capsys.readouterr().out


def test_stopping_at_five_and_going_on_equals_ten_straight(flags, tmp_path, monkeypatch):
    assert train.main(flags("straight")) == 0
    stop_after(5, flags("stopped"), monkeypatch)
    assert [line["step"] for line in lines(tmp_path / "stopped")] == [1, 2, 3, 4, 5]
    assert train.main(flags("stopped")) == 0
    for ours, theirs in zip(leaves(tmp_path / "stopped"), leaves(tmp_path / "straight"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(lines(tmp_path / "stopped"), lines(tmp_path / "straight"), strict=True):
        assert {k: ours[k] for k in ("step", "loss", "i2t_r1")} == {
            k: theirs[k] for k in ("step", "loss", "i2t_r1")
        }


def test_sigterm_saves_and_says_how_to_go_on(flags, tmp_path, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    stop_after(3, flags("run"), monkeypatch)
    assert "stopped by SIGTERM after step 3" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is before
    assert read_params(tmp_path / "run" / "checkpoints")[0] == 3
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_complete_run_is_left_alone(flags, tmp_path, capsys):
    assert train.main(flags("run")) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert train.main(flags("run")) == 0
    assert "is complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_a_run_killed_before_its_summary_is_completed(flags, tmp_path):
    assert train.main(flags("run")) == 0
    first = json.loads((tmp_path / "run" / "summary.json").read_text())
    (tmp_path / "run" / "summary.json").unlink()
    assert train.main(flags("run")) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["loss"] == first["loss"]


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(flags, tmp_path, monkeypatch, capsys):
    assert train.main(flags("straight")) == 0
    stop_after(7, flags("stopped", "--checkpoint-every", "4"), monkeypatch)
    newest = tmp_path / "stopped" / "checkpoints" / "7"
    for file in (newest / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:20])
    assert train.main(flags("stopped")) == 0
    said = capsys.readouterr().out
    assert "checkpoint 7 is damaged" in said
    assert "going on after step 4" in said
    assert [line["step"] for line in lines(tmp_path / "stopped")] == list(range(1, 11))
    for ours, theirs in zip(leaves(tmp_path / "stopped"), leaves(tmp_path / "straight"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_going_on_with_other_settings_is_refused_naming_each(flags, tmp_path, monkeypatch, capsys):
    stop_after(3, flags("run"), monkeypatch)
    more = ("--learning-rate", "0.5", "--seed", "2", "--steps", "20", "--log-every", "3")
    assert train.main(flags("run", *more)) == 2
    said = capsys.readouterr().err
    assert "learning_rate: the run has 0.01, found 0.5" in said
    assert "seed: the run has 1, found 2" in said
    assert "laid out for 10 steps" in said
    assert "log_every" not in said
    assert "Traceback" not in said


def test_going_on_with_other_data_is_refused(flags, write_store, row, tmp_path, monkeypatch, capsys):
    stop_after(3, flags("run"), monkeypatch)
    rows = [row(str(i), [np.eye(8)[i % 8].tolist()], (f"red green blue {i}",)) for i in range(24)]
    other = write_store([rows], name="other", weights="random:1")
    assert train.main(flags("run", "--store", other)) == 2
    said = capsys.readouterr().err
    assert "content_id: the run has" in said
    assert "space_id: the run has" in said


def test_a_moved_store_goes_on(flags, store, tmp_path, monkeypatch):
    stop_after(3, flags("run"), monkeypatch)
    shutil.move(store, tmp_path / "moved")
    assert train.main(flags("run", "--store", str(tmp_path / "moved"))) == 0


def test_a_loss_that_is_not_a_number_stops_with_the_ids(flags, tmp_path, monkeypatch, capsys):
    gather = train.gather

    def poison(spool, sampler, number, *more):
        batch = gather(spool, sampler, number, *more)
        return (
            batch
            if number != 6
            else batch._replace(image_embeddings=batch.image_embeddings * np.float16("nan"))
        )

    monkeypatch.setattr(train, "gather", poison)
    assert train.main(flags("run", "--checkpoint-every", "5")) == 3
    assert "at step 7" in capsys.readouterr().err
    record = json.loads((tmp_path / "run" / "diverged-step-7.json").read_text())
    assert len(record["ids"]) == 10
    assert set(record["ids"]) <= {f"{a}-{b}" for a in WORDS for b in WORDS}
    assert read_params(tmp_path / "run" / "checkpoints")[0] == 5
    assert all(np.isfinite(leaf).all() for leaf in leaves(tmp_path / "run"))
    monkeypatch.undo()
    assert train.main(flags("run")) == 0


def test_a_mixture_is_trained_on_by_its_weights_and_validated_on_another_store(
    flags, store, write_store, row, tmp_path, capsys, monkeypatch
):
    def kinds(i: int):
        return ((f"old {WORDS[i % 8]}", "title", "en"), (f"flat {WORDS[i % 8]}", "tags", None))

    rows = [row(f"more-{i}", [np.eye(8)[i % 8].tolist()], kinds(i)) for i in range(9)]
    more, val = write_store([rows[:4], rows[4:]], "more"), write_store([rows[6:]], "val")
    mixed = ("--store", store, more, "--store-weights", "4", "1", "--val-store", val, "--eval-every", "3")
    stop_after(5, flags("mixed", *mixed), monkeypatch)
    assert train.main(flags("mixed", *mixed)) == 0
    said = capsys.readouterr().out
    assert f"{store}:\n  8 of each batch, out of 24 images" in said
    assert f"{more}:\n  2 of each batch, out of 6 images" in said
    assert [json.loads(line)["step"] for line in (tmp_path / "mixed" / "evaluations.jsonl").open()] == [
        3,
        6,
        9,
        10,
    ]
    provenance = json.loads((tmp_path / "mixed" / "provenance.json").read_text())
    assert len(provenance["mixed"]) == 2
    assert provenance["rows"] == 24 + 6
    assert train.main(flags("straight", *mixed)) == 0
    for ours, theirs in zip(leaves(tmp_path / "mixed"), leaves(tmp_path / "straight"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    swapped = ("--store", more, store, "--store-weights", "1", "4", "--val-store", val, "--eval-every", "3")
    assert train.main(flags("mixed", *swapped)) == 2
    assert "mixed: the run has" in capsys.readouterr().err


def test_the_plan_of_a_mixture_counts_its_joint_captions(flags, store, write_store, row, tmp_path, capsys):
    rows = [
        row(f"m{i}", [np.eye(8)[i].tolist()], (("a b", "title", None), ("c", "tags", None))) for i in range(8)
    ]
    kinds = ("--caption-kinds", "caption", "title", "tags", "--caption-draw", "joint")
    assert train.main(flags("run", "--store", store, write_store([rows], "more"), *kinds, "--plan")) == 0
    said = capsys.readouterr().out
    assert "images: 32 to train on" in said
    assert (
        "images with a caption of each kind: caption 0, title 8, tags 8; one without shows its next kind"
        in said
    )
    assert "memory on 1 device" in said
    assert not (tmp_path / "run").exists()


def test_stores_of_two_spaces_are_refused(flags, store, write_store, row, capsys):
    other = write_store([[row("x", [np.eye(8)[0].tolist()], ("x",))]], "other", weights="random:1")
    assert train.main(flags("run", "--store", store, other)) == 2
    assert "one space, found weights: 'random:0' and 'random:1'" in capsys.readouterr().err


def test_the_hold_out_is_said_and_not_trained_on(flags, tmp_path, capsys):
    assert train.main(flags("run", "--holdout-fraction", "0.3")) == 0
    assert "held out:" in capsys.readouterr().out


def test_what_an_epoch_leaves_out_is_said(flags, capsys):
    assert train.main(flags("run")) == 0
    assert "each epoch leaves out the last 4 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--batch-size", "25"), "--batch-size 24 or less"),
        (("--tower-id", "other"), "Known: tower"),
        (("--store", "nowhere"), "found nothing at nowhere"),
        (("--caption-templates", "absent.txt"), "absent.txt"),
        (("--learning-rate", "-1"), "learning_rate"),
        (("--steps", "0"), "steps: must be at least 1, found 0"),
        (("--text-tower", "minilm"), "text_checkpoint"),
        (("--loss", "hinge"), "hinge"),
        (("--batchsize", "3"), "--batch-size"),
        (("--freeze-backbone",), "the head alone is trained with --train head"),
        (("--train", "head"), "train: must be all without a pretrained backbone"),
    ],
)
def test_bad_input_gives_one_message_and_status_2(flags, capsys, more, said):
    assert train.main(flags("run", *more)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_an_output_with_foreign_files_is_refused(flags, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("…")
    assert train.main(flags("run")) == 2
    assert "thesis.tex" in capsys.readouterr().err


def test_help_shows_a_first_job_and_a_real_one(capsys):
    assert train.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "lit-train --store STORE --tower-id ID" in said
    assert "--train head" in said


def test_the_examples_of_the_help_are_command_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RUN").mkdir()  # for --init
    (tmp_path / "RUN" / "config.json").write_text(parse(["--store", "S", "--output", "RUN"]).to_json())
    (tmp_path / "RUN" / "text_tower.json").write_text('{"backbone": {}, "max_text_length": 16}')
    for example in DESCRIPTION.replace("\\\n", " ").splitlines():
        if example.strip().startswith("lit-train"):
            assert isinstance(parse(example.split()[1:]), TrainConfig)


def test_hyphens_and_underscores_are_alike_and_the_configuration_round_trips():
    flags = [
        "--store=S",
        "--output=R",
        "--batch_size=7",
        "--max-text-length=9",
        "--frozen",
        "head/bias",
        "log_scale",
    ]
    config = parse(flags)
    assert config.batch_size == 7
    assert config.optimizer.frozen == ("head/bias", "log_scale")
    assert TrainConfig.from_json(config.to_json()) == config


def test_the_defaults_are_those_promised():
    config = parse(["--store", "S", "--output", "R"])
    assert (config.optimizer.customs.beta1, config.optimizer.customs.beta2) == (0.9, 0.98)
    assert config.optimizer.customs.weight_decay == 0.05
    assert config.optimizer.clip_norm == 1.0
    assert config.optimizer.warmup_fraction == 0.05
    assert (config.loss.logit_scale_init, config.loss.logit_bias_init) == (10.0, -10.0)
    assert config.text.text_dropout == 0.0
    assert config.loss.duplicates == "mask"
    assert config.data.max_text_length == 16


def test_training_works_outside_the_main_thread(flags):
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(train.run(parse(flags("run")))["loss"]))
    thread.start()
    thread.join()
    assert math.isfinite(found[0])
