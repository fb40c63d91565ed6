"""Images that end the process or hang it, through the real command: they fail, everything else is kept."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from schemas.manifest import ImagesManifest
from schemas.store import open_store
from tests.pipelines.launcher import Launcher

Rows = list[dict[str, Any]]

# What follows the end of an image is ignored by decoders, so the last bytes can say what this one shall do. Every
# Python of a run reads this file at its start, the processes that decode too.
DEADLY = """
import os, signal, time
import lit_precompute.decode as module
real = module.decode

def decode(image, limits, family="pillow"):
    word = bytes(image[-4:])
    if word == b"EXIT":
        os._exit(7)
    if word == b"SEGV":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == b"HANG":
        time.sleep(10_000)
    return real(image, limits, family)

module.decode = decode
"""


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Runs `lit-embed` in processes whose decoder is deadly."""
    folder = tmp_path_factory.mktemp("deadly")
    (folder / "sitecustomize.py").write_text(DEADLY)
    with Launcher(folder, path=(folder,)) as one:
        yield one


def poisoned(rows: Rows, words: dict[int, bytes]) -> Rows:
    return [dict(row, image=row["image"] + words.get(n, b"")) for n, row in enumerate(rows)]


def arguments(source: Path, store: Path, *more: str) -> list[str]:
    return [
        *("--input", str(source), "--format", "parquet", "--tower-id", "t", "--unit-bytes", "1"),
        *("--batch-size", "5", "--decode-threads", "4", "--output", str(store), *more),
    ]


def failures_of(store: Path) -> list[tuple[str, str, str]]:
    rows = pq.read_table(store / "images" / "t" / "failures.parquet").to_pylist()
    return [(row["id"], row["stage"], row["reason"]) for row in rows]


def test_images_that_end_the_process_cost_one_more_run_and_themselves(
    tmp_path: Path,
    colour_rows: Rows,
    write_rows: Callable[..., Path],
    launcher: Launcher,
    embed: Callable[..., int],
) -> None:
    rows = poisoned(colour_rows, {2: b"SEGV", 5: b"EXIT", 6: b"EXIT", 9: b"HANG"})
    for part in range(3):
        write_rows(tmp_path / "input" / f"{part}.parquet", rows[4 * part : 4 * part + 4])
    flags = arguments(tmp_path / "input", tmp_path / "store", "--decode-timeout", "2")
    assert launcher.run(*flags) in (-11, 7), launcher.output  # it died
    marks = [path.name for path in (tmp_path / "store" / "images" / "t" / "_receipts").glob("*.attempt")]
    assert marks
    assert launcher.run(*flags) == 0, launcher.output
    assert "An earlier run died while it worked on 1 unit." in launcher.output
    assert "failed     crash 3, timeout 1" in launcher.output
    assert failures_of(tmp_path / "store") == [
        ("square-02", "decode", "crash"),
        ("square-05", "decode", "crash"),
        ("square-06", "decode", "crash"),
        ("square-09", "decode", "timeout"),
    ]
    assert not (tmp_path / "store" / "images" / "t" / "_receipts").exists()
    # The eight others have the very rows that they have when nothing happens.
    for part in range(3):
        write_rows(tmp_path / "clean" / f"{part}.parquet", colour_rows[4 * part : 4 * part + 4])
    assert embed(*arguments(tmp_path / "clean", tmp_path / "other")) == 0
    kept = [n for n in range(12) if n not in (2, 5, 6, 9)]
    assert vectors_of(tmp_path / "store") == {
        id: vector for id, vector in vectors_of(tmp_path / "other").items() if int(id[-2:]) in kept
    }
    pairs = [row for part in range(3) for row in pairs_of(tmp_path / "store", part)]
    assert [row["id"] for row in pairs] == [row["key"] for row in rows]  # their texts are kept
    assert all(len(row["image_sha256"]) == 32 for row in pairs)


def test_images_that_hang_cost_two_time_limits_in_the_same_run(
    tmp_path: Path,
    colour_rows: Rows,
    write_rows: Callable[..., Path],
    launcher: Launcher,
) -> None:
    write_rows(tmp_path / "input" / "x.parquet", poisoned(colour_rows, {0: b"HANG", 7: b"HANG"}))
    flags = arguments(tmp_path / "input", tmp_path / "store", "--decode-timeout", "2")
    assert launcher.run(*flags) == 0, launcher.output
    assert failures_of(tmp_path / "store") == [
        ("square-00", "decode", "timeout"),
        ("square-07", "decode", "timeout"),
    ]
    counts = ImagesManifest.from_json((tmp_path / "store/images/t/manifest.json").read_bytes()).counts
    assert [counts[name] for name in ("seen", "embedded", "failed", "duplicate")] == [12, 10, 2, 0]
    assert "x.parquet#0: decoding takes longer than 2 s" in launcher.output


def vectors_of(store: Path) -> dict[str, list[float]]:
    joined = open_store(str(store)).images("t").iter_joined()
    return {
        id: part.embeddings[n, 0].tolist() for part in joined for n, id in enumerate(part.ids.to_pylist())
    }


def pairs_of(store: Path, part: int) -> Rows:
    return pq.read_table(store / "pairs" / f"pairs-g000-{part:05}.parquet").to_pylist()
