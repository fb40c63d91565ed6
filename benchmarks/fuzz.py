"""Broken inputs through every record reader and the decoder: no crash, no hang, no memory blow-up.

python -m benchmarks.fuzz --inputs 100000 [--seed 0] [--keep FOLDER]

Each reader gets an equal share of the inputs, made of small valid files by `benchmarks.mutations`. A worker process
per reader plans and reads each input as `lit-embed` would, with limits of 1 MiB and 1 megapixel a record, and says how
far it is; this process watches. Found is: an exception that is not one of the documented ones, the end of the process,
an input that takes more than 20 seconds, a peak of resident memory 400 MB above that before the first input. `--keep`
writes the offending input to a folder. Exit status 1 when anything was found.
"""

import argparse
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from benchmarks.fuzz_seeds import SEEDS
from benchmarks.mutations import mutated
from lit_precompute.config import SourceConfig
from lit_precompute.decode import DecodeError, DecodeLimits, decode
from lit_precompute.records import DamagedInput, Record
from lit_precompute.sources import SOURCES
from lit_precompute.sources.listing import Listing
from lit_precompute.units import Slice, Unit

MAX_RECORD_BYTES = 1 << 20
MAX_PIXELS = 1 << 20
MAX_SECONDS = 20.0  # for one input; the machine may be busy
MAX_GROWTH = 400  # MB of resident memory
FOLDER = "memory://fuzz"


@dataclass
class Found:
    """What one reader did.

    Attributes:
        inputs: put through it.
        records: that came out, good or failed.
        damaged: inputs that were called damaged.
        seconds: in all.
        growth: MB of resident memory, at most.
        problems: a line each.
    """

    inputs: int = 0
    records: int = 0
    damaged: int = 0
    seconds: float = 0.0
    growth: float = 0.0
    problems: list[str] | None = None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--reader", choices=SEEDS, help="only this one")
    parser.add_argument("--worker", type=int, nargs=2, metavar=("FIRST", "LAST"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(options.reader, options.seed, *options.worker)
        return 0
    readers = [options.reader] if options.reader else list(SEEDS)
    share = -(-options.inputs // len(readers))
    print(f"{'reader':18} {'inputs':>8} {'records':>9} {'damaged':>8} {'seconds':>8} {'MB more':>8}")
    totals, problems = 0, []
    started = time.monotonic()
    for reader in readers:
        found = watch(reader, options.seed, share, options.keep)
        print(
            f"{reader:18} {found.inputs:8,} {found.records:9,} {found.damaged:8,} {found.seconds:8.1f} "
            f"{found.growth:8.1f}",
            flush=True,
        )
        totals += found.inputs
        problems += found.problems or []
    for problem in problems:
        print(f"found  {problem}")
    print(f"{totals:,} inputs in {time.monotonic() - started:,.0f} s, {len(problems)} problems")
    return 1 if problems else 0


def watch(reader: str, seed: int, count: int, keep: Path | None = None) -> Found:
    """Puts `count` inputs through a reader in a process of its own, past every input that ends or stops it."""
    total, first, problems = Found(), 0, []
    started = time.monotonic()
    while first < count:
        done, what = _run(reader, seed, first, count, total)
        if what is not None:
            problems.append(f"{reader} input {first + done} of seed {seed}: {what}")
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{reader}-{seed}-{first + done}").write_bytes(an_input(reader, seed, first + done))
            done += 1
        first += done
    total.inputs, total.seconds, total.problems = first, time.monotonic() - started, problems
    if total.growth > MAX_GROWTH:
        problems.append(
            f"{reader}: resident memory grew by {total.growth:,.0f} MB, the limit is {MAX_GROWTH}"
        )
    return total


def _run(reader: str, seed: int, first: int, last: int, total: Found) -> tuple[int, str | None]:
    """How many inputs went well, and what stopped the worker before the last."""
    command = [sys.executable, "-X", "faulthandler", "-m", "benchmarks.fuzz", "--reader", reader]
    command += ["--seed", str(seed), "--worker", str(first), str(last)]
    done = records = damaged = growth = 0
    problem = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            kind, _, rest = line.strip().partition(" ")
            if kind == "ok":
                done, records, damaged, growth = (int(float(word)) for word in rest.split())
            elif kind == "found":
                problem = rest
        process.wait()
    total.records, total.damaged = total.records + records, total.damaged + damaged
    total.growth = max(total.growth, growth)
    if done < last - first:
        problem = problem or f"the process ended with {process.returncode}"
    return done, problem


def an_input(reader: str, seed: int, number: int) -> bytes:
    """Input `number` of a reader; it depends on nothing else."""
    return mutated(random.Random(f"{reader} {seed} {number}"), SEEDS[reader].whole())


def _work(reader: str, seed: int, first: int, last: int) -> None:
    """Reads inputs one after another; `ok` lines say how many, a `found` line why no more."""
    import faulthandler

    records = damaged = 0
    list(outcomes(reader, SEEDS[reader].whole()[0]))  # imports and caches come before the clock and the scale
    before = _peak_mb()
    for number in range(first, last):
        faulthandler.dump_traceback_later(MAX_SECONDS, exit=True)
        try:
            for outcome in outcomes(reader, an_input(reader, seed, number)):
                records += outcome is None
                damaged += outcome is not None
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"found {type(error).__name__}: {str(error)[:200]!r} at {where.filename}:{where.lineno}")
            return
        finally:
            faulthandler.cancel_dump_traceback_later()
        print(f"ok {number + 1 - first} {records} {damaged} {_peak_mb() - before}", flush=True)


def outcomes(reader: str, data: bytes) -> Iterator[str | None]:
    """None for each record, a word for damage; anything raised is a problem."""
    seed = SEEDS[reader]
    if seed.format is None:
        with suppress(DecodeError):
            decode(data, DecodeLimits(MAX_PIXELS, MAX_RECORD_BYTES), "pillow")
        with suppress(DecodeError):
            decode(data, DecodeLimits(MAX_PIXELS, MAX_RECORD_BYTES), "reference")
        yield None
        return
    path = f"/fuzz/{seed.name}"
    files: Any = fsspec.filesystem("memory")
    files.pipe(path, data)
    for name, beside in seed.beside.items():
        files.pipe(f"/fuzz/{name}", beside)
    version = str(time.monotonic_ns())  # some readers remember a file they have parsed
    whole = Slice(f"memory:/{path}", len(data), version)
    files_beside = [Slice(f"{FOLDER}/{name}", len(beside), version) for name, beside in seed.beside.items()]
    files_listed = (*files_beside, whole) if seed.format == "folder" else (whole,)
    config = SourceConfig((FOLDER,), seed.format, **seed.flags)
    for unit in _units(seed.format, files_listed, config):
        try:
            for record in SOURCES[seed.format].read_unit(unit, config, None, MAX_RECORD_BYTES):
                assert isinstance(record, Record)
                assert record.image is None or len(record.image) <= MAX_RECORD_BYTES
                yield None
        except DamagedInput as damage:
            yield damage.detail


def _units(format: str, files: tuple[Slice, ...], config: SourceConfig) -> list[Unit]:
    """As planning cuts the input; where planning refuses it, the whole as one unit."""
    try:
        pieces = SOURCES[format].list_slices(Listing(files, FOLDER), config, 1 << 14, None)
    except ValueError:
        pieces = [files]
    return [Unit(0, number, tuple(piece), FOLDER) for number, piece in enumerate(pieces)]


def _peak_mb() -> float:
    """Most resident memory of this process so far."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


if __name__ == "__main__":
    sys.exit(main())
