"""Texts to unit embeddings through a tuned text tower, in batches of one shape."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trainer.compiling import compiler_options
from trainer.evals.vectors import unit_vectors

CHUNK_TOKENS = 1024  # of BERT-base on two threads: 117 captions/s, 94 with 4,096 tokens at once

EmbedTexts = Callable[[Sequence[str]], np.ndarray]


def text_embedder(
    tower: Any, max_length: int, batch_size: int = 256, embed: Callable[..., jax.Array] | None = None
) -> EmbedTexts:
    """A function from n texts to float32 [n, D] unit rows, row i for text i.

    Batches are padded to one shape, so the tower is compiled once. A text that occurs several times is embedded
    once: equal texts get equal vectors, wherever in a batch they would have stood.

    Args:
        tower: a `TextTower` with trained params.
        max_length: tokens a text, as in training.
        batch_size: texts at once.
        embed: the tower's `embed`, where it is compiled already.
    """
    embed = embed or compiled_embed(tower)

    def embed_texts(texts: Sequence[str]) -> np.ndarray:
        place = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        distinct = list(place)
        raw = raw_embeddings(embed, tower, distinct, max_length, batch_size)
        unit = unit_vectors(raw, "the text tower's embeddings")
        return unit[[place[text] for text in texts]]

    return embed_texts


def compiled_embed(tower: Any) -> Callable[..., jax.Array]:
    """The tower's `embed` under jit: (params, int32 [B, L]) → float32 [B, D]. A tower itself cannot be hashed."""
    options = compiler_options(tower.compute_dtype)
    return jax.jit(partial(in_chunks, tower.embed, tower.compute_dtype), compiler_options=options)


def in_chunks(embed: Callable[..., jax.Array], dtype: str, params: Any, tokens: jax.Array) -> jax.Array:
    """`embed` in bfloat16 on processors some rows at a time, so that what lies between layers stays in the caches.

    Args:
        embed: (params, int32 [B, L]) → [B, D], each row for itself.
        dtype: what its products are computed in; in float32 chunks gain nothing.
    """
    rows = max(1, CHUNK_TOKENS // tokens.shape[1])
    if dtype != "bfloat16" or len(tokens) <= rows:
        return embed(params, tokens)

    def chunked(params: Any, tokens: jax.Array) -> jax.Array:
        filled = jnp.pad(tokens, ((0, -len(tokens) % rows), (0, 0)), mode="edge")
        found = lax.map(partial(embed, params), filled.reshape(-1, rows, tokens.shape[1]))
        return found.reshape(len(filled), -1)[: len(tokens)]

    return jnp.asarray(lax.platform_dependent(params, tokens, cpu=chunked, default=embed))


def raw_embeddings(
    embed: Callable[..., jax.Array], tower: Any, texts: Sequence[str], max_length: int, batch_size: int
) -> np.ndarray:
    """float32 [n, D], not normalised, in batches of one shape; `embed` is from `compiled_embed`."""
    batches = [
        _embed_batch(embed, tower, list(texts[start : start + batch_size]), max_length, batch_size)
        for start in range(0, len(texts), batch_size)
    ]
    return np.concatenate(batches)


def _embed_batch(
    embed: Callable[..., jax.Array], tower: Any, texts: list[str], max_length: int, batch_size: int
) -> np.ndarray:
    """Raw embeddings float32 [n, D] of at most batch_size texts; the rest of the batch repeats the last one."""
    padded = texts + texts[-1:] * (batch_size - len(texts))
    # Full float32 products also where an accelerator would round by default: evaluation is cheap.
    with jax.default_matmul_precision("highest"):
        return np.asarray(embed(tower.params, tower.tokenizer(padded, max_length)))[: len(texts)]
