"""What a run keeps is enough to use its tower again, and to know whether a command means the same run."""

import json

import jax
import numpy as np
import pytest

from trainer import parameters
from trainer.checkpoint import Checkpoints
from trainer.config import DataConfig, TrainConfig
from trainer.run_directory import Provenance, begin_run, check_same_run, is_run, load_run, summary
from trainer.step import TrainState
from trainer.text_towers import TextTowerConfig, build_text_tower

TINY = TextTowerConfig(text_width=8, text_depth=1, text_heads=2, text_mlp=8, vocab_size=64)
PROVENANCE = Provenance("space", "content", ("{}", "a {}"), "tokenizer", "backbone", 10)

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture(scope="module")
def tower():
    return build_text_tower(TINY, 5, jax.random.key(0), lambda: ["a red cat", "one blue dog"], 4)


def config(path, **changes) -> TrainConfig:
    return TrainConfig(DataConfig(store=("store",)), str(path), **{"text": TINY, **changes})


def save_step(path, step, params):
    checkpoints = Checkpoints(path / "checkpoints")
    checkpoints.save(TrainState(params, {"count": np.zeros(())}, np.int32(step)))
    checkpoints.close()


def test_a_tower_comes_back_as_it_was_trained(tmp_path, tower):
    run = tmp_path / "run"
    begin_run(run, config(run), PROVENANCE, tower)
    assert is_run(run)
    assert summary(run) is None
    trained = jax.tree.map(lambda leaf: leaf + np.float32(1), tower.params)
    save_step(run, 7, {**trained, "log_scale": np.float32(2.5), "bias": np.float32(-9)})
    loaded = load_run(run)
    assert (loaded.step, loaded.log_scale, loaded.bias) == (7, 2.5, -9.0)
    assert (loaded.space_id, loaded.content_id) == ("space", "content")
    assert loaded.config["batch_size"] == 256
    assert loaded.text_tower.architecture == tower.architecture
    tokens = loaded.text_tower.tokenizer(["a red dog"], 4)
    np.testing.assert_array_equal(tokens, tower.tokenizer(["a red dog"], 4))
    np.testing.assert_array_equal(
        loaded.text_tower.embed(loaded.text_tower.params, tokens), tower.embed(trained, tokens)
    )


def test_a_frozen_backbone_is_kept_once_beside_the_checkpoints(tmp_path, tower):
    run = tmp_path / "run"
    frozen = TextTowerConfig(text_tower="minilm", text_checkpoint="somewhere")
    begin_run(run, config(run, text=frozen, train="head"), PROVENANCE, tower)
    save_step(run, 3, {"head": tower.params["head"], "log_scale": np.float32(2)})
    loaded = load_run(str(run))
    assert loaded.bias is None
    for ours, theirs in zip(
        jax.tree.leaves(loaded.text_tower.params), jax.tree.leaves(tower.params), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="made by lit-train"):
        load_run(tmp_path)


def test_a_run_without_a_checkpoint_is_refused(tmp_path, tower):
    run = tmp_path / "run"
    begin_run(run, config(run), PROVENANCE, tower)
    with pytest.raises(ValueError, match="must hold a checkpoint"):
        load_run(run)


def test_the_same_run_is_known_by_what_it_computes(tmp_path, tower):
    run = tmp_path / "run"
    begin_run(run, config(run), PROVENANCE, tower)
    check_same_run(run, config(run, log_every=3, keep_checkpoints=1), PROVENANCE)
    other = Provenance("space", "changed", ("{}", "the {}"), "tokenizer", "backbone", 11)
    with pytest.raises(ValueError) as refused:
        check_same_run(run, config(run, batch_size=9), other)
    for part in ("batch_size: the run has 256, found 9", "content_id", "templates", "rows"):
        assert part in str(refused.value)
    assert "schedule" not in str(refused.value)


def test_the_configuration_beside_the_run_is_readable_json(tmp_path, tower):
    run = tmp_path / "run"
    begin_run(run, config(run), PROVENANCE, tower)
    assert json.loads((run / "config.json").read_text())["text"]["text_width"] == 8


def test_parameter_trees_survive_files_and_have_digests(tmp_path):
    tree = {"b": {"x": np.arange(6.0).reshape(2, 3)[:, ::2]}, "a": np.float32(3).reshape(())}
    parameters.save(tree, tmp_path / "t.safetensors")
    again = parameters.load(tmp_path / "t.safetensors")
    assert parameters.digest(again) == parameters.digest(tree)
    assert parameters.digest({**tree, "a": np.float32(4).reshape(())}) != parameters.digest(tree)
    assert parameters.digest(tree, "other architecture") != parameters.digest(tree)
    assert parameters.count(tree) == 5
    (tmp_path / "t.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0oops")
    with pytest.raises(ValueError, match="safetensors"):
        parameters.load(tmp_path / "t.safetensors")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", "{", "must be JSON as lit-train wrote it"),
        ("config.json", "[]", "must be a JSON object, found list"),
        ("config.json", '{"data": {}}', "must hold text, loss, optimizer, found data"),
        ("provenance.json", None, "must be there, as lit-train wrote it"),
        ("provenance.json", '{"space_id": "s", "later": 1}', "must be of this release"),
    ],
)
def test_a_damaged_run_is_refused_naming_the_file(tmp_path, tower, file, content, said):
    run = tmp_path / "run"
    begin_run(run, config(run), PROVENANCE, tower)
    (run / file).unlink() if content is None else (run / file).write_text(content)
    with pytest.raises(ValueError, match=rf"run/{file}: {said}"):
        load_run(run)
    with pytest.raises(ValueError, match="found no such folder: "):
        load_run(tmp_path / "elsewhere")
