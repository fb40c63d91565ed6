"""A tuned BERT tower as a sentence-transformers folder: encoder, pooling, and the head as a Dense layer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from trainer.export_facts import RunFacts
from trainer.text_towers import TextTower
from trainer.text_towers.bert import Bert
from trainer.text_towers.bert_checkpoint import published_name
from trainer.tokenizers.tokenizer_json import JsonTokenizer

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
]
SPECIAL_TOKENS = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def write_hf(facts: RunFacts, folder: Path) -> list[str]:
    """Writes the folder that Hugging Face's and the sentence-transformers packages open.

    Args:
        facts: the run.
        folder: an empty folder.

    Returns:
        What the reader of the command's output should know.

    Raises:
        ValueError: the tower is no BERT with a tokenizer of the `tokenizers` package, which alone have such a layout.
    """
    tower = facts.run.text_tower
    if not isinstance(tower.backbone, Bert) or not isinstance(tower.tokenizer, JsonTokenizer):
        raise ValueError(
            "--format hf: must be given a run of a BERT encoder (bert, minilm, xlm-roberta) from a Hugging Face "
            f"folder; found {tower.name}, for whose network or tokenizer there is no such layout here. Take --format "
            "safetensors."
        )
    save_file(published_tensors(tower.params["backbone"]), folder / "model.safetensors", _TORCH)
    _write(folder / "config.json", encoder_config(tower))
    _write(folder / "modules.json", MODULES)
    _write(folder / "sentence_bert_config.json", _sentence_config(tower))
    _write(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
    _write(folder / "1_Pooling" / "config.json", _pooling(tower))
    _write_head(tower, folder / "2_Dense")
    _write_tokenizer(tower, folder)
    scale = {"log_scale": facts.run.log_scale, "bias": facts.run.bias}
    _write(folder / "lit.json", {**scale, **facts.to_json()})
    return ["The layout has no place for the learned scale and bias: they are in lit.json."]


def published_tensors(backbone: dict[str, Any]) -> dict[str, np.ndarray]:
    """`Bert`'s parameters under the checkpoint's names: the inverse of `bert_checkpoint.to_params`.

    Args:
        backbone: nested dict of arrays; kernels [in, out] become weights [out, in].
    """
    return {
        published_name(path): np.ascontiguousarray(np.asarray(leaf).T if path[-1] == "kernel" else leaf)
        for path, leaf in flatten_dict(backbone).items()
    }


def encoder_config(tower: TextTower) -> dict[str, Any]:
    """The encoder's `config.json`."""
    backbone = tower.architecture["backbone"]
    roberta = backbone["position_rule"] == "roberta"
    return {
        "architectures": ["XLMRobertaModel" if roberta else "BertModel"],
        "model_type": "xlm-roberta" if roberta else "bert",
        "vocab_size": backbone["vocab_size"],
        "hidden_size": backbone["width"],
        "num_hidden_layers": backbone["depth"],
        "num_attention_heads": backbone["heads"],
        "intermediate_size": backbone["mlp"],
        "max_position_embeddings": backbone["positions"],
        "type_vocab_size": backbone["token_types"],
        "layer_norm_eps": backbone["norm_eps"],
        "hidden_act": backbone["activation"],
        "pad_token_id": backbone["pad_id"],
        "hidden_dropout_prob": backbone["dropout"],
        "attention_probs_dropout_prob": 0.0,  # never dropped here
        "is_decoder": False,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
    }


_TORCH = {"format": "pt"}  # without this word in the file's header the transformers package refuses it


def _sentence_config(tower: TextTower) -> dict[str, Any]:
    return {"max_seq_length": tower.max_text_length, "do_lower_case": False}


def _pooling(tower: TextTower) -> dict[str, Any]:
    pool = tower.architecture["backbone"]["pool"]
    return {
        "word_embedding_dimension": tower.feature_dim,
        "pooling_mode_cls_token": pool == "cls",
        "pooling_mode_mean_tokens": pool == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }


def _write_head(tower: TextTower, folder: Path) -> None:
    head = tower.params["head"]
    _write(
        folder / "config.json",
        {
            "in_features": tower.feature_dim,
            "out_features": tower.out_dim,
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    )
    tensors = {
        "linear.weight": np.ascontiguousarray(np.asarray(head["kernel"]).T),
        "linear.bias": np.ascontiguousarray(head["bias"]),
    }
    save_file(tensors, folder / "model.safetensors", _TORCH)


def _write_tokenizer(tower: TextTower, folder: Path) -> None:
    """Beside our own files the one that says which tokens are special; the rest is in `tokenizer.json`."""
    tower.tokenizer.save(str(folder))
    ours = json.loads((folder / "lit_tokenizer.json").read_text(encoding="utf-8"))
    definition = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    known = set(definition["model"]["vocab"]) | {one["content"] for one in definition["added_tokens"]}
    special = {name: token for name, token in SPECIAL_TOKENS.items() if token in known}
    _write(
        folder / "tokenizer_config.json",
        {
            # The generic class takes tokenizer.json as it is; BERT's own may rebuild its normalizer.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": tower.max_text_length,
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "pad_token": ours["pad_token"],
            **special,
        },
    )


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
