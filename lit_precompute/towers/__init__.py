"""Locked image towers by name: one file per family, one line here for each."""

import re
from collections.abc import Callable, Iterator

from lit_precompute.config import TowerConfig
from lit_precompute.towers import (
    efficientnet_lite,
    hf_clip,
    hf_convnext,
    hf_dinov2,
    hf_dinov3,
    hf_naflex,
    hf_siglip,
    hf_vit,
    mlp_mixer,
    resnet_bit,
    timm_vit,
    vit,
)
from lit_precompute.towers.cost import table
from lit_precompute.towers.outside import is_outside, load_outside
from lit_precompute.towers.published import PUBLISHED, settled
from lit_precompute.towers.tower import RandomWeights, Tower, Weights, as_asked
from schemas.manifest import TowerInfo
from schemas.model_folder import is_folder, read_folder
from schemas.storage import StorageOptions
from schemas.weights import read_weights

__all__ = ["TOWERS", "RandomWeights", "Tower", "checkpoint_of", "describe_tower", "list_towers", "load_tower"]

TOWERS: dict[str, Callable[[TowerConfig, Weights], Tower]] = {
    "efficientnet-lite0": efficientnet_lite.build,
    "vit": vit.build,  # any ViT checkpoint, its size read from the file
    vit.FIXED_POSITIONS: vit.build,  # the same without learned positions
    **dict.fromkeys(
        vit.PRESETS, vit.build
    ),  # vit-b-32 and so on: a size that must be met, or drawn at random
    **dict.fromkeys(("bit", *resnet_bit.PRESETS), resnet_bit.build),
    **dict.fromkeys(("mixer", *mlp_mixer.PRESETS), mlp_mixer.build),
    # Hugging Face folders: whatever the folder says, or a size that must be met
    **dict.fromkeys(("clip", *hf_clip.FAMILY.presets), hf_clip.build),
    **dict.fromkeys(("siglip", *hf_siglip.FAMILY.presets), hf_siglip.build),
    **dict.fromkeys(("siglip2", *hf_siglip.FAMILY2.presets), hf_siglip.build),
    **dict.fromkeys(("siglip2-naflex", *hf_naflex.FAMILY.presets), hf_naflex.build),
    **dict.fromkeys(("dinov2", *hf_dinov2.FAMILY.presets), hf_dinov2.build),
    **dict.fromkeys(("dinov3", *hf_dinov3.FAMILY.presets), hf_dinov3.build),
    **dict.fromkeys(("convnext", *hf_convnext.FAMILY.presets), hf_convnext.build),
    **dict.fromkeys(("hf-vit", *hf_vit.FAMILY.presets), hf_vit.build),
    **dict.fromkeys(("timm-vit", *timm_vit.PRESETS), timm_vit.build),
}


def load_tower(config: TowerConfig, storage_options: StorageOptions | None = None) -> Tower:
    """The tower a configuration asks for, with its weights in memory; no device is touched.

    Args:
        config: names the tower and its checkpoint: a weight file, a Hugging Face model folder, `random:SEED`, or
            nothing where the tower's weights are published.
        storage_options: fsspec options by protocol, for the checkpoint.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the tower is unknown (the known ones are listed), or the checkpoint does not fit it.
    """
    if is_outside(config.tower):
        return load_outside(config, storage_options)
    if config.tower not in TOWERS:
        raise ValueError(
            f"--tower: must be one of {', '.join(TOWERS)}, or package.module:build, found {config.tower!r}."
        )
    config = settled(config)
    tower = TOWERS[config.tower](config, _weights(config.checkpoint or "", storage_options))
    return as_asked(config, tower)


def describe_tower(config: TowerConfig, storage_options: StorageOptions | None = None) -> TowerInfo:
    """What would decide the embeddings of `load_tower(config)`. Starts no JAX backend.

    Raises:
        FileNotFoundError, ValueError: as `load_tower`.
    """
    return load_tower(config, storage_options).info


def checkpoint_of(config: TowerConfig) -> str | None:
    """Where the weights come from: as configured, else where the tower's are published."""
    known = PUBLISHED.get(config.tower)
    return config.checkpoint or (known.checkpoint if known else None)


def list_towers() -> Iterator[str]:
    """A table of all names with what an image costs, line by line as it is worked out; no device is touched."""
    yield from table(TOWERS, {name: known.checkpoint for name, known in PUBLISHED.items()})


def _weights(checkpoint: str, storage_options: StorageOptions | None) -> Weights:
    if is_folder(checkpoint):
        return read_folder(checkpoint, storage_options)
    if not checkpoint.startswith("random:"):
        return read_weights(checkpoint, storage_options)
    seed = checkpoint.removeprefix("random:")
    if not re.fullmatch(r"[0-9]{1,18}", seed):
        raise ValueError(
            f"--checkpoint: random weights must be random:SEED with a number, found {checkpoint!r}."
        )
    return RandomWeights(int(seed))
