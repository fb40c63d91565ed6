"""A tuned text transformer in the reference's two-tower npz, with the locked image tower copied beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from schemas.storage import StorageOptions
from schemas.weights import bare_name, params_subtree, read_weights, subtree
from trainer.exports.facts import RunFacts
from trainer.text_towers import TextTower
from trainer.text_towers.bert import Bert
from trainer.text_towers.two_towers import text_leaves

WEIGHTS = "two_towers.npz"
# The reference's BERT comes in these; width, depth, heads, mlp, vocabulary, positions.
BERT_SIZES = {
    "base": (768, 12, 12, 3_072, 30_522, 512),
    "large": (1_024, 24, 16, 4_096, 30_522, 512),
}
REFERENCE_POOLS = {"mean": "gap", "max": "max", "first": "first", "last": "last", "map": "map"}


def write_big_vision(
    facts: RunFacts,
    folder: Path,
    image_checkpoint: str | None = None,
    options: StorageOptions | None = None,
) -> list[str]:
    """Writes `txt/…`, `t` [1], for a sigmoid loss `b` [1], and `img/…` where its checkpoint is given.

    Args:
        facts: the run.
        folder: an empty folder.
        image_checkpoint: the file the store was embedded with; its leaves are copied as they are.
        options: fsspec options by protocol, for the checkpoint.

    Returns:
        What the reader of the command's output should know.

    Raises:
        ValueError: the reference has no network that computes what this text tower or image tower computes, or the
            checkpoint is not the store's.
    """
    run = facts.run
    leaves = text_leaves(run.text_tower, run.log_scale, run.bias)
    if isinstance(run.text_tower.backbone, Bert):
        bert_size(run.text_tower)
    notes = []
    image: dict[str, np.ndarray] = {}
    if image_checkpoint is None:
        notes.append(
            f"{WEIGHTS} holds no img/: give --image-checkpoint to have the locked tower copied into it."
        )
    else:
        image, dropped = image_leaves(facts, image_checkpoint, options)
        if dropped:
            notes.append(
                f"Left out of img/: {', '.join(dropped)}; the store holds what enters that head (--features pre-head)."
            )
    leaves |= {f"img/{name}": leaf for name, leaf in image.items()}
    np.savez(folder / WEIGHTS, **leaves)  # type: ignore[arg-type]
    run.text_tower.tokenizer.save(str(folder / "tokenizer"))
    described = {"model": model_config(facts, image), **facts.to_json()}
    (folder / "config.json").write_text(
        json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return notes


def image_leaves(
    facts: RunFacts, checkpoint: str, options: StorageOptions | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The locked tower's leaves, each with the file's own name, dtype and values.

    Returns:
        The leaves, and the names of those left out because the store's vectors are taken before them.

    Raises:
        ValueError: the store is not at hand, its tower is none of the reference's, or the file is another one.
    """
    if facts.images is None:
        raise ValueError(
            "--image-checkpoint: must be compared with the store's digest of it, found no store where the run was "
            "trained. Say where it is with --store and --tower-id."
        )
    info = facts.images.tower
    if info.architecture.get("family") != "vit":
        raise ValueError(
            f"--image-checkpoint: must be of a ViT in the reference's layout, found image tower {info.tower}, which "
            "has none. Leave it out: txt/, t and b are written alone."
        )
    weights = read_weights(checkpoint, options)
    if weights.sha256 != info.weights:
        raise ValueError(
            f"--image-checkpoint: must be the file the store was embedded with, {info.weights[:19]}…, found "
            f"{weights.sha256[:19]}… in {bare_name(checkpoint)}. Another image tower's vectors mean something else."
        )
    tensors = params_subtree(weights.tensors)
    tensors = subtree(tensors, "img/") or tensors
    dropped = [name for name in tensors if name.startswith("head/") and info.features == "pre-head"]
    return {name: leaf for name, leaf in tensors.items() if name not in dropped}, dropped


def bert_size(tower: TextTower) -> str:
    """ "base" or "large"; raises ValueError for a BERT of another size, which the reference cannot build."""
    backbone = tower.architecture["backbone"]
    fields = ("width", "depth", "heads", "mlp", "vocab_size", "positions")
    sizes = tuple(backbone[field] for field in fields)
    for name, wanted in BERT_SIZES.items():
        if sizes == wanted:
            return name
    raise ValueError(
        f"--format big-vision: the reference's BERT has {' or '.join(map(str, BERT_SIZES.values()))} as "
        f"{', '.join(fields)}, found {sizes}. Take --format hf or safetensors."
    )


def model_config(facts: RunFacts, image: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the reference's two-tower model must be told to load the file, in its own words."""
    tower = facts.run.text_tower
    own_head = "kernel" in tower.params.get("head", {})
    config: dict[str, Any] = {
        **_text_config(tower),
        "out_dim": [tower.out_dim if "head/kernel" in image else None, tower.out_dim if own_head else None],
    }
    if facts.run.bias is not None:  # the reference reads `b` only where this key is there
        config["bias_init"] = facts.run.config["loss"]["logit_bias_init"]
    if image and facts.images is not None:
        config["image_model"] = "vit"
        config["image"] = dict(facts.images.tower.architecture)
    return config


def _text_config(tower: TextTower) -> dict[str, Any]:
    backbone = tower.architecture["backbone"]
    if isinstance(tower.backbone, Bert):
        text: dict[str, Any] = {"config": bert_size(tower), "head_zeroinit": False}
        return {"text_model": "proj.flaxformer.bert", "text": text}
    text = {
        "width": backbone["width"],
        "depth": backbone["depth"],
        "mlp_dim": backbone["mlp"],
        "num_heads": backbone["heads"],
        "vocab_size": backbone["vocab_size"],
        "pool_type": REFERENCE_POOLS[backbone["pool"]],
    }
    if tower.architecture["layout"].get("scan"):
        text["scan"] = True
    return {"text_model": "proj.image_text.text_transformer", "text": text}
