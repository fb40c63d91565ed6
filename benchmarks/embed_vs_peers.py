"""`lit-embed` against clip-retrieval and Ray Data: the same pictures, ViT-B/32 of equal weights, the same threads.

    pip install 'lit-precompute[embed,bench]'
    pip install --no-deps clip-retrieval all_clip
    python -m benchmarks.embed_vs_peers [--images 832] [--rounds 3]

clip-retrieval pins NumPy 1 and an old pyarrow, which nothing it does here needs; hence `--no-deps`, and the extra
brings what it imports. Pictures are drawn (500 x 375 JPEGs), weights are random and written in open_clip's format for
the peers and in Hugging Face's for us; nothing is fetched.

Engines take turns, each in a process of its own on all cores: the bare forward of open_clip's model on pixels that lie
ready; clip-retrieval's reader, mapper and writer; Ray Data's `read_images`, `map`, `map_batches` and `write_parquet`;
the command `lit-embed`, and the same with `--compute-dtype bfloat16`, which the peers lack on processors. The others
compute in float32. Prints images/s of the whole command, and the steady rate from the end of the first batch to the end
of the last, in which no start-up counts; then medians of the ratios to the better peer of the same round, of both.
Checks that all gave the same vectors. Exits non-zero when the steady rate is not ahead by 15 % in float32, the type all
of them compute in. Few batches flatter the steady rate of engines that decode many ahead.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.clip_weights import write_hugging_face, write_open_clip
from benchmarks.launch import Launch, launch, watched
from benchmarks.peers import clip_retrieval_vectors, ray_vectors
from benchmarks.pictures import jpeg

WIDTH, HEIGHT = 500, 375
BARE, PEERS = "torch", ("clip-retrieval", "ray-data")
OURS = ("lit-embed", "lit-embed bfloat16")
LEAST, LEAST_COSINE = 1.15, 0.999


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=832)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--engine", action="append", choices=[BARE, *PEERS, *OURS], help="default: all")
    options = parser.parse_args()
    engines = options.engine or [BARE, *PEERS, *OURS]
    runs: dict[str, list[Launch]] = {name: [] for name in engines}
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), options.images, options.batch_size)
        for number in range(options.rounds):
            for name in engines if number % 2 else reversed(engines):
                runs[name].append(one := place.run(name, f"{name}-{number}".replace(" ", "-")))
                rate = one.rate(options.batch_size)
                print(f"{name:>26}: {rate:6.1f} images/s in round {number + 1}", file=sys.stderr, flush=True)
        agreed = place.least_cosine([name for name in engines if name != BARE])
    rates = {name: [one.rate(options.batch_size) for one in found] for name, found in runs.items()}
    whole = {name: [options.images / one.ended for one in found] for name, found in runs.items()}
    for name in engines:
        print(f"{name:>26}: {told(whole[name])} images/s, steady {told(rates[name])}")
    print(f"{'vectors':>26}: least cosine between engines {agreed:.5f} (least: {LEAST_COSINE})")
    if missing := {*OURS, *PEERS} - set(engines):
        print(f"{'ratio':>26}: none without {', '.join(sorted(missing))}")
        return 0 if agreed >= LEAST_COSINE else 1
    best, best_whole = (
        [max(pair) for pair in zip(*(found[name] for name in PEERS), strict=True)] for found in (rates, whole)
    )
    for name in OURS:
        tell_ratio(name, whole[name], best_whole)
    ratio, _ = (tell_ratio(f"{name}, steady", rates[name], best) for name in OURS)
    print(f"{'asked':>26}: {LEAST} of {OURS[0]}, steady")
    return 0 if ratio >= LEAST and agreed >= LEAST_COSINE else 1


def told(rates: list[float]) -> str:
    return f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"


def tell_ratio(name: str, ours: list[float], best: list[float]) -> float:
    """Prints and returns the median of our rates over those of each round's better peer."""
    ratios = [rate / peer for rate, peer in zip(ours, best, strict=True)]
    ratio = statistics.median(ratios)
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{name:>26}: {ratio:.2f} of the better peer of the round ({spread})")
    return ratio


class Place:
    """Pictures and weights on disk, and where each run writes.

    Args:
        folder: empty.
        images: how many to draw.
        batch: images a forward.
    """

    def __init__(self, folder: Path, images: int, batch: int) -> None:
        self.folder, self.batch = folder, batch
        self.threads = len(os.sched_getaffinity(0))
        self.pictures = folder / "pictures"
        self.pictures.mkdir()
        for number in range(images):
            (self.pictures / f"{number:06}.jpg").write_bytes(jpeg(number, WIDTH, HEIGHT))
        self.open_clip = write_open_clip(folder / "vit-b-32.pt")
        self.hugging_face = write_hugging_face(folder / "vit-b-32", self.open_clip)
        self.outputs: dict[str, Path] = {}

    def run(self, engine: str, output: str) -> Launch:
        """One engine over all pictures."""
        self.outputs[engine] = path = self.folder / output
        if engine in OURS:
            flags = ["--input", str(self.pictures), "--format", "folder", "--output", str(path)]
            flags += ["--tower", "clip", "--checkpoint", str(self.hugging_face)]
            flags += ["--batch-size", str(self.batch), "--decode-threads", str(self.threads)]
            flags += ["--compute-dtype", "bfloat16"] if engine.endswith("bfloat16") else []
            return launch(flags, {"JAX_PLATFORMS": "cpu"})
        given = [str(one) for one in (self.pictures, self.open_clip, path, self.batch, self.threads)]
        return watched("benchmarks.peers", [engine, *given])

    def least_cosine(self, engines: list[str]) -> float:
        """Between the first engine's vector of a picture and another's; 1 for a single engine."""
        theirs = {"clip-retrieval": clip_retrieval_vectors, "ray-data": ray_vectors}
        readers = {name: theirs.get(name, our_vectors) for name in engines}
        found = [{stem: unit(v) for stem, v in readers[name](self.outputs[name])} for name in engines]
        assert all(one.keys() == found[0].keys() for one in found), "every engine must embed every picture"
        return min((float(one[stem] @ found[0][stem]) for one in found[1:] for stem in one), default=1.0)


def our_vectors(store: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Stem of a picture and its vector."""
    for part in sorted(store.glob("images/*/embeddings-*.parquet")):
        table = pq.read_table(part, columns=["id", "embedding"])
        for id, vector in zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True):
            yield Path(id).stem, np.asarray(vector, np.float32)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


if __name__ == "__main__":
    sys.exit(main())
