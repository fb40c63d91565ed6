"""BERT parameters from a Hugging Face folder such as MiniLM's."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from schemas.storage import Folder
from schemas.weights import read_weights
from trainer.text_towers.bert import POOLS, Bert, BertConfig
from trainer.text_towers.fitting import refuse_misfits


def read_bert(
    directory: str,
    *,
    pool: str | None = None,
    dropout: float = 0.0,
    compute_dtype: str = "float32",
    pad_id: int | None = None,
) -> tuple[BertConfig, dict[str, Any]]:
    """A BERT encoder from a folder in Hugging Face layout (any fsspec path).

    Args:
        directory: holds `config.json` and `model.safetensors` (or its shards with an index, or
            `pytorch_model.bin`); `1_Pooling/config.json`, where there is one, says how to pool.
        pool: "mean" or "cls"; None takes the folder's, or mean.
        dropout: rate used where a dropout key is given; the folder's own rates are not taken over.
        compute_dtype: see `BertConfig`.
        pad_id: the tokenizer's; None takes that of `config.json`.

    Returns:
        The configuration, and float32 parameters of `Bert` as NumPy arrays.

    Raises:
        ValueError: the folder is of another architecture, or its tensors do not fit: all are named at once.
    """
    folder = Folder(directory)
    if not folder.exists("config.json"):
        raise ValueError(
            f"{directory}: must be a model folder in Hugging Face layout, found no config.json in it."
        )
    config = dataclasses.replace(
        _config(json.loads(folder.read("config.json")), directory, pool or _pool_of(folder)),
        dropout=dropout,
        compute_dtype=compute_dtype,
    )
    if pad_id is not None:
        config = dataclasses.replace(config, pad_id=pad_id)
    return config, to_params(_read_tensors(folder), config, directory)


def _config(hf: Mapping[str, Any], directory: str, pool: str) -> BertConfig:
    """From `config.json`, whose absent keys mean the class defaults of BERT-base."""
    fixed = {"model_type": "bert", "is_decoder": False, "position_embedding_type": "absolute"}
    wrong = [
        f"{key} must be {want!r}, found {hf[key]!r}"
        for key, want in fixed.items()
        if hf.get(key, want) != want
    ]
    if wrong:
        raise ValueError(
            f"{directory}/config.json: this tower reads plain BERT encoders: {'; '.join(wrong)}."
        )
    names = {
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
    return BertConfig(**{ours: hf[theirs] for ours, theirs in names.items() if theirs in hf}, pool=pool)


def _pool_of(folder: Folder) -> str:
    """How a sentence-transformers folder pools; plain BERT folders say nothing, and get the mean."""
    if not folder.exists("1_Pooling/config.json"):
        return "mean"
    pooling = json.loads(folder.read("1_Pooling/config.json"))
    modes = [name for name, on in pooling.items() if name.startswith("pooling_mode_") and on]
    modes += [pooling["pooling_mode"]] if "pooling_mode" in pooling else []
    known = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "cls",
        "mean": "mean",
        "cls": "cls",
    }
    if len(modes) != 1 or modes[0] not in known:
        raise ValueError(
            f"{folder.path}/1_Pooling/config.json: must ask for the mean or the cls token alone, found {modes}. "
            f"Set --text-pool to one of {list(POOLS)} to pool otherwise than the checkpoint was trained."
        )
    return known[modes[0]]


def _read_tensors(folder: Folder) -> dict[str, np.ndarray]:
    index = "model.safetensors.index.json"
    if folder.exists("model.safetensors"):
        files = ["model.safetensors"]
    elif folder.exists(index):
        files = sorted(set(json.loads(folder.read(index))["weight_map"].values()))
    elif folder.exists("pytorch_model.bin"):
        files = ["pytorch_model.bin"]
    else:
        raise ValueError(
            f"{folder.path}: must hold model.safetensors, its shards with {index}, or pytorch_model.bin; found none."
        )
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        tensors |= read_weights(f"{folder.path.rstrip('/')}/{file}").tensors
    return tensors


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


def published_name(path: tuple[str, ...]) -> str:
    """The checkpoint's name of a parameter: ("layer_0", "query", "kernel") → encoder.layer.0.attention…"""
    *modules, leaf = path
    if modules[0].startswith("layer_"):
        stem = f"encoder.layer.{modules[0].removeprefix('layer_')}.{_LAYER_TENSORS[modules[1]]}"
    else:
        stem = _TENSORS[modules[0]]
    return f"{stem}.{'bias' if leaf == 'bias' else 'weight'}"


def to_params(tensors: Mapping[str, np.ndarray], config: BertConfig, source: str) -> dict[str, Any]:
    """The parameters of `Bert` from a checkpoint's tensors, each used or known to be of no use.

    Args:
        tensors: by published name, with or without `bert.` before it; LayerNorm's may be called gamma and beta.
            The pooler, `cls.*` training heads and `position_ids` buffers are left out.
        config: decides which tensors must be there, in which shape.
        source: what to call the checkpoint in an error.

    Returns:
        Nested dict of float32 arrays; linear weights [out, in] become kernels [in, out].

    Raises:
        ValueError: names all missing, surplus and mis-shaped tensors, and those that are not floating point.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not _is_ignored(name)}
    found = {_current_name(name): tensor for name, tensor in kept.items()}
    if len(found) < len(kept):
        twice = [name for name, n in Counter(map(_current_name, kept)).items() if n > 1]
        raise ValueError(f"{source}: each tensor must be there once, found under two spellings: {twice}.")
    tokens = np.zeros((1, 1), np.int32)
    specs = flatten_dict(jax.eval_shape(Bert(config).init, jax.random.key(0), tokens)["params"])
    wanted = {published_name(path): _published(path, spec.shape) for path, spec in specs.items()}
    refuse_misfits(found, wanted, source)
    params = {}
    for path in specs:
        tensor = found[published_name(path)]
        # copied in every case: a view would keep the whole file in memory
        params[path] = np.array(tensor.T if path[-1] == "kernel" else tensor, np.float32, order="C")
    return unflatten_dict(params)


def _published(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[::-1] if path[-1] == "kernel" else shape


def _current_name(name: str) -> str:
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _is_ignored(name: str) -> bool:
    name = name.removeprefix("bert.")
    return name.startswith(("cls.", "pooler.")) or name.endswith("position_ids")
