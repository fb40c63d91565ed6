"""A training step on cached embeddings against the same step with the image tower inside.

    python -m benchmarks.cached_step [--batch-size 128] [--rounds 5]
    python -m benchmarks.cached_step --towers efficientnet-lite0 vit-b-32 vit-l-16 --texts base \\
        --batch-size 16 --rounds 3

The tower in the step is only run forward, without gradients or augmentation: the cheapest way to train uncached. Text
sides: a new head on features of a frozen backbone ("head"), a transformer of 4 blocks ("small") or of BERT-base's shape
("base"), both trained whole. Prints seconds per step and the median of the paired ratios, and exits non-zero when that
of a head is under 4. The more the image tower costs beside the text side, the larger the ratio; what LiT (arXiv
2111.07991, Tab. 7, base text tower, on TPU) found is printed where it names the tower. Beside it stands the ratio of
operations, which is that of a large batch: in a small one the optimizer, whose work does not grow with the batch, makes
the cached step look slower. The second command takes five minutes on two cores.
"""

import argparse
import inspect
import statistics
import sys
import time
from typing import Any

import jax
import numpy as np

from benchmarks.pictures import jpeg
from lit_precompute.config import TowerConfig
from lit_precompute.decode import DecodeLimits, decode
from lit_precompute.towers import Tower, load_tower
from lit_precompute.towers.costs import COSTS
from trainer.compiling import compiler_options
from trainer.config import LossConfig
from trainer.data.batches import Batch
from trainer.losses import split_keys
from trainer.optim.optimizer import OptimizerConfig, make_optimizer, make_schedule
from trainer.step import add_scale, init_state, make_step
from trainer.step_plan import count_flops
from trainer.text_towers import TextTower, TextTowerConfig, build_text_tower

LEAST = 4.0
PUBLISHED = {"vit-b-32": 2.7, "vit-l-16": 11.0}
SHAPES = {"small": (256, 4, 4), "base": (768, 12, 12)}  # width, blocks, heads
FEATURES = 384  # width of a small sentence encoder's output


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--towers", nargs="+", default=["efficientnet-lite0"])
    parser.add_argument("--texts", nargs="+", choices=("head", *SHAPES), default=["head", "small"])
    options = parser.parse_args()
    enough = True
    for name in options.towers:
        tower = load_tower(TowerConfig(name, "random:0"))
        pixels = np.stack(
            [tower.preprocess(decode(jpeg(n), DecodeLimits())) for n in range(options.batch_size)]
        )
        for text in options.texts:
            side = _head(tower, len(pixels)) if text == "head" else _transformer(tower, len(pixels), text)
            ratio = compare(name, text, tower, pixels, *side, options.rounds)
            if text == "base" and name in PUBLISHED:
                print(f"   published: {PUBLISHED[name]} (LiT, Tab. 7)", flush=True)
            enough &= text != "head" or ratio >= LEAST
    return 0 if enough else 1


def _head(tower: Tower, count: int) -> tuple[Any, Any, np.ndarray]:
    """How a new head embeds, its parameters, and the features it stands on."""
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((FEATURES, tower.info.embedding_dim), np.float32) / FEATURES**0.5
    head = {"head": {"kernel": kernel, "bias": np.zeros(tower.info.embedding_dim, np.float32)}}
    return _embed_head, head, rng.standard_normal((count, FEATURES), np.float32)


def _transformer(tower: Tower, count: int, shape: str) -> tuple[Any, Any, np.ndarray]:
    """How a transformer embeds, its parameters, and tokens."""
    width, depth, heads = SHAPES[shape]
    captions = [f"picture number {n}" for n in range(count)]
    config = TextTowerConfig(text_tower="transformer", text_width=width, text_depth=depth, text_heads=heads)
    made = build_text_tower(config, tower.info.embedding_dim, jax.random.key(0), lambda: captions, 16)
    return _embed_with(made), made.params, made.tokenizer(captions, 16)


def compare(
    name: str,
    side: str,
    tower: Tower,
    pixels: np.ndarray,
    embed: Any,
    text_params: Any,
    text: np.ndarray,
    rounds: int,
) -> float:
    """Times both kinds of step on one batch, in turn, and prints what came out; returns the median ratio."""
    image_params = jax.device_put(tower.params)
    loss, config = LossConfig(), OptimizerConfig()
    params = add_scale(text_params, loss)
    optimizer = make_optimizer(config, params, 100)
    step = make_step(embed, loss, optimizer, make_schedule(config, 100), 0, 1000)
    uncompiled, options = inspect.unwrap(step), compiler_options("float32")

    def with_tower(state: Any, batch: Batch, image_params: Any, pixels: jax.Array) -> Any:
        return uncompiled(state, batch._replace(image_embeddings=tower.forward(image_params, pixels)))

    one_stage = jax.jit(with_tower, donate_argnums=0, compiler_options=options)
    untimed: Any = step
    forward = jax.jit(tower.forward, compiler_options=options)
    keys = split_keys(np.arange(len(pixels), dtype=np.uint64))
    batch = Batch(np.asarray(forward(image_params, pixels)), text, keys, keys)
    states = {kind: init_state(params, optimizer) for kind in ("one stage", "cached")}
    seconds: dict[str, list[float]] = {kind: [] for kind in states}
    processor: dict[str, list[float]] = {kind: [] for kind in states}
    losses: dict[str, list[float]] = {kind: [] for kind in states}
    for round_number in range(rounds + 1):  # the first compiles and is not counted
        for kind in states:
            started, used = time.perf_counter(), time.process_time()
            if kind == "cached":
                states[kind], metrics = step(states[kind], batch)
            else:
                states[kind], metrics = one_stage(states[kind], batch, image_params, pixels)
            losses[kind].append(float(metrics["loss"]))
            if round_number:
                seconds[kind].append(time.perf_counter() - started)
                processor[kind].append(time.process_time() - used)
    ratios = [one / other for one, other in zip(seconds["one stage"], seconds["cached"], strict=True)]
    apart = max(abs(a / b - 1) for a, b in zip(losses["one stage"], losses["cached"], strict=True))
    print(f"{name}, text side {side}, batch {len(pixels)}, losses apart by at most {apart:.1e} (relative)")
    for kind, found in seconds.items():
        print(f"{kind:>12}: {statistics.median(found):8.4f} s/step (median of {len(found)})")
    ratio = statistics.median(ratios)
    print(
        f"       ratio: {ratio:.1f} (one stage / cached, paired; {min(ratios):.1f} to {max(ratios):.1f})",
        flush=True,
    )
    work = statistics.median(a / b for a, b in zip(processor["one stage"], processor["cached"], strict=True))
    print(
        f"       ratio: {work:.1f} in processor time, which what else the machine does touches less",
        flush=True,
    )
    cached = count_flops(untimed.trace(states["cached"], batch).jaxpr)
    print(f"       ratio: {1 + len(pixels) * COSTS[name][3] / cached:.1f} in operations", flush=True)
    return ratio


def _embed_head(
    params: Any, features: jax.Array, key: jax.Array, row_offset: jax.Array | int = 0
) -> jax.Array:
    return features @ params["head"]["kernel"] + params["head"]["bias"]


def _embed_with(tower: TextTower) -> Any:
    return lambda params, tokens, key, row_offset=0: tower.embed(params, tokens)


if __name__ == "__main__":
    sys.exit(main())
