"""Training steps fed from the spool against the same steps fed one batch that is there already.

    python -m benchmarks.data_wait [--batch-size 2048] [--rows 65536] [--steps 12] [--rounds 5]

The step is a real one: BERT-like text tower of 4 blocks, tiled loss, AdamW. The two kinds of run take turns, round by
round; the ratio is that of the two rounds that stand beside each other. Prints the median of the ratios, and the share
of the fed time that the loop spent waiting for a batch; exits non-zero when the ratio is under 0.95 or the share over
1 %.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks.gather import LENGTH, made_spool
from trainer.config import LossConfig
from trainer.data.batches import Batch, ahead, gather
from trainer.data.buffers import Buffers
from trainer.data.mixture import make_mixture
from trainer.optim.optimizer import OptimizerConfig, make_optimizer, make_schedule
from trainer.step import add_scale, init_state, make_step
from trainer.text_towers import TextTowerConfig, build_text_tower

LEAST_RATIO, MOST_WAIT = 0.95, 0.01
DIM = 768


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=65_536)
    parser.add_argument("--steps", type=int, default=12, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        spool = made_spool(Path(scratch), options.rows, DIM)
        mixture = make_mixture(["made"], [options.rows], [], options.batch_size, seed=0)
        state, step = real_step()
        resident = jax.device_put(gather([spool], mixture, 0))
        state, _ = jax.block_until_ready(step(state, resident))  # compiled
        ratios, waits, buffers = [], [], Buffers()
        for number in range(options.rounds):
            numbers = range(number * options.steps, (number + 1) * options.steps)
            batches = ahead(lambda one: gather([spool], mixture, one, empty=buffers.empty), numbers)
            state, fed, waited = timed(step, state, batches)
            state, still, _ = timed(step, state, [resident] * options.steps)
            ratios.append(still / fed)
            waits.append(waited / fed)
            print(f"round {number + 1}: fed {fed / options.steps:.3f} s/step, resident {still / options.steps:.3f}",
                  flush=True)  # fmt: skip
    ratio, wait = statistics.median(ratios), statistics.median(waits)
    print(
        f"steps/s fed over resident: {ratio:.3f} (median of {len(ratios)}; {min(ratios):.3f} to {max(ratios):.3f})"
    )
    print(f"share of the time spent waiting for a batch: {wait:.2%}")
    return 0 if ratio >= LEAST_RATIO and wait <= MOST_WAIT else 1


def real_step() -> tuple[Any, Any]:
    """A state, and the update of it."""
    config = TextTowerConfig(text_tower="transformer", text_width=256, text_depth=4, vocab_size=30_000)
    words = (" ".join(f"w{n % 4000}" for n in range(start, start + 8)) for start in range(4000))
    tower = build_text_tower(config, DIM, jax.random.key(0), lambda: words, LENGTH)
    params = add_scale(tower.params, LossConfig())
    optimizer = make_optimizer(OptimizerConfig(), params, 1000)
    schedule = make_schedule(OptimizerConfig(), 1000)
    step = make_step(
        lambda params, tokens, key, row_offset=0: tower.embed(params, tokens % tower.tokenizer.vocab_size),
        LossConfig(),
        optimizer,
        schedule,
        0,
        1000,
    )
    return init_state(params, optimizer), step


def timed(step: Any, state: Any, batches: Iterable[Batch]) -> tuple[Any, float, float]:
    """Runs a step on each batch; returns the state, the seconds, and those of them spent waiting for batches."""
    source = iter(batches)
    turn: Iterator[Batch] = itertools.chain(
        [next(source)], source
    )  # the first batch of a run can but be waited for
    started, waited = time.perf_counter(), 0.0
    while True:
        asked = time.perf_counter()
        batch = next(turn, None)
        if batch is None:
            break
        waited += time.perf_counter() - asked
        state, metrics = step(state, batch)
        # As the training loop does, at most one step is in flight.
        jax.block_until_ready(metrics["loss"])
    return state, time.perf_counter() - started, waited


if __name__ == "__main__":
    sys.exit(main())
