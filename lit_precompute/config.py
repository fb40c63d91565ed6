"""What `lit-embed` is asked to do: typed, frozen, and the source of its flags."""

from dataclasses import dataclass, field
from typing import Any, Literal

from schemas.embeddings import DTYPES
from schemas.ids import check_tower_id

Format = Literal["parquet", "webdataset", "folder"]


@dataclass(frozen=True)
class SourceConfig:
    """Where the images and captions are."""

    input: tuple[str, ...]
    """Files, folders or patterns (* ** {a,b} and :: between several)."""
    format: Format
    """How the input is laid out."""
    id_column: str = "key"
    """Parquet: the column that names a record; empty for <file>/<row>."""
    image_column: str = "image"
    """Parquet: the column of encoded images (bytes, or a struct with a field `bytes`)."""
    caption_column: tuple[str, ...] = ("caption",)
    """Parquet columns, or JSON fields beside an image, that hold captions."""
    label_column: str | None = None
    """Column or JSON field of the class: an integer is a class index, a string a class name."""

    def __post_init__(self) -> None:
        if not self.input or not all(pattern.strip() for pattern in self.input):
            raise ValueError("--input: must name at least one file, folder or pattern, found none.")


@dataclass(frozen=True)
class TowerConfig:
    """The locked image tower."""

    tower: str
    """Name of the tower, such as efficientnet-lite0 or vit."""
    checkpoint: str
    """Weight file (.npz, .safetensors, .pth), Hugging Face model folder, hf://org/model@revision, or random:SEED."""
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
    features: Literal["default", "pre-head"] = "default"
    """default: what the checkpoint's own loss normalises; pre-head: what enters its last projection."""

    def __post_init__(self) -> None:
        if self.tower_id is not None:
            check_tower_id(self.tower_id)
        if self.image_size is not None and not 1 <= self.image_size <= 4096:
            raise ValueError(f"--image-size: must be 1 to 4096 pixels, found {self.image_size}.")


@dataclass(frozen=True)
class LimitsConfig:
    """What one record may cost."""

    max_pixels: int = 50_000_000
    """Pixels an image's header may declare; more is refused before decoding (50 MP ≈ 150 MB decoded)."""
    max_bytes: int = 64 << 20
    """Bytes an encoded image may have."""
    max_failure_rate: float = 0.1
    """Share of failed records above which the run stops with status 4 (judged after 1,000 records)."""
    accept_damaged: bool = False
    """Finish although an input broke off, keeping the records before the break."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_failure_rate <= 1:
            raise ValueError(f"--max-failure-rate: must be 0 to 1, found {self.max_failure_rate}.")


@dataclass(frozen=True)
class WorkConfig:
    """How the work is done; none of it changes a vector."""

    batch_size: int = 64
    """Images per forward pass; short batches are padded to it, so the tower compiles once."""
    decode_threads: int = 2
    """Threads that decode and resize while the tower computes."""
    unit_bytes: int = 64 << 20
    """About how much input is one unit of work: what a stopped run loses at most."""
    storage_options: str | None = None
    """JSON file of fsspec options by protocol; reaches the workers, never the store."""
    takeover: bool = False
    """Take the folder over from a launch elsewhere that has been silent for two minutes."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "decode_threads", "unit_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"--{name.replace('_', '-')}: must be at least 1, found {getattr(self, name)}."
                )


@dataclass(frozen=True)
class EmbedConfig:
    """Embed every image once with a locked tower and write a store.

    First job (a folder of photographs with .txt captions beside them):

        lit-embed --input photos/ --format folder --tower efficientnet-lite0 \\
                  --checkpoint efficientnet-lite0.pth --output store/

    Flags that are not listed here go to Beam (--runner, --direct_num_workers, ...).
    Exit status: 0 complete, 1 a bug of ours, 2 usage or refused, 3 incomplete or damaged (run the same command
    again), 4 too many failures.
    """

    source: SourceConfig
    tower: TowerConfig
    output: str
    """The store: a folder, or any fsspec URL."""
    dtype: Literal["float16", "float32"] = "float16"
    """How a component is stored; float16 is half the size."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    work: WorkConfig = field(default_factory=WorkConfig)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"--dtype: must be one of {sorted(DTYPES)}, found {self.dtype!r}.")


def source_facts(source: SourceConfig) -> dict[str, Any]:
    """What ids and texts depend on beside the input files: it enters the plan's digest."""
    facts: dict[str, Any] = {"format": source.format, "caption_column": list(source.caption_column)}
    facts["label_column"] = source.label_column
    if source.format == "parquet":
        facts |= {"id_column": source.id_column, "image_column": source.image_column}
    return facts
