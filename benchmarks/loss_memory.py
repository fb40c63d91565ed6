"""How much memory the loss and its gradient need beside inputs and outputs, plain and tiled.

    python benchmarks/loss_memory.py                        both losses, B from 8,192 to 1,048,576, D = 768
    python benchmarks/loss_memory.py --duplicates ignore    without the comparison of keys

Compiles `value_and_grad` of the loss with respect to both raw embeddings, log-scale and bias on one device and prints
`temp_size_in_bytes` of the compiled program's `memory_analysis()`. Nothing is run, so it needs neither the memory nor
the time of the batch: the plain form compiles at a million pairs, though no machine could run it.
Exits 1 unless the tiled loss at the largest batch stays under 1 GiB.
"""

import argparse
import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

from trainer.losses import Kind, plain_loss
from trainer.losses.duplicates import Duplicates, Keys
from trainer.losses.tiled_loss import tiled_loss

GIB = 2**30
BATCHES = [8_192, 32_768, 131_072, 1_048_576]


def temporary_bytes(batch: int, dim: int, tile: int | None, kind: Kind, duplicates: Duplicates) -> int:
    """Compiles value_and_grad of the loss, plain where tile is None, and asks XLA what it needs."""
    embeddings = jax.ShapeDtypeStruct((batch, dim), jnp.float32)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    keys = jax.ShapeDtypeStruct((batch, 2), jnp.uint32)

    def call(image, text, log_scale, bias, image_keys, caption_keys):
        pairs = Keys(jnp.arange(batch, dtype=jnp.int32), image_keys, caption_keys)
        if tile is None:
            return plain_loss(image, text, log_scale, bias, pairs, kind, duplicates)
        return tiled_loss(image, text, log_scale, bias, pairs, kind, duplicates, tile)

    step = jax.jit(jax.value_and_grad(call, argnums=(0, 1, 2, 3)))
    compiled = step.lower(embeddings, embeddings, scalar, scalar, keys, keys).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None, "this backend does not say how much memory a program needs"
    return analysis.temp_size_in_bytes


def main() -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--duplicates", default="mask", choices=["mask", "positive", "ignore"])
    options = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {options}")
    print(f"{'loss':8} {'B':>9} {'plain GiB':>11} {'tiled GiB':>10} {'plain / tiled':>14}")
    fits = True
    for kind in ("softmax", "sigmoid"):
        for batch in BATCHES:
            plain = temporary_bytes(batch, options.dim, None, kind, options.duplicates) / GIB
            tiled = temporary_bytes(batch, options.dim, options.tile, kind, options.duplicates) / GIB
            print(f"{kind:8} {batch:9,} {plain:11,.2f} {tiled:10.4f} {plain / tiled:14,.0f}", flush=True)
        fits = fits and tiled < 1
    print("tiled at the largest batch: " + ("under 1 GiB" if fits else "1 GiB or more, which must not be"))
    return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(main())
