"""What `lit-embed` is asked to do: typed, frozen, and the source of its flags."""

from dataclasses import dataclass, field
from typing import Literal

from lit_precompute.config.presets import PRESETS, Preset
from lit_precompute.config.source import Format, SourceConfig, source_facts
from lit_precompute.config.tower import TowerConfig
from lit_precompute.config.work import LimitsConfig, WorkConfig
from schemas.embeddings import DTYPES

__all__ = [
    "PRESETS",
    "EmbedConfig",
    "Format",
    "LimitsConfig",
    "Preset",
    "SourceConfig",
    "TowerConfig",
    "WorkConfig",
    "source_facts",
]

MOST_VIEWS = 1000  # more would be a mistake; all of an image's are in memory together


@dataclass(frozen=True)
class EmbedConfig:
    """Embed every image once with a locked tower and write a store.

    First job (a folder of photographs with .txt captions beside them):

        lit-embed --input photos/ --format folder --tower efficientnet-lite0 \\
                  --checkpoint efficientnet-lite0.pth --output store/

    lit-embed --list-towers names the towers, with D, parameters, GFLOPs an image and where their weights are.

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
    views: int = 1
    """V, vectors of each image: the first of the image as the tower takes it, the others of random crops, half of
    them mirrored, which follow from the id alone. Costs V forward passes and one decode."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    work: WorkConfig = field(default_factory=WorkConfig)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"--dtype: must be one of {sorted(DTYPES)}, found {self.dtype!r}.")
        if not 1 <= self.views <= MOST_VIEWS:
            raise ValueError(f"--views: must be 1 to {MOST_VIEWS}, found {self.views}.")
        if self.views > 1 and self.work.dedup_exact:
            raise ValueError(
                "--dedup-exact: must not be given with --views above 1, found both. Crops are drawn by id, so equal "
                "images under different ids have further views of their own. Leave one of the flags out."
            )
        if self.source.limit is not None and self.work.append:
            raise ValueError("--limit: must not be given with --append: a limited store can not grow.")
        if self.source.format == "tfds" and self.work.append:
            raise ValueError(
                "--append: a prepared TFDS version never grows. Write another one to another --output."
            )
