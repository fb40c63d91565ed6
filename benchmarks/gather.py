"""How fast batches are gathered from a spool that lies in the page cache, on one core.

    python -m benchmarks.gather [--rows 400000] [--dim 768] [--batch-size 32768] [--batches 12] [--captions 1]

Lays out the columns of a spool (no store is read), reads them once so that they are cached, and gathers batches as
training does: rows drawn by the sampler, captions, float16 vectors, tokens, keys; all in one thread that stays on one
core. Rates are rows per second of that thread's own processor time, so that what else the machine does counts for
nothing; the wall clock is told beside, and the share of what taking the vectors alone reaches, which no gathering can
pass. Exits non-zero at under a million rows a second.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trainer.data.batches import gather
from trainer.data.buffers import Buffers
from trainer.data.captions import Captions
from trainer.data.columns import ColumnWriter, built_at_once, open_or_build
from trainer.data.mixture import make_mixture
from trainer.data.spools import Spool

LEAST = 1_000_000
LENGTH = 16


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--batch-size", type=int, default=32_768)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--captions", type=int, default=1, help="captions of an image, one of which is drawn")
    options = parser.parse_args()
    stay_on_one_core()
    with tempfile.TemporaryDirectory() as scratch:
        spool = made_spool(Path(scratch), options.rows, options.dim, options.captions)
        mixture = make_mixture(["made"], [options.rows], [], options.batch_size, seed=0)
        vectors = spool.images["embeddings"][:, 0]
        for name in spool.images.arrays:
            spool.images[name].reshape(-1).view(np.uint8)[::4096].sum()  # every page once
        spool.text.sum()
        drawn = [mixture.rows(step)[0] for step in range(options.batches)]
        print(
            f"{options.rows:,} rows of {options.dim} float16, {options.captions} captions each,"
            f" batches of {options.batch_size:,}"
        )
        out, buffers = np.empty((options.batch_size, options.dim), np.float16), Buffers()
        makes: dict[str, Callable[[int], object]] = {
            "vectors alone": lambda step: np.take(vectors, drawn[step], axis=0, out=out, mode="clip"),
            "rows drawn": mixture.rows,
            "whole batch": lambda step: gather([spool], mixture, step, empty=buffers.empty),
        }
        own, clock = zip(
            *(report(what, make, options.batches, options.batch_size) for what, make in makes.items()),
            strict=True,
        )
    print(f"whole batch over vectors alone: {own[-1] / own[0]:.2f}, {clock[-1] / clock[0]:.2f} by the clock")
    return 0 if min(own) >= LEAST else 1


def stay_on_one_core() -> None:
    """This thread on the core that the system gave it, where a system knows of such a thing."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def made_spool(root: Path, rows: int, dim: int, captions: int = 1) -> Spool:
    """A spool of random vectors and tokens."""

    def build(writer: ColumnWriter) -> dict[str, int]:
        random = np.random.default_rng(0)
        for start in range(0, rows, 1 << 15):
            count = min(1 << 15, rows - start)
            writer.append(
                "embeddings", random.standard_normal((count, 1, dim), np.float32).astype(np.float16)
            )
            writer.append("text", random.integers(0, 30_000, (count * captions, LENGTH), np.int32))
            writer.append("image_key", random.integers(0, 1 << 63, count, np.uint64))
            writer.append("caption_key", random.integers(0, 1 << 63, count * captions, np.uint64))
        writer.append("caption_offsets", np.arange(rows + 1) * captions)
        return {"images": rows}

    columns = open_or_build(root, "made", built_at_once(build), rows * (2 * dim + 100 * captions))
    chosen = Captions(("",), columns["caption_offsets"], None, {"": rows}, "made")
    return Spool("made", columns, chosen, "caption", range(rows), columns["text"])


def report(what: str, make: Callable[[int], object], batches: int, batch_size: int) -> tuple[float, float]:
    """Times each batch and prints rows a second; returns the medians, of processor time and by the clock."""
    rates: list[tuple[float, float]] = []
    for step in range(batches):
        wall, own = time.perf_counter(), time.thread_time()
        made = make(step)
        rates.append((batch_size / (time.thread_time() - own), batch_size / (time.perf_counter() - wall)))
        del made
    own_rate, wall_rate = (statistics.median(rate[k] for rate in rates) for k in (0, 1))
    print(
        f"{what:>14}: {own_rate / 1e6:6.2f} million rows/s of processor time, {wall_rate / 1e6:.2f} by the clock"
    )
    return own_rate, wall_rate


if __name__ == "__main__":
    sys.exit(main())
