"""Seconds from `lit-embed`'s start to its first finished batch: compilation cache cold, then warm.

    python -m benchmarks.start_up [--tower vit-b-32] [--launches 3]

Each launch is a process of its own on the same pictures and a new store, with random weights read from an npz. Prints
where the time goes, and exits non-zero when the median of the warm launches is 15 s or more.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict

from benchmarks.launch import Launch, launch
from benchmarks.pictures import write_parquet
from lit_precompute.config import TowerConfig
from lit_precompute.towers import load_tower

BATCH = 64  # as the command has it when nothing is said
MOST = 15.0  # seconds


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tower", default="vit-b-32", help="of the ViT family")
    parser.add_argument("--launches", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = write_parquet(Path(folder) / "pictures.parquet", BATCH)
        flags = ["--input", str(file), "--format", "parquet", "--batch-size", str(BATCH)]
        flags += ["--tower", options.tower, "--checkpoint", str(write_npz(Path(folder), options.tower))]
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
        launches = [launch([*flags, "--output", f"{folder}/{n}"], cache) for n in range(options.launches + 1)]
    cold, *warm = launches
    show("cold", cold)
    for number, one in enumerate(warm, 1):
        show(f"warm {number}", one)
    median = statistics.median(one.done[0] for one in warm)
    print(f"first batch {median:.1f} s after the start, cache warm (median of {len(warm)}; most: {MOST:g})")
    return 0 if median < MOST else 1


def write_npz(folder: Path, tower: str) -> Path:
    """Random weights as a training checkpoint has them."""
    params = load_tower(TowerConfig(tower, "random:0")).params
    path = folder / "weights.npz"
    np.savez(path, **{f"params/img/{name}": leaf for name, leaf in flatten_dict(params, sep="/").items()})
    return path


def show(name: str, found: Launch) -> None:
    """A line of how long it took, and of that the parts."""
    first = found.done[0]
    parts = ", ".join(f"{step} {seconds:.1f}" for step, seconds in found.steps.items())
    print(f"{name:>7}: first batch at {first:5.1f} s, end at {found.ended:5.1f} s ({parts})", flush=True)


if __name__ == "__main__":
    sys.exit(main())
