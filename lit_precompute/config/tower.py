"""Which locked image tower, and what is taken of it."""

from dataclasses import dataclass
from typing import Literal

from schemas.ids import check_tower_id


@dataclass(frozen=True)
class TowerConfig:
    """The locked image tower."""

    tower: str
    """Name of the tower, such as siglip2-so400m-16-256 (lit-embed --list-towers names all), or package.module:build."""
    checkpoint: str | None = None
    """Weight file (.npz, .safetensors, .pth), Hugging Face model folder, hf://org/model@revision, or random:SEED;
    default where the tower's weights are published."""
    tower_id: str | None = None
    """Name of the folder in STORE/images; default <tower>-<first 8 of space_id>."""
    resize: Literal["crop", "full"] | None = None
    """crop: short side to size, then the centre; full: the whole image squeezed to a square. Default crop, or what
    preprocessor_config.json says."""
    image_size: int | None = None
    """Side in pixels; default what the checkpoint was trained with."""
    pool: str | None = None
    """ViT pooling (gap, map, tok, 0; of Hugging Face towers cls, mean, cls+mean, map); default read from the
    checkpoint."""
    features: Literal["default", "head", "pre-head"] = "default"
    """head: the output of the checkpoint's last projection; pre-head: what enters it; default: pre-head of towers that
    are named after a classifier, else what the checkpoint's own loss normalises."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """What blocks compute in; bfloat16 is faster on accelerators and makes another space (norms and heads stay
    float32)."""

    def __post_init__(self) -> None:
        if self.tower_id is not None:
            check_tower_id(self.tower_id)
        if self.image_size is not None and not 1 <= self.image_size <= 4096:
            raise ValueError(f"--image-size: must be 1 to 4096 pixels, found {self.image_size}.")
