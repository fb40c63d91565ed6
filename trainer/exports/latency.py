"""How long a text tower takes on this machine."""

import os
import platform
import statistics
import time
from dataclasses import dataclass

import jax

from trainer.evals.embed_text import compiled_embed
from trainer.text_towers import TextTower

BATCHES = (1, 32)
CALLS = 10


@dataclass(frozen=True)
class Latency:
    """Medians over some calls, tokenizer included, compilation not.

    Attributes:
        machine: device kind, processor and cores.
        milliseconds: a call's, by texts in it.
    """

    machine: str
    milliseconds: dict[int, float]


def measure_latency(tower: TextTower, calls: int = CALLS) -> Latency:
    """Times the embedding of texts in batches of 1 and 32.

    Args:
        tower: with its parameters.
        calls: of each size; the median counts.
    """
    embed = compiled_embed(tower)
    params = embed.prepared(tower.params)
    found = {}
    for size in BATCHES:
        texts = [f"a photo of number {n}" for n in range(size)]
        seconds = [_one(tower, embed, params, texts) for _ in range(calls + 1)][1:]  # the first compiles
        found[size] = 1e3 * statistics.median(seconds)
    kind = jax.local_devices()[0].device_kind
    return Latency(f"{kind}, {platform.machine()}, {os.cpu_count()} cores", found)


def _one(tower: TextTower, embed: object, params: object, texts: list[str]) -> float:
    started = time.perf_counter()
    tokens = tower.tokenizer(texts, tower.max_text_length)
    jax.block_until_ready(embed(params, tokens))  # type: ignore[operator]
    return time.perf_counter() - started
