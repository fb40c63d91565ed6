"""How long deep towers take to compile.

    python -m benchmarks.compile_time                      towers of 24 blocks
    python -m benchmarks.compile_time dinov2-giant         another one

Nothing is drawn and nothing run: weights are shapes, the program is traced and compiled for a batch of 32.
Exits 1 unless each is ready within 30 s.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from lit_precompute.config import TowerConfig
from lit_precompute.towers import TOWERS
from lit_precompute.towers.tower import RandomWeights

BATCH, SECONDS = 32, 30
DEEP = ("lit-l16l", "clip-vit-l-14", "siglip2-large-16-256", "dinov2-large", "dinov3-large")


class Shapes(RandomWeights):
    """Weights without numbers."""

    def draw(self, shapes, fan_in):
        return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def seconds(name: str) -> tuple[float, float]:
    """Of tracing and of compiling."""
    tower = TOWERS[name](TowerConfig(name, "random:0"), Shapes(0))
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tower.params)
    side = tower.preprocess.image_size
    pixels = jax.ShapeDtypeStruct((BATCH, side, side, 3), jnp.uint8)
    started = time.monotonic()
    lowered = jax.jit(tower.forward).lower(params, pixels)
    traced = time.monotonic()
    lowered.compile()
    return traced - started, time.monotonic() - traced


def main() -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("tower", nargs="*", default=DEEP)
    slowest = 0.0
    print(f"{'tower':24} {'trace s':>8} {'compile s':>10}")
    for name in parser.parse_args().tower:
        trace, compilation = seconds(name)
        print(f"{name:24} {trace:8.1f} {compilation:10.1f}", flush=True)
        slowest = max(slowest, trace + compilation)
    return 0 if slowest < SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
