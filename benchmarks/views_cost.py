"""What `--views 4` costs beside one view: four forwards, one read and one decode of each image.

    python -m benchmarks.views_cost [--tower vit-b-32] [--images 128] [--views 4] [--rounds 3]

Counts records read, images decoded and batches embedded, and prints images/s with one view and with V, in turns. Exits
non-zero when a count is another, or when an image of V views takes longer than V images of one.
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from benchmarks.pictures import write_parquet
from lit_precompute import pixels
from lit_precompute.agreement import agree_plan
from lit_precompute.config import EmbedConfig, SourceConfig, TowerConfig
from lit_precompute.embed_unit import embed_unit
from lit_precompute.embedder import Embedder
from lit_precompute.job import open_job
from lit_precompute.plan import Plan
from lit_precompute.towers import load_tower

BATCH = 32


class Counting(Embedder):
    """Counts batches."""

    batches = 0

    def _dispatch(self, batch: np.ndarray) -> Any:
        self.batches += 1
        return super()._dispatch(batch)


class Decoder:
    """`decode`, counted."""

    def __init__(self) -> None:
        self.calls, self._decode = 0, pixels.decode

    def __call__(self, *args: Any) -> Image.Image:
        self.calls += 1
        return self._decode(*args)


def embed(
    config: EmbedConfig, plan: Plan, embedder: Counting, decoder: Decoder
) -> tuple[float, dict[str, int]]:
    """All units into a new store: seconds, and how often each step was done."""
    job = open_job(config, embedder.tower.info, plan, {})
    embedder.batches, decoder.calls, seen, started = 0, 0, 0, time.perf_counter()
    for unit in plan.units:
        receipt = embed_unit(job, unit, embedder)
        assert (receipt.status, receipt.embedded) == ("done", receipt.seen), receipt
        seen += receipt.seen
    seconds = time.perf_counter() - started
    return seconds, {"read": seen, "decoded": decoder.calls, "batches": embedder.batches}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tower", default="vit-b-32")
    parser.add_argument("--images", type=int, default=4 * BATCH)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    images, views = options.images, options.views
    decoder = Decoder()
    seconds: dict[int, list[float]] = {1: [], views: []}
    counts: dict[int, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder, patch.object(pixels, "decode", decoder):
        file = write_parquet(Path(folder) / "pictures.parquet", images)
        source, tower = SourceConfig((str(file),), "parquet"), TowerConfig(options.tower, "random:0")
        config = EmbedConfig(source, tower, f"{folder}/none")
        plan, embedder = agree_plan(config, {}).plan, Counting(load_tower(config.tower), BATCH)
        for number in range(-1, options.rounds):  # the first compiles and is not counted
            for count in (1, views) if number % 2 else (views, 1):
                output = replace(config, output=f"{folder}/{count}-{number}", views=count)
                took, counts[count] = embed(output, plan, embedder, decoder)
                if number >= 0:
                    seconds[count].append(took)
    for count, found in seconds.items():
        did = ", ".join(f"{number} {what}" for what, number in counts[count].items())
        print(f"{count:>3} views: {images / statistics.median(found):6.1f} images/s ({did})")
    ratios = [many / (views * one) for one, many in zip(seconds[1], seconds[views], strict=True)]
    ratio = statistics.median(ratios)
    print(
        f"    ratio: {ratio:.2f} (an image of {views} views / {views} images of one, paired; {min(ratios):.2f} to "
        f"{max(ratios):.2f}), most 1"
    )
    wanted = {"read": images, "decoded": images, "batches": -(-images * views // BATCH)}
    return 0 if ratio <= 1 and counts[views] == wanted else 1


if __name__ == "__main__":
    sys.exit(main())
