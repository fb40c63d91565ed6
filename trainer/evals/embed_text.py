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
from trainer.text_towers.products import as_trained, laid_out

CHUNK_TOKENS = 1024  # of BERT-base on two threads: 117 captions/s, 94 with 4,096 tokens at once

Embed = Callable[[Any, jax.Array], jax.Array]  # params, int32 [B, L] → float32 [B, D], each row for itself
EmbedTexts = Callable[[Sequence[str]], np.ndarray]


class CompiledEmbed:
    """A text tower's `embed` under jit, without gradients; a tower itself cannot be hashed.

    Products of bfloat16 on processors get their kernels laid out once, by `prepared`, and some rows at a time, so that
    what lies between layers stays in the caches.

    Args:
        embed: the tower's.
        dtype: what its products are computed in.
    """

    def __init__(self, embed: Embed, dtype: str) -> None:
        self._by_rows = dtype == "bfloat16" and jax.default_backend() == "cpu"
        self._prepare = jax.jit(laid_out)
        whole = partial(_in_chunks, embed) if self._by_rows else embed
        self._embed = jax.jit(whole, compiler_options=compiler_options(dtype))

    def prepared(self, params: Any) -> Any:
        """The tower's parameters on its devices, for any number of calls."""
        return self._prepare(params) if self._by_rows else jax.device_put(params)

    def __call__(self, prepared: Any, tokens: jax.Array | np.ndarray) -> jax.Array:
        """Parameters from `prepared`, int32 [B, L] → float32 [B, D], not normalised."""
        return self._embed(prepared, tokens)


def _in_chunks(embed: Embed, params: Any, tokens: jax.Array) -> jax.Array:
    rows = max(1, CHUNK_TOKENS // tokens.shape[1])

    def chunk(tokens: jax.Array) -> jax.Array:
        return embed(as_trained(params), tokens)  # in the loop, or kernels are turned before it

    if len(tokens) <= rows:
        return chunk(tokens)
    filled = jnp.pad(tokens, ((0, -len(tokens) % rows), (0, 0)), mode="edge")
    found = lax.map(chunk, filled.reshape(-1, rows, tokens.shape[1]))
    return found.reshape(len(filled), -1)[: len(tokens)]


def compiled_embed(tower: Any) -> CompiledEmbed:
    """The `embed` of a `TextTower`, compiled for whatever parameters it has."""
    return CompiledEmbed(tower.embed, tower.compute_dtype)


def text_embedder(
    tower: Any, max_length: int, batch_size: int = 256, embed: CompiledEmbed | None = None
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
    prepared = embed.prepared(tower.params)

    def embed_texts(texts: Sequence[str]) -> np.ndarray:
        place = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        distinct = list(place)
        raw = _in_batches(partial(embed, prepared), tower.tokenizer, distinct, max_length, batch_size)
        unit = unit_vectors(raw, "the text tower's embeddings")
        return unit[[place[text] for text in texts]]

    return embed_texts


def raw_embeddings(
    embed: CompiledEmbed, tower: Any, texts: Sequence[str], max_length: int, batch_size: int
) -> np.ndarray:
    """float32 [n, D], not normalised, in batches of one shape; `embed` is from `compiled_embed`."""
    prepared = embed.prepared(tower.params)
    return _in_batches(partial(embed, prepared), tower.tokenizer, texts, max_length, batch_size)


def _in_batches(
    embed: Callable[[np.ndarray], jax.Array],
    tokenizer: Callable[[list[str], int], np.ndarray],
    texts: Sequence[str],
    max_length: int,
    batch_size: int,
) -> np.ndarray:
    """Raw embeddings float32 [n, D]; what the last batch lacks repeats its last text."""
    found = []
    for start in range(0, len(texts), batch_size):
        batch = list(texts[start : start + batch_size])
        padded = batch + batch[-1:] * (batch_size - len(batch))
        # Full float32 products also where an accelerator would round by default: evaluation is cheap.
        with jax.default_matmul_precision("highest"):
            found.append(np.asarray(embed(tokenizer(padded, max_length)))[: len(batch)])
    return np.concatenate(found)
