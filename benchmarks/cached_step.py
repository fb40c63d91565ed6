"""A training step on cached embeddings against the same step with the image tower inside.

    python -m benchmarks.cached_step [--batch-size 128] [--rounds 5]

The tower in the step is only run forward, without gradients or augmentation: the cheapest way to train uncached.
Prints seconds per step of both and the median of the paired ratios; the more the tower costs beside the text tower, the
larger the ratio (LiT, arXiv 2111.07991, Tab. 7: 2.7 for B/32, 11 for L/16).
"""

import argparse
import statistics
import sys
import time

import jax
import numpy as np

from benchmarks.pictures import jpeg
from lit_precompute.config import TowerConfig
from lit_precompute.decode import DecodeLimits, decode
from lit_precompute.towers import load_tower
from trainer.batches import Batch
from trainer.config import LossConfig
from trainer.losses import split_keys
from trainer.optimizer import OptimizerConfig, make_optimizer, make_schedule
from trainer.step import add_scale, init_state, make_step
from trainer.text_towers import TextTowerConfig, build_text_tower

LEAST = 4.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tower", default="efficientnet-lite0")
    options = parser.parse_args()
    count = options.batch_size
    tower = load_tower(TowerConfig(options.tower, "random:0"))
    image_params = jax.device_put(tower.params)
    pixels = np.stack([tower.preprocess(decode(jpeg(n), DecodeLimits())) for n in range(count)])
    text = build_text_tower(
        TextTowerConfig(text_tower="transformer", text_width=256, text_depth=4),
        tower.info.embedding_dim,
        jax.random.key(0),
        lambda: [f"picture number {n}" for n in range(count)],
        16,
    )
    loss, config = LossConfig(), OptimizerConfig()
    params = add_scale(text.params, loss)
    optimizer = make_optimizer(config, params, 100)
    embed = lambda params, tokens, key: text.embed(params, tokens)  # noqa: E731
    step = make_step(embed, loss, optimizer, make_schedule(config, 100), 0, 1000)

    def one_stage(state, batch, image_params, pixels):
        return step(state, batch._replace(image_embeddings=tower.forward(image_params, pixels)))

    one_stage = jax.jit(one_stage, donate_argnums=0)
    keys = split_keys(np.arange(count, dtype=np.uint64))
    tokens = text.tokenizer([f"picture number {n}" for n in range(count)], 16)
    cached = np.asarray(jax.jit(tower.forward)(image_params, pixels))
    batch = Batch(cached, tokens, keys, keys)
    states = {name: init_state(params, optimizer) for name in ("one stage", "cached")}
    seconds: dict[str, list[float]] = {name: [] for name in states}
    losses: dict[str, list[float]] = {name: [] for name in states}
    for round_number in range(options.rounds + 1):  # the first compiles and is not counted
        for name in states:
            started = time.perf_counter()
            if name == "cached":
                states[name], metrics = step(states[name], batch)
            else:
                states[name], metrics = one_stage(states[name], batch, image_params, pixels)
            losses[name].append(float(metrics["loss"]))
            if round_number:
                seconds[name].append(time.perf_counter() - started)
    ratios = [one / other for one, other in zip(seconds["one stage"], seconds["cached"], strict=True)]
    for name, found in seconds.items():
        print(f"{name:>10}: {statistics.median(found):8.4f} s/step (batch {count}, median of {len(found)})")
    apart = max(abs(a / b - 1) for a, b in zip(losses["one stage"], losses["cached"], strict=True))
    ratio = statistics.median(ratios)
    print(f"    losses: apart by at most {apart:.1e} (relative)")
    print(
        f"     ratio: {ratio:.1f} (one stage / cached, paired; {min(ratios):.1f} to {max(ratios):.1f}), least {LEAST}"
    )
    return 0 if ratio >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
