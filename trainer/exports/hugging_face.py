"""A tuned text tower as a Hugging Face folder: of the tower's own model, or of sentence-transformers with its head."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from trainer.exports.facts import RunFacts
from trainer.exports.hugging_face_tokenizer import write_tokenizer
from trainer.text_towers import TEXT_TOWERS, TextTower
from trainer.text_towers.checkpoint import DENSE, EXPORTED

_TORCH = {"format": "pt"}  # without this word in the file's header the transformers package refuses it


def write_hf(facts: RunFacts, folder: Path) -> list[str]:
    """Writes the folder that Hugging Face's packages open, and `--text-checkpoint` too.

    Where a model of Hugging Face gives the very vectors (CLIP with its projection, SigLIP), it is that model's folder.
    Other encoders have their pooling and their head beside them as a sentence-transformers folder.

    Args:
        facts: the run.
        folder: an empty folder.

    Returns:
        What the reader of the command's output should know.

    Raises:
        ValueError: Hugging Face has no network that computes what this tower does.
    """
    tower = facts.run.text_tower
    to_folder = TEXT_TOWERS[tower.name].to_folder
    if to_folder is None:
        known = ", ".join(name for name, family in TEXT_TOWERS.items() if family.to_folder is not None)
        raise ValueError(
            f"--format hf: must be given a run of {known}, found {tower.name}, for whose network Hugging Face has no "
            "layout. Take --format safetensors."
        )
    form = to_folder(tower)
    save_file(form.tensors, folder / "model.safetensors", _TORCH)
    _write(folder / "config.json", form.config | {"dtype": "float32", "torch_dtype": "float32"})
    if form.pool is not None:
        _write_modules(tower, form.pool, folder)
    notes = write_tokenizer(tower, folder)
    scale = {"log_scale": facts.run.log_scale, "bias": facts.run.bias}
    _write(folder / EXPORTED, {**scale, **facts.to_json()})
    return [f"The layout has no place for the learned scale and bias: they are in {EXPORTED}.", *notes]


def _write_modules(tower: TextTower, pool: str, folder: Path) -> None:
    """What sentence-transformers does behind the encoder: pooling, and the head as a Dense layer."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    if "kernel" in tower.params.get("head", {}):
        kinds[DENSE] = "Dense"
        _write_head(tower, folder / DENSE)
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(kinds.items())
    ]
    _write(folder / "modules.json", modules)
    _write(
        folder / "sentence_bert_config.json",
        {"max_seq_length": tower.max_text_length, "do_lower_case": False},
    )
    _write(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
    modes = {"cls": "cls_token", "mean": "mean_tokens", "lasttoken": "lasttoken"}
    pooling: dict[str, Any] = {f"pooling_mode_{mode}": name == pool for name, mode in modes.items()}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": tower.feature_dim, **pooling})


def _write_head(tower: TextTower, folder: Path) -> None:
    head = tower.params["head"]
    sizes = {"in_features": tower.feature_dim, "out_features": tower.out_dim, "bias": "bias" in head}
    _write(folder / "config.json", {**sizes, "activation_function": "torch.nn.modules.linear.Identity"})
    tensors = {"linear.weight": np.ascontiguousarray(np.asarray(head["kernel"]).T)}
    if "bias" in head:
        tensors["linear.bias"] = np.ascontiguousarray(head["bias"])
    save_file(tensors, folder / "model.safetensors", _TORCH)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
