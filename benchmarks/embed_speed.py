"""Stage 1 against serial decode + resize + jitted forward: same pictures, tower, batch size and threads.

    python -m benchmarks.embed_speed [--images 512] [--rounds 5]

Prints images/s of both, the median of the paired ratios, and exits non-zero when it is under 0.8.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq

from benchmarks.pictures import write_parquet
from lit_precompute.agreement import agree_plan
from lit_precompute.config import EmbedConfig, SourceConfig, TowerConfig
from lit_precompute.decode import DecodeLimits, decode
from lit_precompute.embed_unit import embed_unit
from lit_precompute.embedder import Embedder
from lit_precompute.job import open_job
from lit_precompute.plan import Plan
from lit_precompute.towers import Tower, load_tower

BATCH = 64
LEAST = 0.8


def serial(tower: Tower, forward: Callable, images: list[bytes]) -> None:
    """The loop one would write first: a batch is decoded, then embedded, then the next."""
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        pixels = np.zeros((BATCH, tower.preprocess.image_size, tower.preprocess.image_size, 3), np.uint8)
        for row, image in enumerate(batch):
            pixels[row] = tower.preprocess(decode(image, DecodeLimits()))
        np.asarray(forward(tower.params, pixels))


def embed(config: EmbedConfig, plan: Plan, embedder: Embedder, folder: str) -> None:
    """All units of the plan into a new store, as a worker does it."""
    job = open_job(replace(config, output=folder), embedder.tower.info, plan, {})
    for unit in plan.units:
        receipt = embed_unit(job, unit, embedder)
        assert receipt.status == "done", receipt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tower", default="efficientnet-lite0")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = write_parquet(Path(folder) / "pictures.parquet", options.images)
        images = pq.read_table(file)["image"].to_pylist()
        config = EmbedConfig(
            SourceConfig((str(file),), "parquet"), TowerConfig(options.tower, "random:0"), f"{folder}/none"
        )
        plan = agree_plan(config, {}).plan
        tower = load_tower(config.tower)
        embedder = Embedder(tower, BATCH)
        forward, device_params = jax.jit(tower.forward), jax.device_put(tower.params)
        on_device = replace(tower, params=device_params)
        seconds: dict[str, list[float]] = {"serial": [], "lit-embed": []}
        for round_number in range(-1, options.rounds):  # the first compiles and is not counted
            order = ["serial", "lit-embed"] if round_number % 2 else ["lit-embed", "serial"]
            for name in order:
                started = time.perf_counter()
                if name == "serial":
                    serial(on_device, forward, images)
                else:
                    embed(config, plan, embedder, f"{folder}/store-{round_number}")
                if round_number >= 0:
                    seconds[name].append(time.perf_counter() - started)
    ratios = [one / other for one, other in zip(seconds["serial"], seconds["lit-embed"], strict=True)]
    for name, found in seconds.items():
        print(
            f"{name:>10}: {options.images / statistics.median(found):7.1f} images/s (median of {len(found)})"
        )
    ratio = statistics.median(ratios)
    print(
        f"     ratio: {ratio:.2f} (lit-embed / serial, paired; {min(ratios):.2f} to {max(ratios):.2f}), least {LEAST}"
    )
    return 0 if ratio >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
