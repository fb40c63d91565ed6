"""Retrieval among many: time and memory of the exact ranks, which must not grow with the number of pairs squared.

    python -m benchmarks.retrieval_size                          5, 10, 20, 40 and 100 thousand images, D = 256
    python -m benchmarks.retrieval_size --images 100000 --dim 768

Each size runs in a process of its own, on vectors drawn at random, a caption an image. Prints seconds, the peak of
resident memory, what of it came on top of the vectors, and what a full score matrix would take. Needs Linux. Exits 1
if the largest size needs more than 256 MiB on top of what the smallest one did.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from trainer.evals.retrieval import retrieval_ranks, summarize

MIB = 2**20
SIZES = [5_000, 10_000, 20_000, 40_000, 100_000]
NOISE = 3.0  # of the captions around their images: recall is then neither 0 nor 1
ALLOWED = 256  # MiB


def one(images: int, dim: int) -> int:
    """Ranks one size, and prints its line: images, seconds, peak MiB, MiB on top, recall."""
    rng = np.random.default_rng(0)
    vectors = _unit(rng.standard_normal((images, dim), np.float32))
    texts = _unit(vectors + NOISE / np.sqrt(dim) * rng.standard_normal((images, dim), np.float32))
    del rng
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: making the vectors took more
    before = _memory("VmRSS")
    started = time.perf_counter()
    ranks = retrieval_ranks(vectors, texts, np.arange(images))
    seconds = time.perf_counter() - started
    recall = summarize(ranks.t2i)["r1"]
    print(f"{images} {seconds:.2f} {_memory('VmHWM'):.0f} {_memory('VmHWM') - before:.0f} {recall:.4f}")
    return 0


def main() -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--images", type=int, nargs="+", default=SIZES)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return one(options.images[0], options.dim)
    print(f"{'images':>8} {'seconds':>9} {'peak MiB':>9} {'on top':>7} {'full matrix MiB':>16} {'t2i r1':>7}")
    tops = []
    for images in options.images:
        words = [sys.executable, "-m", "benchmarks.retrieval_size", "--one"]
        words += ["--images", str(images), "--dim", str(options.dim)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        _, seconds, peak, top, recall = done.stdout.split()
        tops.append(int(top))
        full = images**2 * 4 / MIB
        print(f"{images:>8,} {seconds:>9} {peak:>9} {top:>7} {full:>16,.0f} {recall:>7}", flush=True)
    return int(tops[-1] > tops[0] + ALLOWED)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _memory(name: str) -> float:
    """MiB of resident memory, now (VmRSS) or at its highest (VmHWM), as Linux counts it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


if __name__ == "__main__":
    sys.exit(main())
