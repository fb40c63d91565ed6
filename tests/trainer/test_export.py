"""What leaves the house is what was trained: every format, read back."""

import dataclasses
import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from schemas.store import open_store
from schemas.weights import params_subtree, read_weights
from trainer import train
from trainer.checkpoint import Checkpoints
from trainer.config import DataConfig, LossConfig, TrainConfig
from trainer.export import load_export, main
from trainer.run_directory import Provenance, begin_run, load_run
from trainer.step import TrainState
from trainer.text_towers import TextTowerConfig, build_text_tower
from trainer.text_towers.bert import BertConfig
from trainer.text_towers.bert_checkpoint import read_bert
from trainer.text_towers.checkpoint import read_text_checkpoint
from trainer.text_towers.transformer import TransformerConfig, to_params
from trainer.tokenizers import load_tokenizer

pytestmark = pytest.mark.usefixtures("compiled_once")

TINY = TextTowerConfig(text_width=16, text_depth=1, text_heads=2, text_mlp=16, vocab_size=64)
TEXTS = ["red square", "a large blue dog", ""]


@pytest.fixture
def store(write_store, row) -> str:
    words = ("red", "green", "blue", "old")
    rows = [row(word, [np.eye(8)[i].tolist()], (f"a {word} square",)) for i, word in enumerate(words)]
    return write_store([rows])


@pytest.fixture
def trained(store, tmp_path) -> Path:
    """A real run of a few steps, sigmoid loss."""
    flags = "--text-width 16 --text-depth 1 --text-heads 2 --text-mlp 16 --vocab-size 64 --max-text-length 6"
    more = "--batch-size 4 --steps 3 --loss sigmoid --learning-rate 1e-2 --no-tensorboard"
    run = tmp_path / "run"
    places = ["--store", store, "--output", str(run), "--spool-dir", str(tmp_path / "spool")]
    assert train.main([*places, *flags.split(), *more.split()]) == 0
    return run


@pytest.fixture
def make_run(tmp_path):
    """`make_run(text config, store=None, bias=None) -> folder` of a run made without training."""

    def make(
        text: TextTowerConfig, store: str | None = None, bias: float | None = None, dim: int = 8
    ) -> Path:
        run = tmp_path / "made"
        tower = build_text_tower(text, dim, jax.random.key(3), lambda: TEXTS, 6)
        ids = ("no space", "no content")
        if store is not None:
            manifest = open_store(store).images("tower").manifest
            ids = (manifest.space_id, manifest.content_id)
        loss = LossConfig(loss="softmax" if bias is None else "sigmoid")
        config = TrainConfig(DataConfig(store=(store or "gone",)), str(run), text=text, loss=loss)
        begin_run(run, config, Provenance(*ids, ("{}",), tower.tokenizer.digest, "backbone", 4), tower)
        params = {**tower.params, "log_scale": np.float32(2.25)}
        if bias is not None:
            params["bias"] = np.float32(bias)
        checkpoints = Checkpoints(run / "checkpoints")
        checkpoints.save(TrainState(params, {"count": np.zeros(())}, np.int32(5)))
        checkpoints.close()
        return run

    return make


@pytest.fixture
def bert(golden_dir) -> TextTowerConfig:
    return TextTowerConfig(
        text_tower="minilm", text_checkpoint=str(golden_dir / "text_bert" / "current_names"), text_pool="cls"
    )


def export(run: Path, output: Path, *flags: str) -> int:
    return main([str(run), "--output", str(output), "--no-latency", *flags])


def assert_same(found, wanted) -> None:
    found, wanted = flatten_dict(found, sep="/"), flatten_dict(wanted, sep="/")
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert np.asarray(found[name]).dtype == np.asarray(value).dtype
        np.testing.assert_array_equal(found[name], value)


def test_safetensors_come_back_bit_by_bit(trained, tmp_path, capsys):
    assert export(trained, tmp_path / "out") == 0
    assert "text_tower.safetensors" in capsys.readouterr().out
    run, back = load_run(trained), load_export(tmp_path / "out")
    assert_same(back.text_tower.params, run.text_tower.params)
    assert (back.log_scale, back.bias, back.step) == (run.log_scale, run.bias, 3)
    assert (back.space_id, back.content_id) == (run.space_id, run.content_id)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert len(modes) == 1, "weights are as readable as what describes them"
    tokens = run.text_tower.tokenizer(TEXTS, 6)
    np.testing.assert_array_equal(back.text_tower.tokenizer(TEXTS, 6), tokens)
    np.testing.assert_array_equal(
        back.text_tower.embed(back.text_tower.params, tokens),
        run.text_tower.embed(run.text_tower.params, tokens),
    )
    names = set(load_file(tmp_path / "out" / "text_tower.safetensors"))
    assert {"log_scale", "bias", "head/kernel", "backbone/pos_embedding"} <= names


