"""BERT parameters from a Hugging Face folder such as MiniLM's."""

import dataclasses
from collections.abc import Callable
from typing import Any

from trainer.text_towers.bert import Bert, BertConfig
from trainer.text_towers.checkpoint import TextCheckpoint, pool_of
from trainer.text_towers.family import FolderForm
from trainer.text_towers.torch_layout import Path, from_torch, renamed, to_torch
from trainer.text_towers.tower import TextTower

PREFIXES = {"bert": "bert.", "xlm-roberta": "roberta."}
_FIELDS = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "norm_eps": "layer_norm_eps",
    "activation": "hidden_act",
    "pad_id": "pad_token_id",
}
_FIXED = {"is_decoder": False, "position_embedding_type": "absolute"}


def read_bert(
    checkpoint: TextCheckpoint, base: BertConfig, model_type: str, pool: str | None = None
) -> tuple[BertConfig, dict[str, Any]]:
    """A BERT encoder from a folder in Hugging Face layout.

    Args:
        checkpoint: the folder; `1_Pooling/config.json`, where there is one, says how to pool.
        base: the class defaults for what `config.json` leaves out, with dropout and dtype as wanted; the folder's own
            rates are not taken over.
        model_type: what the folder must be of, a key of `PREFIXES`.
        pool: "mean" or "cls"; None takes the folder's, or mean.

    Returns:
        The configuration, and float32 parameters of `Bert` as NumPy arrays.

    Raises:
        ValueError: the folder is of another architecture, or its tensors do not fit: all are named at once.
    """
    hf = checkpoint.configured([model_type])
    wrong = [
        f"{key} must be {want!r}, found {hf[key]!r}"
        for key, want in _FIXED.items()
        if hf.get(key, want) != want
    ]
    if wrong:
        raise ValueError(
            f"{checkpoint.source}/config.json: this tower reads plain encoders: {'; '.join(wrong)}."
        )
    assert checkpoint.folder is not None
    config = dataclasses.replace(
        base,
        **{ours: hf[theirs] for ours, theirs in _FIELDS.items() if theirs in hf},
        pool=pool or pool_of(checkpoint.folder, "mean"),
    )
    tensors = renamed(checkpoint.tensors, _spelling(PREFIXES[model_type]), checkpoint.source)
    return config, from_torch(tensors, Bert(config), published_name, checkpoint.source)


def to_folder(tower: TextTower) -> FolderForm:
    """A BERT, wherever it came from, as its Hugging Face folder holds it: the inverse of `read_bert`."""
    config: BertConfig = tower.backbone.config
    roberta = config.position_rule == "roberta"
    hf = {
        "architectures": ["XLMRobertaModel" if roberta else "BertModel"],
        "model_type": "xlm-roberta" if roberta else "bert",
        **{theirs: getattr(config, ours) for ours, theirs in _FIELDS.items()},
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": 0.0,  # never dropped here
        **_FIXED,
    }
    return FolderForm(hf, to_torch(tower.params["backbone"], published_name), config.pool)


_TENSORS = {  # our name → theirs, where there is one of it
    "word": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "token_type": "embeddings.token_type_embeddings",
    "embeddings_norm": "embeddings.LayerNorm",
}
_LAYER_TENSORS = {  # the same within a layer
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
# Heads of their training and buffers: of no use here.
_UNUSED = ("cls.", "pooler.", "lm_head.", "classifier.", "qa_outputs.")


def published_name(path: Path) -> str:
    """The checkpoint's name of a parameter: ("layer_0", "query", "kernel") → encoder.layer.0.attention…"""
    *modules, leaf = path
    if modules[0].startswith("layer_"):
        stem = f"encoder.layer.{modules[0].removeprefix('layer_')}.{_LAYER_TENSORS[modules[1]]}"
    else:
        stem = _TENSORS[modules[0]]
    return f"{stem}.{'bias' if leaf == 'bias' else 'weight'}"


def _spelling(prefix: str) -> Callable[[str], str | None]:
    """With or without the prefix; LayerNorm's parameters were once called gamma and beta."""

    def name_of(name: str) -> str | None:
        name = name.removeprefix(prefix)
        if name.startswith(_UNUSED) or name.endswith("position_ids"):
            return None
        return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")

    return name_of
