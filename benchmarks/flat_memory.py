"""Memory and time that stage 1 takes beside decoding: many tiny records through a tower that costs nothing.

    python -m benchmarks.flat_memory [--records 100000]

Prints the peak of resident memory after a tenth of the records and after all of them, and the milliseconds an image
takes above its decoding, of the wall clock and of the processors. Exits non-zero when the peak grows by over 64 MiB in
between, or an image takes 1 ms or more above decoding by either clock (what else the machine does touches the first).
One thread decodes, so that the difference is what it says.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.pictures import jpeg
from lit_precompute.agreement import agree_plan
from lit_precompute.config import EmbedConfig, SourceConfig, TowerConfig, WorkConfig
from lit_precompute.decode import DecodeLimits
from lit_precompute.embed_unit import embed_unit
from lit_precompute.embedder import Embedder
from lit_precompute.job import open_job
from lit_precompute.pixels import pixels_of
from lit_precompute.preprocess import Preprocess
from lit_precompute.towers import Tower
from lit_precompute.views import Views
from schemas.manifest import TowerInfo

DIM, SIDE, PICTURES = 768, 32, 64
GROUP = 1000  # records of a row group
UNIT_BYTES = 4 << 20  # some thousand records: a tenth of all is several whole units
MOST_GROWTH, MOST_MS = 64.0, 1.0  # MiB, ms


def free_tower() -> Tower:
    """The mean colour, as often as it takes to fill a vector."""

    def forward(params: Any, pixels: jax.Array) -> jax.Array:
        return jnp.tile(pixels.astype(jnp.float32).mean((1, 2)), (1, DIM // 3)) + 1.0

    preprocess = Preprocess("pillow", SIDE, interpolation="bilinear")
    info = TowerInfo("free", {}, "random:0", "mean", preprocess.describe(), DIM)
    return Tower(info, preprocess, {}, forward)


def write_records(path: Path, count: int, pictures: list[bytes]) -> Path:
    """`count` records of a few pictures, in row groups."""
    schema = pa.schema([("key", pa.string()), ("image", pa.binary()), ("caption", pa.string())])
    with pq.ParquetWriter(path, schema, use_dictionary=False, compression="none") as writer:
        for start in range(0, count, GROUP):
            rows = [
                {"key": f"{n:09}", "image": pictures[n % len(pictures)], "caption": f"picture {n}"}
                for n in range(start, min(start + GROUP, count))
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema), row_group_size=GROUP)
    return path


def peak_mib() -> float:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def clocks() -> Iterator[list[float]]:
    """Seconds of the wall clock and of the processors that the block took."""
    taken = [time.perf_counter(), time.process_time()]
    yield taken
    taken[:] = [time.perf_counter() - taken[0], time.process_time() - taken[1]]


def decoding(tower: Tower, pictures: list[bytes], rounds: int = 40) -> list[float]:
    """Seconds an image takes to decode and resize, in a plain loop."""
    with clocks() as taken:
        for _ in range(rounds):
            for picture in pictures:
                pixels_of(picture, "", Views(tower.preprocess), DecodeLimits())
    return [seconds / (rounds * len(pictures)) for seconds in taken]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=100_000)
    count = parser.parse_args().records
    pictures, tower = [jpeg(n, 64, 48) for n in range(PICTURES)], free_tower()
    with tempfile.TemporaryDirectory() as folder:
        file = write_records(Path(folder) / "records.parquet", count, pictures)
        work = WorkConfig(decode_threads=1, unit_bytes=UNIT_BYTES)
        source = SourceConfig((str(file),), "parquet")
        config = EmbedConfig(source, TowerConfig("free", "random:0"), f"{folder}/store", work=work)
        plan, embedder = agree_plan(config, {}).plan, Embedder(tower, config.work.batch_size)
        job, before, early = open_job(config, tower.info, plan, {}), 0, 0.0
        plain = decoding(tower, pictures)

        def progress(seen: int) -> None:
            nonlocal early
            if not early and before + seen >= count // 10:
                early = peak_mib()

        with clocks() as taken:
            for unit in plan.units:
                receipt = embed_unit(job, unit, embedder, progress)
                assert receipt.status == "done", receipt
                before += receipt.seen
        late = peak_mib()
        assert before == count
    above = [1000 * (seconds / count - one) for seconds, one in zip(taken, plain, strict=True)]
    print(
        f"records    {count:,} in {len(plan.units)} units, {taken[0]:,.1f} s: {count / taken[0]:,.0f} images/s"
    )
    print(f"peak       {early:,.0f} MiB after {count // 10:,}, {late:,.0f} MiB after {count:,}")
    print(f"decoding   {1000 * plain[0]:.3f} ms an image, {1000 * plain[1]:.3f} ms of processors")
    print(
        f"above      {above[0]:.3f} ms an image, {above[1]:.3f} ms of processors (most of each: {MOST_MS:g})"
    )
    return 0 if late - early <= MOST_GROWTH and max(above) < MOST_MS else 1


if __name__ == "__main__":
    sys.exit(main())
