"""A run that goes on from another run's text tower: what it takes over, what it refuses, that it resumes."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from schemas.store import open_store
from tests.trainer.runs import TINY, WORDS, places, stop_after
from trainer import train
from trainer.checkpoint import Checkpoints, read_params
from trainer.command_line import parse
from trainer.config import DataConfig, TrainConfig
from trainer.run_directory import Provenance, begin_run, load_run
from trainer.step import TrainState
from trainer.text_towers import build_text_tower
from trainer.warm_start import warm_start, with_tower_of

pytestmark = pytest.mark.usefixtures("compiled_once")

DROPOUT = ("--text-dropout", "0.2")
Flags = Callable[..., list[str]]


@pytest.fixture
def stores(write_store, row) -> dict[str, str]:
    """The same captions with images of a space, of another space, and of another dimension."""
    found = {}
    for name, dim, weights in (("a", 8, "random:0"), ("b", 8, "random:1"), ("wide", 12, "random:2")):
        rows = [
            row(
                f"{first}-{j}",
                [np.roll(np.arange(dim, dtype=float), 3 * i + j).tolist()],
                (f"{first} {WORDS[j]}",),
            )
            for i, first in enumerate(WORDS)
            for j in range(2)
        ]
        found[name] = write_store([rows], name=name, weights=weights)
    return found


@pytest.fixture
def flags(stores, tmp_path) -> Flags:
    """A command line without a word of the text tower; later flags win."""

    def make(store: str, output: str, *more: str) -> list[str]:
        usual = "--batch-size 8 --steps 4 --learning-rate 1e-2 --log-every 1"
        return [*places(tmp_path, stores[store], output), *usual.split(), *more]

    return make


def made(run: Path, command: list[str], store: str, loss: dict[str, float]) -> str:
    """A run whose checkpoint says that its tower moved, without the time to train it."""
    config = parse(command)
    captions = [f"{first} {second}" for first in WORDS for second in WORDS]
    length, images = config.data.max_text_length, open_store(store).images("tower").manifest
    tower = build_text_tower(config.text, images.embedding_dim, jax.random.key(0), lambda: captions, length)
    provenance = Provenance(
        images.space_id, images.content_id, ("{}",), tower.tokenizer.digest, "backbone", 16
    )
    begin_run(run, config, provenance, tower)
    moved = jax.tree.map(lambda leaf: np.asarray(leaf + np.float32(0.01)), tower.params)
    checkpoints = Checkpoints(run / "checkpoints")
    scale = {name: np.float32(value) for name, value in loss.items()}
    checkpoints.save(TrainState({**moved, **scale}, {"count": np.zeros(())}, np.int32(4)))
    checkpoints.close()
    return str(run)


@pytest.fixture
def first(flags: Flags, stores, tmp_path: Path) -> str:
    """A run on store a."""
    return made(
        tmp_path / "first",
        flags("a", "first", *TINY, *DROPOUT),
        stores["a"],
        {"log_scale": 2.5},
    )


def begun(command: list[str], images: Path) -> object:
    """The warm start of a command line, as lit-train comes to it."""
    return warm_start(parse(command), open_store(str(images)).images("tower").manifest)


def embeddings(tower, params=None) -> np.ndarray:
    tokens = tower.tokenizer([f"{word} old" for word in WORDS], tower.max_text_length)
    return np.asarray(jax.jit(tower.embed)(tower.params if params is None else params, tokens))


def differ(one, other) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return any((np.asarray(a) != np.asarray(b)).any() for a, b in pairs)


def test_in_the_same_space_all_of_it_goes_on(flags: Flags, stores, first: str) -> None:
    run = load_run(first)
    found = begun(flags("a", "second", "--init", first), stores["a"])
    np.testing.assert_array_equal(embeddings(found.tower), embeddings(run.text_tower))
    assert found.tower.tokenizer.digest == run.text_tower.tokenizer.digest
    assert found.tower.max_text_length == 6
    assert found.config.loss.logit_scale_init == pytest.approx(math.exp(run.log_scale), rel=1e-6)
    assert found.step == 4


def test_the_first_step_is_taken_from_the_runs_embeddings(
    flags: Flags, first: str, tmp_path: Path, capsys
) -> None:
    still = ("--learning-rate", "0", "--weight-decay", "0", "--steps", "1")
    assert train.main(flags("a", "second", "--init", first, *still)) == 0
    said = capsys.readouterr().out
    assert f"text tower: that of {first} after step 4" in said
    assert "backbone and that run's head" in said
    ours, theirs = load_run(tmp_path / "second"), load_run(first)
    np.testing.assert_allclose(embeddings(ours.text_tower), embeddings(theirs.text_tower), rtol=1e-6)
    assert ours.log_scale == pytest.approx(theirs.log_scale, rel=1e-6)
    first_line = json.loads((tmp_path / "second" / "metrics.jsonl").read_text().splitlines()[0])
    assert first_line["logit_scale"] == pytest.approx(math.exp(theirs.log_scale), rel=1e-5)


@pytest.mark.parametrize(("store", "dim"), [("b", 8), ("wide", 12)])
def test_in_another_space_the_head_and_the_scale_begin_anew(
    flags: Flags, stores, first: str, tmp_path: Path, store: str, dim: int
) -> None:
    run = load_run(first)
    found = begun(flags(store, "second", "--init", first), stores[store])
    assert not differ(found.tower.params["backbone"], run.text_tower.params["backbone"])
    assert found.tower.params["head"]["kernel"].shape == (16, dim)
    assert not found.tower.params["head"]["bias"].any()
    assert embeddings(found.tower).shape == (8, dim)
    assert dim != 8 or differ(found.tower.params["head"], run.text_tower.params["head"])
    assert found.config.loss.logit_scale_init == 10


def test_flags_may_say_otherwise_of_the_head_and_the_scale(flags: Flags, stores, first: str, capsys) -> None:
    run = load_run(first)
    command = flags("b", "second", "--init", first)
    kept = begun([*command, "--text-head", "checkpoint"], stores["b"])
    assert not differ(kept.tower.params, run.text_tower.params)
    own = flags("a", "second", "--init", first)
    assert begun([*own, "--logit-scale-init", "3"], stores["a"]).config.loss.logit_scale_init == 3
    new = begun([*own, "--text-head", "new"], stores["a"])
    assert differ(new.tower.params["head"], run.text_tower.params["head"])
    assert new.config.loss.logit_scale_init == 10
    assert begun([*own, "--loss", "sigmoid"], stores["a"]).config.loss.logit_scale_init == 10
    assert train.main(flags("wide", "second", "--init", first, "--text-head", "checkpoint")) == 2
    assert "found one of 8. Set --text-head new" in capsys.readouterr().err


def test_scale_and_bias_of_a_sigmoid_run_go_on(flags: Flags, stores, tmp_path: Path) -> None:
    sigmoid = flags("a", "sigmoid", *TINY, *DROPOUT, "--loss", "sigmoid")
    run = made(tmp_path / "sigmoid", sigmoid, stores["a"], {"log_scale": 2.5, "bias": -3.5})
    loss = begun(flags("a", "second", "--init", run, "--loss", "sigmoid"), stores["a"]).config.loss
    assert loss.logit_bias_init == -3.5
    assert loss.logit_scale_init == pytest.approx(math.exp(2.5))


def test_how_it_is_trained_may_differ(flags: Flags, stores, first: str, tmp_path: Path) -> None:
    command = flags("a", "second", "--init", first, "--compute-dtype", "bfloat16")
    backbone = begun(command, stores["a"]).tower.architecture["backbone"]
    assert (backbone["dropout"], backbone["compute_dtype"]) == (0.0, "bfloat16")
    before = load_run(first).text_tower.params
    assert train.main(flags("b", "frozen", "--init", first, "--train", "head")) == 0
    frozen = load_run(tmp_path / "frozen").text_tower
    assert not differ(frozen.params["backbone"], before["backbone"])
    assert (tmp_path / "frozen" / "frozen.safetensors").is_file()
    # on from the frozen one: nothing of how it was trained sticks
    again = begun(flags("b", "third", "--init", str(tmp_path / "frozen")), stores["b"])
    assert again.config.train == "all"
    assert not differ(again.tower.params, frozen.params)
    assert parse(flags("b", "head", "--init", first, "--train", "head")).train == "head"


def test_a_backbone_that_was_trained_moves_at_a_tenth_of_the_rate(
    flags: Flags, first: str, tmp_path: Path
) -> None:
    rates = ("--learning-rate", "1e-3", "--schedule", "stair", "--warmup-fraction", "0", "--steps", "1")
    assert train.main(flags("a", "second", "--init", first, *rates, "--weight-decay", "0")) == 0
    old, new = (load_run(path).text_tower.params["backbone"] for path in (first, tmp_path / "second"))
    pairs = zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    assert max(np.abs(a - b).max() for a, b in pairs) == pytest.approx(1e-4, rel=0.05)


def test_flags_of_another_tower_are_refused_naming_each(flags: Flags, stores, first: str, capsys) -> None:
    same = ("--text-width", "16", "--text-pool", "mean", "--max-text-length", "5")
    assert begun(flags("a", "second", "--init", first, *same), stores["a"]).tower.max_text_length == 5
    other = (
        "--text-width",
        "32",
        "--text-depth",
        "4",
        "--vocab-size",
        "99",
        "--text-attend-pads",
        "--seed",
        "3",
    )
    assert train.main(flags("a", "third", "--init", first, *other)) == 2
    said = capsys.readouterr().err
    for one in (
        "text_width: the run has 16, found 32",
        "text_depth: the run has 1, found 4",
        "vocab_size: the run has 64, found 99",
        "text_attend_pads: the run has False, found True",
    ):
        assert one in said
    assert "seed" not in said
    assert train.main(flags("a", "third", "--init", first, "--max-text-length", "7")) == 2
    assert "rows must hold at most 6, found 7" in capsys.readouterr().err


def test_a_preset_gives_all_but_the_tower(first: str) -> None:
    config = parse(["--preset", "siglit_b", "--init", first, "--store", "S", "--output", "R"])
    assert (config.text.text_width, config.data.max_text_length) == (16, 6)
    assert (config.optimizer.optimizer, config.loss.loss, config.batch_size) == ("lion", "sigmoid", 32_768)
    assert with_tower_of(first).text == config.text


@pytest.mark.parametrize("made", ["nothing", "empty", "no-checkpoint"])
def test_what_is_no_run_is_refused(flags: Flags, first: str, tmp_path: Path, capsys, made: str) -> None:
    place = tmp_path / made
    if made == "empty":
        place.mkdir()
    if made == "no-checkpoint":
        shutil.copytree(first, place, ignore=shutil.ignore_patterns("checkpoints"))
    assert train.main(flags("a", "second", "--init", str(place))) == 2
    said = capsys.readouterr().err
    assert (
        "must hold a checkpoint" if made == "no-checkpoint" else "init: must be a folder made by lit-train"
    ) in said
    assert "Traceback" not in said
    assert not (tmp_path / "second").exists()


def test_a_run_cannot_start_from_itself(flags: Flags, first: str, capsys) -> None:
    assert train.main(flags("a", "first", "--init", first)) == 2
    assert "init: must be another run than --output" in capsys.readouterr().err


@pytest.mark.parametrize("store", ["b"])
def test_stopped_and_gone_on_equals_straight(
    flags: Flags, first: str, tmp_path: Path, monkeypatch, store: str
) -> None:
    more = ("--init", first, "--text-dropout", "0.3")
    assert train.main(flags(store, "straight", *more)) == 0
    command = flags(store, "stopped", *more)
    stop_after(2, command, monkeypatch)
    assert train.main(command) == 0
    ours, theirs = (read_params(tmp_path / name / "checkpoints")[1] for name in ("stopped", "straight"))
    assert not differ(ours, theirs)


def test_a_run_that_changed_meanwhile_is_another_beginning(
    flags: Flags, first: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    stop_after(2, flags("a", "second", "--init", first), monkeypatch)
    moved = shutil.move(first, tmp_path / "moved")
    tower = load_run(moved).text_tower
    trained = jax.tree.map(lambda leaf: np.asarray(leaf) + np.float32(1), tower.params)
    shutil.copytree(moved, first, ignore=shutil.ignore_patterns("checkpoints"))
    checkpoints = Checkpoints(Path(first) / "checkpoints")
    state = {**trained, "log_scale": np.float32(2.5)}
    checkpoints.save(TrainState(state, {"count": np.zeros(())}, np.int32(8)))
    checkpoints.close()
    assert train.main(flags("a", "second", "--init", first)) == 2
    said = capsys.readouterr().err
    assert "backbone: the run has" in said
    assert "init: the run has" in said
    assert train.main(flags("a", "second", "--init", str(moved), "--log-every", "2")) == 0


@pytest.mark.parametrize(
    ("family", "folder", "tokenizer", "dim", "length"),
    [
        ("clip", "hf/text_clip", "clip_bpe", 24, 16),
        ("siglip", "hf/text_siglip", "siglip_spm", 32, 16),
        ("t5", "hf/text_t5_encoder_relu", "t5_spm", 8, 12),
        ("minilm", "text_bert/current_names", None, 8, 12),
    ],
)
def test_towers_of_every_make(
    write_store,
    row,
    golden_dir: Path,
    tmp_path: Path,
    family: str,
    folder: str,
    tokenizer,
    dim: int,
    length: int,
) -> None:
    rows = [row(word, [np.eye(dim)[i].tolist()], (word,)) for i, word in enumerate(WORDS[:6])]
    store, other = (write_store([rows], name=name, weights=name) for name in ("one", "two"))
    command = ["--text-tower", family, "--text-checkpoint", str(golden_dir / folder)]
    command += ["--text-tokenizer", str(golden_dir / "tokenizers" / tokenizer)] if tokenizer else []
    command += ["--max-text-length", str(length), "--store", store, "--output", str(tmp_path / "first")]
    first = made(tmp_path / "first", command, store, {"log_scale": 2.5})
    run = load_run(first).text_tower
    again = ["--init", first, "--output", str(tmp_path / "second"), "--store"]
    same, new = (begun([*again, path], path).tower for path in (store, other))
    assert (same.max_text_length, new.max_text_length) == (length, length)
    np.testing.assert_array_equal(embeddings(same), embeddings(run))
    assert not differ(new.params["backbone"], run.params["backbone"])
    assert new.architecture["head"]["origin"] == "new"
    assert differ(jax.tree.leaves(new.params["head"])[-1], jax.tree.leaves(run.params["head"])[-1])


def test_the_api_says_what_the_flags_say(first: str, stores) -> None:
    given = TrainConfig(DataConfig(store=(stores["a"],)), "run", batch_size=4)
    assert with_tower_of(first, given).init == first
    assert with_tower_of(first, given).batch_size == 4
