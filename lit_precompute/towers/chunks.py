"""On processors a batch goes through a network some images at a time, always as many.

What lies between two layers then stays in the caches instead of being streamed through memory for the whole batch; and
an image's bits do not depend on the batch it came in, though libraries sum products of other shapes in another order.
"""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

# Tokens at a time for each core: 512 rows of a base tower's widest layer, 6 MB in float32, about an L2 cache.
TOKENS_A_CORE = 512
MOST_IMAGES = 64

Embed = Callable[[jax.Array], jax.Array]  # pixels [B, ...] -> float32 [B, D]


def in_chunks(embed: Embed, images: int, pixels: jax.Array) -> jax.Array:
    """`embed` over chunks of `images`, the last one filled up."""
    batch = pixels.shape[0]
    chunks = -(-batch // images)
    missing = chunks * images - batch
    filled = jnp.pad(pixels, [(0, missing), *((0, 0) for _ in pixels.shape[1:])])
    embeddings = lax.map(embed, filled.reshape(chunks, images, *pixels.shape[1:]))
    return embeddings.reshape(chunks * images, -1)[:batch]


def by_tokens(embed: Embed, tokens: int, pixels: jax.Array) -> jax.Array:
    """`embed` of a bfloat16 transformer with so many tokens an image: in chunks on processors, whole elsewhere.

    In float32 chunks gain nothing, and bits do not depend on the batch without them.
    """
    images = images_at_once(tokens)
    return lax.platform_dependent(pixels, cpu=lambda pixels: in_chunks(embed, images, pixels), default=embed)


def images_at_once(tokens: int) -> int:
    """A power of two, so that batches of usual sizes are filled, and no more than a usual batch."""
    wanted = TOKENS_A_CORE * (os.cpu_count() or 1) // tokens
    return min(1 << max(0, wanted.bit_length() - 1), MOST_IMAGES)
