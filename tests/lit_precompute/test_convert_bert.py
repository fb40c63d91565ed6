"""An original BERT checkpoint becomes the file the text towers start from."""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from lit_precompute import convert_bert
from schemas.weights import read_weights

VOCABULARY = "[PAD]\n[UNK]\n[CLS]\n[SEP]\ncat\n"


def variables(layers: int = 2) -> dict[str, np.ndarray]:
    """A little BERT under its original names, each value another."""
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "bert/embeddings/word_embeddings": (5, 4),
        "bert/embeddings/position_embeddings": (6, 4),
        "bert/embeddings/token_type_embeddings": (2, 4),
        "bert/embeddings/LayerNorm/gamma": (4,),
        "bert/embeddings/LayerNorm/beta": (4,),
        "bert/pooler/dense/kernel": (4, 4),
        "bert/pooler/dense/bias": (4,),
        "cls/predictions/output_bias": (5,),
        "cls/seq_relationship/output_weights": (2, 4),
    }
    for number in range(layers):
        at = f"bert/encoder/layer_{number}"
        for name in (
            "attention/self/query",
            "attention/self/key",
            "attention/self/value",
            "attention/output/dense",
        ):
            shapes |= {f"{at}/{name}/kernel": (4, 4), f"{at}/{name}/bias": (4,)}
        shapes |= {f"{at}/intermediate/dense/kernel": (4, 8), f"{at}/intermediate/dense/bias": (8,)}
        shapes |= {f"{at}/output/dense/kernel": (8, 4), f"{at}/output/dense/bias": (4,)}
        for name in ("attention/output/LayerNorm", "output/LayerNorm"):
            shapes |= {f"{at}/{name}/gamma": (4,), f"{at}/{name}/beta": (4,)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


class Reader:
    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        self.tensors = tensors

    def get_variable_to_shape_map(self) -> dict[str, list[int]]:
        return {name: list(tensor.shape) for name, tensor in self.tensors.items()}

    def get_tensor(self, name: str) -> np.ndarray:
        return self.tensors[name]


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as it comes out of the published archive, opened by a stand-in for TensorFlow."""
    folder = tmp_path / "uncased_L-2_H-4_A-1"
    folder.mkdir()
    (folder / "bert_model.ckpt.index").write_bytes(b"")
    (folder / "vocab.txt").write_text(VOCABULARY)
    monkeypatch.setattr(convert_bert, "_open", lambda prefix: Reader(variables()))
    return folder


@pytest.mark.parametrize("given", ["", "bert_model.ckpt"])
def test_a_checkpoint_is_converted(checkpoint: Path, tmp_path: Path, given: str) -> None:
    assert convert_bert.main([str(checkpoint / given), "--output", str(tmp_path / "out")]) == 0
    found, original = read_weights(str(tmp_path / "out" / "model.safetensors")).tensors, variables()
    assert len(found) == 5 + 2 * 16
    layer = "BertEncoder_0/encoder_block/layer_sequence/layers_1"
    for ours, theirs in {
        "BertEncoder_0/embedder/embedders_position_ids/embedding": "bert/embeddings/position_embeddings",
        "BertEncoder_0/layer_norm/scale": "bert/embeddings/LayerNorm/gamma",
        f"{layer}/attention_block/attention_layer/key/kernel": "bert/encoder/layer_1/attention/self/key/kernel",
        f"{layer}/mlp_block/mlp/dense_layer/kernel": "bert/encoder/layer_1/intermediate/dense/kernel",
        f"{layer}/mlp_block/layer_norm/bias": "bert/encoder/layer_1/output/LayerNorm/beta",
    }.items():
        np.testing.assert_array_equal(found[ours], original[theirs])
    assert (tmp_path / "out" / "vocab.txt").read_text() == VOCABULARY


def test_a_text_tower_starts_from_it(checkpoint: Path, tmp_path: Path) -> None:
    from trainer.text_towers import TEXT_TOWERS, TextTowerConfig
    from trainer.text_towers.checkpoint import read_text_checkpoint
    from trainer.text_towers.family import Order

    assert convert_bert.main([str(checkpoint), "--output", str(tmp_path / "out")]) == 0
    path = str(tmp_path / "out" / "model.safetensors")
    order = Order(
        TextTowerConfig("bert", path, text_heads=1),
        read_text_checkpoint(path),
        6,
        np.random.default_rng(0),
        None,
    )
    start = TEXT_TOWERS["bert"].start(order)
    assert start.head is None
    assert (start.backbone.config.depth, start.backbone.config.pool) == (2, "cls")
    assert start.tokenizer(["Cat"], 4).tolist() == [[2, 4, 0, 0]]
    np.testing.assert_array_equal(
        start.params["layer_0"]["output"]["kernel"], variables()["bert/encoder/layer_0/output/dense/kernel"]
    )


def test_what_is_no_bert_is_refused_naming_all(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path, capsys
):
    tensors = variables()
    del tensors["bert/encoder/layer_0/output/dense/bias"]
    tensors["bert/encoder/layer_0/adapter/kernel"] = np.zeros(2, np.float32)
    monkeypatch.setattr(convert_bert, "_open", lambda prefix: Reader(tensors))
    assert convert_bert.main([str(checkpoint), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "missing: ['bert/encoder/layer_0/output/dense/bias']" in error
    assert "unknown: ['bert/encoder/layer_0/adapter/kernel']" in error
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert_bert.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "must hold one checkpoint (bert_model.ckpt.index), found 0" in capsys.readouterr().err


def test_without_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    (tmp_path / "bert_model.ckpt.index").write_bytes(b"")
    (tmp_path / "vocab.txt").write_text(VOCABULARY)
    assert convert_bert.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "pip install 'lit-precompute[tensorflow]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_checkpoint_tensorflow_itself_wrote(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    folder, original = tmp_path / "bert", variables()
    folder.mkdir()
    (folder / "vocab.txt").write_text(VOCABULARY)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        made = [tf.compat.v1.get_variable(name, initializer=value) for name, value in original.items()]
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(made).save(session, str(folder / "bert_model.ckpt"))
    assert convert_bert.main([str(folder), "--output", str(tmp_path / "out")]) == 0
    found = read_weights(str(tmp_path / "out" / "model.safetensors")).tensors
    for name, value in original.items():
        if (place := convert_bert.reference_name(name)) is not None:
            np.testing.assert_array_equal(found[place], value)
