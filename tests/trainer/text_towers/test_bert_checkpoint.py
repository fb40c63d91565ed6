"""BERT folders as they are found, and those that do not fit."""

import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from trainer.text_towers.activations import ACTIVATIONS
from trainer.text_towers.bert import BertConfig
from trainer.text_towers.bert_checkpoint import read_bert
from trainer.text_towers.checkpoint import read_text_checkpoint


def _read(folder: Path, pool: str | None = None) -> tuple[BertConfig, dict]:
    return read_bert(read_text_checkpoint(str(folder)), BertConfig(), "bert", pool)


@pytest.fixture
def copy(golden_dir: Path, tmp_path: Path) -> Path:
    """A checkpoint folder a test may break."""
    return Path(shutil.copytree(golden_dir / "text_bert" / "current_names", tmp_path / "model"))


def test_the_form_of_gelu_follows_the_configuration(copy: Path) -> None:
    path = copy / "config.json"
    for name in ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_act": name}))
        assert _read(copy)[0].activation == name
    x = np.linspace(-3, 3, 9, dtype=np.float32)
    exact = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x]
    tanh = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(ACTIVATIONS["gelu"](x), exact, atol=1e-6)
    np.testing.assert_allclose(ACTIVATIONS["gelu_new"](x), tanh, atol=1e-6)


def test_all_tensors_that_do_not_fit_are_named_at_once(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.bias"]
    tensors["encoder.layer.3.output.dense.bias"] = np.zeros(32, np.float32)
    tensors["embeddings.LayerNorm.weight"] = np.zeros(31, np.float32)
    tensors["encoder.layer.0.attention.self.key.bias"] = np.zeros(32, np.int64)
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(ValueError) as error:
        _read(copy)
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
        _read(copy)


def test_shards_are_read_through_their_index(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    _, whole = _read(copy)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, copy / file)
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    _, sharded = _read(copy)
    jax.tree.map(np.testing.assert_array_equal, whole, sharded)


def test_pooling_follows_the_folder(copy: Path) -> None:
    assert _read(copy)[0].pool == "mean"
    (copy / "1_Pooling").mkdir()
    pooling = copy / "1_Pooling" / "config.json"
    pooling.write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    assert _read(copy)[0].pool == "cls"
    assert _read(copy, pool="mean")[0].pool == "mean"
    pooling.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ValueError, match="must ask for the mean or the cls token alone"):
        _read(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type must be 'bert', found 'roberta'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type must be 'absolute'"),
        ({"hidden_act": "swish"}, "activation: must be one of .*gelu.*, found 'swish'"),
        ({"num_attention_heads": 5}, "hidden_size: must divide by 5 heads, found 32"),
    ],
)
def test_other_architectures_are_refused(copy: Path, change: dict[str, object], message: str) -> None:
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        _read(copy)


def test_folders_without_a_model_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"must hold config\.json and model\.safetensors"):
        _read(copy)
    with pytest.raises(ValueError, match=r"found a weight file alone"):
        read_bert(read_text_checkpoint(str(_weight_file(copy))), BertConfig(), "bert")


def _weight_file(folder: Path) -> Path:
    save_file({"word": np.zeros(2, np.float32)}, folder / "alone.safetensors")
    return folder / "alone.safetensors"
