"""How much memory the loss and its gradient need beside inputs and outputs, plain and tiled.

    python benchmarks/loss_memory.py                        both losses, B from 8,192 to 1,048,576, D = 768
    python benchmarks/loss_memory.py --duplicates ignore

Compiles `value_and_grad` of the loss with respect to both raw embeddings, log-scale and bias on one device and prints
`temp_size_in_bytes` of the compiled program's `memory_analysis()`. Nothing is run, so it needs neither the memory nor
the time of the batch. Where the plain form is too large to compile, 4 B^2 bytes, one logit matrix, stands as a lower bound.
Exits 1 unless the tiled loss at the largest batch stays under 1 GiB.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

from trainer.duplicates import Keys
from trainer.losses import plain_loss
from trainer.tiled_loss import tiled_loss

GIB = 2**30
BATCHES = [8_192, 32_768, 131_072, 1_048_576]


def temporary_bytes(batch: int, dim: int, tile: int | None, kind: str, duplicates: str) -> int:
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
    return compiled.memory_analysis().temp_size_in_bytes


def main() -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--duplicates", default="mask", choices=["mask", "positive", "ignore"])
    parser.add_argument(
        "--plain-up-to", type=int, default=131_072, help="largest batch to compile the plain form at"
    )
    options = parser.parse_args()
    print(f"device {jax.devices()[0].device_kind}, jax {jax.__version__}, D={options.dim}, tile={options.tile}, "
          f"duplicates={options.duplicates}")  # fmt: skip
    print(f"{'loss':8} {'B':>9} {'plain GiB':>12} {'tiled GiB':>10} {'plain / tiled':>14} {'compile s':>10}")
    fits = True
    for kind in ("softmax", "sigmoid"):
        for batch in BATCHES:
            began = time.perf_counter()
            tiled = temporary_bytes(batch, options.dim, options.tile, kind, options.duplicates) / GIB
            seconds = time.perf_counter() - began
            compiles = batch <= options.plain_up_to
            plain = plain_bytes(batch, options, kind, compiles) / GIB
            text = f"{plain:.2f}" if compiles else f"> {plain:.0f}"
            print(
                f"{kind:8} {batch:9,} {text:>12} {tiled:10.4f} {plain / tiled:14,.0f} {seconds:10.1f}",
                flush=True,
            )
        fits = fits and tiled < 1
    print("tiled at the largest batch: " + ("under 1 GiB" if fits else "1 GiB or more, which must not be"))
    return 0 if fits else 1


def plain_bytes(batch: int, options: argparse.Namespace, kind: str, compiles: bool) -> int:
    """What the plain form needs; where it is too large to compile, the size of one logit matrix."""
    if not compiles:
        return 4 * batch**2
    return temporary_bytes(batch, options.dim, None, kind, options.duplicates)


if __name__ == "__main__":
    sys.exit(main())