def test_the_description_says_what_was_made_from_what_and_not_where(trained, store, tmp_path):
    assert export(trained, tmp_path / "out") == 0
    text = (tmp_path / "out" / "config.json").read_text()
    described = json.loads(text)
    assert described["image_tower"] == open_store(store).images("tower").manifest.tower.to_json()
    assert (described["templates"], described["max_text_length"], described["step"]) == (["{}"], 6, 3)
    assert described["training"]["data"]["store"] == ["store"]
    for file in ("config.json", "README.md"):
        assert str(tmp_path) not in (tmp_path / "out" / file).read_text()


def test_an_altered_export_is_refused(trained, tmp_path):
    assert export(trained, tmp_path / "out") == 0
    with pytest.raises(ValueError, match=r"format safetensors, found no config\.json"):
        load_export(trained)
    weights = tmp_path / "out" / "text_tower.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    with pytest.raises(ValueError, match=r"must have the sha256 that config\.json states"):
        load_export(tmp_path / "out")


def test_nothing_is_overwritten_and_nothing_half_is_left(make_run, tmp_path, capsys):
    run = make_run(TINY)
    assert export(run, run) == 2
    assert "--output: must be a new or empty folder" in capsys.readouterr().err
    assert export(run, tmp_path / "out", "--format", "hf") == 2
    assert "SigLIP's, found --text-pool mean, padding masked" in capsys.readouterr().err
    assert export(run, tmp_path / "out", "--image-checkpoint", "x.npz") == 2
    assert "with --format big-vision" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    (tmp_path / "out").mkdir()
    assert export(run, tmp_path / "out") == 0


def test_a_bert_folder_is_read_back_bit_by_bit(make_run, bert, tmp_path, capsys):
    run = make_run(bert)
    out = tmp_path / "out"
    assert export(run, out, "--format", "hf") == 0
    assert "lit.json" in capsys.readouterr().out
    tower = load_run(run).text_tower
    config, params = read_bert(read_text_checkpoint(str(out)), BertConfig(), "bert")
    assert dataclasses.asdict(config) == tower.architecture["backbone"]
    assert_same(params, tower.params["backbone"])
    tokenizer = load_tokenizer(str(out))
    np.testing.assert_array_equal(tokenizer(TEXTS, 6), tower.tokenizer(TEXTS, 6))
    modules = json.loads((out / "modules.json").read_text())
    assert [one["path"] for one in modules] == ["", "1_Pooling", "2_Dense"]
    dense = load_file(out / "2_Dense" / "model.safetensors")
    features = np.asarray(tower.features(params, tokenizer(TEXTS, 6)))
    np.testing.assert_allclose(
        features @ dense["linear.weight"].T + dense["linear.bias"],
        tower.embed(tower.params, tokenizer(TEXTS, 6)),
        atol=1e-5,
    )
    scale = json.loads((out / "lit.json").read_text())
    assert (scale["log_scale"], scale["bias"]) == (2.25, None)
    named = json.loads((out / "tokenizer_config.json").read_text())
    assert (named["pad_token"], named["cls_token"]) == ("[PAD]", "[CLS]")


