"""Forward passes against the same models in torch: same weights, inputs, threads and type.

    pip install 'lit-precompute[bench]'
    python -m benchmarks.towers_vs_torch                                     all models, float32 and bfloat16
    python -m benchmarks.towers_vs_torch --models vit-b-32 --dtypes float32 --rounds 9

Both sides load one file (see `benchmarks.torch_twins`) and must give the same vectors. Then they take turns, torch
first; printed are images or captions per second and the median of the paired ratios, ours over torch. With `--require`
the exit status is 1 where a ratio is below 0.9.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from benchmarks.torch_twins import MODELS, Forward, Twins

LEAST = 0.9
BATCHES = {"images": 32, "captions": 256}
LEAST_COSINE = {"float32": 0.99999, "bfloat16": 0.998}  # bfloat16 rounds in other places on each side


@dataclass(frozen=True)
class Turn:
    """Seconds of one forward pass by the clock, and of processor time over all threads."""

    clock: float
    processor: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=tuple(MODELS))
    parser.add_argument("--dtypes", nargs="+", choices=tuple(LEAST_COSINE), default=tuple(LEAST_COSINE))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, help="default: 32 images, 256 captions")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--require", action="store_true", help=f"exit with 1 below {LEAST}")
    options = parser.parse_args()
    use_threads(options.threads)
    print(
        f"{'model':20} {'dtype':9} {'torch /s':>9} {'ours /s':>9} {'ratio':>6}  {'(least to most)':17} processor time"
    )
    slow = []
    for model in options.models:
        for dtype in options.dtypes:
            batch = options.batch or BATCHES["captions" if model.startswith("bert") else "images"]
            with tempfile.TemporaryDirectory() as folder:
                twins = MODELS[model](dtype, batch, Path(folder))
                if compare(f"{model:20} {dtype:9}", twins, dtype, batch, options.rounds) < LEAST:
                    slow.append(f"{model} in {dtype}")
    print(f"below {LEAST} of torch: {', '.join(slow) or 'none'}")
    return 1 if slow and options.require else 0


def use_threads(count: int) -> None:
    """As many threads on both sides: XLA makes one for every core it may run on, torch is told."""
    import torch

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    torch.set_num_threads(count)


def compare(name: str, twins: Twins, dtype: str, batch: int, rounds: int) -> float:
    """Prints a line of the table; returns the ratio."""
    check_equal(name, twins.ours(), twins.torch(), LEAST_COSINE[dtype])  # compiles, too
    turns = [(turn(twins.torch), turn(twins.ours)) for _ in range(rounds)]
    torch_rate, our_rate = (
        batch / statistics.median(pair[side].clock for pair in turns) for side in range(2)
    )
    ratios = sorted(torch.clock / ours.clock for torch, ours in turns)
    work = statistics.median(torch.processor / ours.processor for torch, ours in turns)
    ratio = statistics.median(ratios)
    spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    print(f"{name} {torch_rate:9.1f} {our_rate:9.1f} {ratio:6.2f}  {spread:17} {work:.2f}", flush=True)
    return ratio


def turn(forward: Forward) -> Turn:
    started, used = time.perf_counter(), time.process_time()
    forward()
    return Turn(time.perf_counter() - started, time.process_time() - used)


def check_equal(name: str, ours: np.ndarray, torch: np.ndarray, least: float) -> None:
    """Every row of float32 [B, D] points the same way, or this compares two models."""
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(torch, axis=1)
    cosine = float(((ours * torch).sum(axis=1) / norms).min())
    if ours.shape != torch.shape or not cosine >= least:
        raise SystemExit(f"{name}: the vectors must agree to a cosine of {least}, found {cosine:.6f}.")


if __name__ == "__main__":
    sys.exit(main())
