"""Stage 1 against serial decode + resize + jitted forward: same pictures, tower, batch size and threads.

    python -m benchmarks.embed_speed [--tower vit-b-32] [--images 512] [--rounds 5]

For each tower prints images/s of both and the median of the paired ratios, by the clock and in processor time, which
what else the machine does touches less and in which overlap earns nothing. Exits non-zero when the first is under 0.9.
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
from lit_precompute.compiling import compiler_options
from lit_precompute.config import EmbedConfig, SourceConfig, TowerConfig
from lit_precompute.decode import DecodeLimits, decode
from lit_precompute.embed_unit import embed_unit
from lit_precompute.embedder import Embedder
from lit_precompute.job import open_job
from lit_precompute.plan import Plan
from lit_precompute.towers import Tower, load_tower

BATCH = 64
LEAST = 0.9
TOWERS = {"efficientnet-lite0": 512, "vit-b-32": 192}  # images a round: some ten seconds on two cores


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
    parser.add_argument("--images", type=int, help="default: what takes some seconds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tower", action="append", help="one or more; default: " + ", ".join(TOWERS))
    options = parser.parse_args()
    towers = options.tower or list(TOWERS)
    ratios = [compare(name, options.images or TOWERS.get(name, BATCH), options.rounds) for name in towers]
    return 0 if min(ratios) >= LEAST else 1


def compare(name: str, count: int, rounds: int) -> float:
    """Prints both rates of a tower and their ratio, which it returns: the median of paired rounds."""
    with tempfile.TemporaryDirectory() as folder:
        file = write_parquet(Path(folder) / "pictures.parquet", count)
        images = pq.read_table(file)["image"].to_pylist()
        config = EmbedConfig(
            SourceConfig((str(file),), "parquet"), TowerConfig(name, "random:0"), f"{folder}/none"
        )
        plan = agree_plan(config, {}).plan
        tower = load_tower(config.tower)
        embedder = Embedder(tower, BATCH)
        options = compiler_options("cpu", "float32")  # as lit-embed has it
        forward = jax.jit(tower.forward, compiler_options=options)
        device_params = jax.device_put(tower.params)
        on_device = replace(tower, params=device_params)
        seconds: dict[str, list[float]] = {"serial": [], "lit-embed": []}
        processor: dict[str, list[float]] = {"serial": [], "lit-embed": []}
        for number in range(-1, rounds):  # the first compiles and is not counted
            for way in ("serial", "lit-embed") if number % 2 else ("lit-embed", "serial"):
                started, used = time.perf_counter(), time.process_time()
                if way == "serial":
                    serial(on_device, forward, images)
                else:
                    embed(config, plan, embedder, f"{folder}/store-{number}")
                if number >= 0:
                    seconds[way].append(time.perf_counter() - started)
                    processor[way].append(time.process_time() - used)
    ratios = [one / other for one, other in zip(seconds["serial"], seconds["lit-embed"], strict=True)]
    ratio = statistics.median(ratios)
    work = statistics.median(a / b for a, b in zip(processor["serial"], processor["lit-embed"], strict=True))
    rates = (f"{way} {count / statistics.median(found):.1f}" for way, found in seconds.items())
    print(
        f"{name:>18}: {', '.join(rates)} images/s (medians of {rounds}); lit-embed / serial {ratio:.2f}, paired "
        f"({min(ratios):.2f} to {max(ratios):.2f}), least {LEAST}; in processor time {work:.2f}",
        flush=True,
    )
    return ratio


if __name__ == "__main__":
    sys.exit(main())