def test_its_tensors_are_those_of_the_folder_it_started_from(make_run, bert, tmp_path):
    assert export(make_run(bert), tmp_path / "out", "--format", "hf") == 0
    assert bert.text_checkpoint is not None
    before = load_file(Path(bert.text_checkpoint) / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert set(after) <= set(before)
    for name, tensor in after.items():
        np.testing.assert_array_equal(tensor, before[name])


@pytest.mark.parametrize("pool", ["mean", "last", "map"])
def test_the_text_half_of_the_reference_layout(make_run, tmp_path, capsys, pool):
    text = dataclasses.replace(TINY, text_attend_pads=True, text_pool=pool)
    run = make_run(text, bias=-4.5)
    assert export(run, tmp_path / "out", "--format", "big-vision") == 0
    assert "holds no img/" in capsys.readouterr().out
    leaves = dict(read_weights(str(tmp_path / "out" / "two_towers.npz")).tensors)
    np.testing.assert_array_equal(leaves.pop("t"), np.array([2.25], np.float32))
    np.testing.assert_array_equal(leaves.pop("b"), np.array([-4.5], np.float32))
    tower = load_run(run).text_tower
    head = {name: leaves.pop(f"txt/head/{name}") for name in ("kernel", "bias")}
    assert_same(head, tower.params["head"])
    body = {name.removeprefix("txt/"): leaf for name, leaf in leaves.items()}
    params = to_params(body, TransformerConfig(**tower.architecture["backbone"]), "exported")
    assert_same(params, tower.params["backbone"])
    model = json.loads((tmp_path / "out" / "config.json").read_text())["model"]
    assert model["text"]["pool_type"] == {"mean": "gap"}.get(pool, pool)
    assert (model["out_dim"], model["bias_init"]) == ([None, 8], -10.0)


def test_towers_without_a_reference_layout_are_refused_saying_why(make_run, tmp_path, capsys):
    assert export(make_run(TINY), tmp_path / "out", "--format", "big-vision") == 2
    assert "padding masked" in capsys.readouterr().err


def test_a_bert_of_another_form_has_no_reference_layout(make_run, bert, tmp_path, capsys):
    assert export(make_run(bert), tmp_path / "out", "--format", "big-vision") == 2
    assert (
        "a BERT must compute what the reference's does: activation must be 'gelu_new'"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


@pytest.fixture
def vit_store(write_store, row, golden_dir):
    """`vit_store(features) -> store` whose manifest names the golden ViT, or another file, as its tower."""

    def make(features: str = "head", family: str = "vit", checkpoint: Path | None = None) -> str:
        sha256 = read_weights(str(checkpoint or golden_dir / "vit" / "gap.params.npz")).sha256
        store = write_store([[row("a", [np.eye(8)[0].tolist()], ("a cat",))]], weights=sha256)
        path = Path(store) / "images" / "tower" / "manifest.json"
        manifest = open_store(store).images("tower").manifest
        tower = dataclasses.replace(manifest.tower, architecture={"family": family}, features=features)
        path.write_text(dataclasses.replace(manifest, tower=tower, space_id=tower.space_id).to_json())
        return store

    return make


REFERENCE_LIKE = dataclasses.replace(TINY, text_attend_pads=True)


def test_the_locked_tower_is_copied_verbatim(make_run, vit_store, golden_dir, tmp_path):
    run = make_run(REFERENCE_LIKE, vit_store())
    checkpoint = str(golden_dir / "vit" / "gap.params.npz")
    flags = ("--format", "big-vision", "--image-checkpoint", checkpoint)
    assert export(run, tmp_path / "out", *flags) == 0
    leaves = read_weights(str(tmp_path / "out" / "two_towers.npz")).tensors
    image = {name.removeprefix("img/"): leaf for name, leaf in leaves.items() if name.startswith("img/")}
    assert_same(image, params_subtree(read_weights(checkpoint).tensors))
    assert "b" not in leaves
    model = json.loads((tmp_path / "out" / "config.json").read_text())["model"]
    assert model["out_dim"] == [8, 8]
    assert "bias_init" not in model


def test_the_image_half_of_a_training_checkpoint_keeps_its_bfloat16(make_run, vit_store, tmp_path):
    leaf = np.arange(4, dtype=np.float32).astype(ml_dtypes.bfloat16)
    others = {"params/txt/head/bias": np.ones(2), "params/t": np.ones(1), "opt/0/count": np.ones(())}
    checkpoint = tmp_path / "checkpoint.npz"
    np.savez(checkpoint, **{"params/img/cls": leaf}, **others)
    run = make_run(REFERENCE_LIKE, vit_store(checkpoint=checkpoint))
    flags = ("--format", "big-vision", "--image-checkpoint", str(checkpoint))
    assert export(run, tmp_path / "out", *flags) == 0
    leaves = read_weights(str(tmp_path / "out" / "two_towers.npz")).tensors
    assert [name for name in leaves if name.startswith("img/")] == ["img/cls"]
    assert leaves["img/cls"].tobytes() == leaf.tobytes()
    assert leaves["img/cls"].dtype == ml_dtypes.bfloat16
    assert leaves["t"] == np.float32(2.25)


def test_a_head_the_store_does_not_speak_of_is_left_out(make_run, vit_store, golden_dir, tmp_path, capsys):
    run = make_run(REFERENCE_LIKE, vit_store("pre-head"))
    checkpoint = str(golden_dir / "vit" / "gap.params.npz")
    assert export(run, tmp_path / "out", "--format", "big-vision", "--image-checkpoint", checkpoint) == 0
    assert "Left out of img/: head/bias, head/kernel" in capsys.readouterr().out
    assert "img/head/kernel" not in read_weights(str(tmp_path / "out" / "two_towers.npz")).tensors


def test_another_image_checkpoint_is_refused(make_run, vit_store, golden_dir, tmp_path, capsys):
    run = make_run(REFERENCE_LIKE, vit_store())
    flags = ("--format", "big-vision", "--image-checkpoint", str(golden_dir / "vit" / "map.params.npz"))
    assert export(run, tmp_path / "out", *flags) == 2
    assert "must be the file the store was embedded with" in capsys.readouterr().err


def test_an_image_tower_of_another_family_is_refused(make_run, vit_store, golden_dir, tmp_path, capsys):
    run = make_run(REFERENCE_LIKE, vit_store(family="efficientnet-lite"))
    flags = ("--format", "big-vision", "--image-checkpoint", str(golden_dir / "vit" / "gap.params.npz"))
    assert export(run, tmp_path / "out", *flags) == 2
    assert "must be of a ViT" in capsys.readouterr().err


def test_without_the_store_it_is_asked_for(make_run, golden_dir, tmp_path, capsys, store):
    run = make_run(REFERENCE_LIKE)
    flags = ("--format", "big-vision", "--image-checkpoint", str(golden_dir / "vit" / "gap.params.npz"))
    assert export(run, tmp_path / "out", *flags) == 2
    assert "Say where it is with --store" in capsys.readouterr().err
    assert export(run, tmp_path / "out", *flags, "--store", store) == 2
    assert "must hold embeddings of the space the run was tuned to" in capsys.readouterr().err


def retrieval_report(run: Path, **changes) -> dict:
    loaded = load_run(run)
    side = {"r1": 0.5, "r5": 0.75, "r10": 1.0}
    return {
        "evaluation": "retrieval",
        "i2t": side,
        "t2i": side,
        "n_images": 4,
        "n_captions": 4,
        "standard_error": {"i2t": dict.fromkeys(side, 0.25), "t2i": dict.fromkeys(side, 0.25)},
        "notes": ["seen in training"],
        "checkpoint_step": loaded.step,
        "space_id": loaded.space_id,
        "content_id": loaded.content_id,
        "trained_on_content_id": loaded.content_id,
        "split": "all",
        "versions": {"jax": "1.2.3"},
        **changes,
    }


def test_the_card_holds_the_facts_of_files(trained, tmp_path):
    report = tmp_path / "retrieval.json"
    report.write_text(json.dumps(retrieval_report(trained)))
    assert export(trained, tmp_path / "out", "--reports", str(report)) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    run = load_run(trained)
    for wanted in (
        "# Model card: run, step 3",
        f"| content_id | {run.content_id} |",
        "| images trained on | 4 |",
        "| store: embedded | 4 |",
        "| batch_size | 4 |",
        "| loss | sigmoid |",
        "| retrieval | image → text r1 | 50.0 ± 25.0 % | 4 | all |",
        "- retrieval.json: seen in training",
        "jax 1.2.3",
        "The image tower's weights are random",
        "No part of the training data was held out",
    ):
        assert wanted in card


def test_a_report_of_another_model_is_refused(trained, tmp_path, capsys):
    report = tmp_path / "other.json"
    for changes, said in (
        ({"checkpoint_step": 2}, "checkpoint_step 3, found 2"),
        ({"space_id": "other"}, "space_id"),
        ({"evaluation": "taste"}, "must be a report of lit-eval"),
    ):
        report.write_text(json.dumps(retrieval_report(trained, **changes)))
        assert export(trained, tmp_path / "out", "--reports", str(report)) == 2
        assert said in capsys.readouterr().err


def test_the_card_of_a_run_without_store_or_report_invents_nothing(make_run, tmp_path):
    assert export(make_run(TINY), tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "its store was not at hand" in card
    assert "No evaluation report was given" in card
    assert "there is no summary of it" in card


def test_the_card_says_what_training_took_and_whose_licences_hold(trained, tmp_path):
    flags = ["--licenses", "data=CC-BY-4.0", "this-model=MIT | none"]
    assert main([str(trained), "--output", str(tmp_path / "out"), *flags]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    summary = json.loads((trained / "summary.json").read_text())
    # 4 captions of 6 tokens through one block of width 16 (projections 4 + MLP 2, attention 2), forward and back twice
    tokens, pairs = 4 * 6, 4 * 6 * 6
    block = 2 * tokens * 16 * 16 * 6 + 2 * 2 * pairs * 16
    assert summary["tflop_per_step"] * 1e12 == pytest.approx(3 * block, rel=0.25)
    assert f"| devices | 1 x {jax.devices()[0].device_kind} |" in card
    assert f"| {summary['tflop_per_step'] * 3:.4g} |" in card
    assert "| licence of data, as given | CC-BY-4.0 |" in card
    assert "| licence of this-model, as given | MIT \\| none |" in card
    assert "| 32 | " in card


def test_a_licence_must_say_of_what(trained, tmp_path, capsys):
    assert main([str(trained), "--output", str(tmp_path / "out"), "--licenses", "MIT"]) == 2
    assert "must be WHAT=LICENCE" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
