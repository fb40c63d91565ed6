"""Decoding that ends its process, hangs, fails or works: every image gets what is its own, in order."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lit_precompute.decode import DecodeError, DecodeLimits
from lit_precompute.decode_pool import DecodePool
from lit_precompute.decode_process import DecodeProcess
from lit_precompute.prepare import Prepared
from lit_precompute.preprocess import Preprocess
from lit_precompute.records import Record
from tests.conftest import square

PREPROCESS = Preprocess("pillow", 8)
LIMITS = DecodeLimits()
DEADLY = """
import os, signal, time
from dataclasses import dataclass
from lit_precompute.preprocess import Preprocess

@dataclass(frozen=True)
class Deadly(Preprocess):
    folder: str = ""

    def __call__(self, image):
        with open(f"{self.folder}/{image.width}", "a") as file:
            file.write(f"{os.getpid()} ")
        if image.width == 11:
            os._exit(9)
        if image.width == 12:
            os.kill(os.getpid(), signal.SIGSEGV)
        if image.width == 13:
            time.sleep(1000)
        if image.width == 14:
            raise TypeError("a bug in the preprocessing")
        if image.width == 15 and not os.path.exists(f"{self.folder}/again"):
            open(f"{self.folder}/again", "w").close()
            os._exit(3)
        return super().__call__(image)
"""


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preprocess:
    """Preprocessing that ends the process, or hangs, on pictures of certain widths; tries are written to files."""
    (tmp_path / "deadly_preprocess.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(str(tmp_path))
    import deadly_preprocess  # type: ignore[import-not-found]

    return deadly_preprocess.Deadly("pillow", 8, folder=str(tmp_path))


def records(*widths: int) -> Iterator[Record]:
    for place, width in enumerate(widths):
        yield Record(place, f"x.parquet#{place}", f"id-{place}", square(place / 40, width))


def outcome(item: Prepared) -> str:
    if item.failure is not None:
        assert item.pixels is None
        assert item.width is None
        return item.failure.reason
    assert item.pixels is not None
    return "pixels"


def test_pixels_are_equal_whatever_decodes() -> None:
    images = [square(n / 7, 16 + 40 * n) for n in range(7)]
    with DecodePool(1, PREPROCESS, LIMITS, 60) as pool:
        wanted = list(pool.stream(records(*range(16, 60))))
    for isolated in (False, True):
        with DecodePool(3, PREPROCESS, LIMITS, 60, isolated) as pool:
            found = list(pool.stream(records(*range(16, 60))))
        assert [item.record.position for item in found] == list(range(44))
        for one, other in zip(found, wanted, strict=True):
            assert (one.sha256, one.width, one.height) == (other.sha256, other.width, other.height)
            assert one.pixels is not None
            assert one.pixels.dtype == np.uint8
            np.testing.assert_array_equal(one.pixels, other.pixels)
            assert one.record.image is None
    with DecodeProcess(PREPROCESS, LIMITS, 60) as process:
        assert [process.decode(image).width for image in images] == [16 + 40 * n for n in range(7)]


def test_the_guilty_fail_and_their_neighbours_are_kept(deadly: Preprocess, tmp_path: Path) -> None:
    widths = [16, 11, 17, 18, 12, 12, 19, 13, 20, 15, 21, 22]
    with DecodePool(4, deadly, LIMITS, 1.0, isolated=True) as pool:
        found = list(pool.stream(records(*widths)))
    reasons = {11: "crash", 12: "crash", 13: "timeout"}
    assert [outcome(item) for item in found] == [reasons.get(width, "pixels") for width in widths]
    details = {item.failure.position: item.failure.detail for item in found if item.failure is not None}
    assert details[1] == "decoding ended the process (exit status 9), 2 times"
    assert details[4] == "decoding ended the process (SIGSEGV), 2 times"
    assert details[7] == "decoding took longer than 1 s, 2 times"
    assert all(len(item.sha256) == 32 for item in found)
    for width, tries in ((11, 2), (12, 4), (13, 2), (15, 2), (16, 1), (22, 1)):
        assert len((tmp_path / str(width)).read_text().split()) == tries


def test_a_thread_that_hangs_costs_two_time_limits_and_its_own_record(
    deadly: Preprocess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    widths = [16, 13, *range(17, 40), 13, 40]
    started = time.monotonic()
    with caplog.at_level(logging.WARNING), DecodePool(1, deadly, LIMITS, 1.0) as pool:
        found = list(pool.stream(records(*widths)))
    assert time.monotonic() - started < 30
    assert [outcome(item) for item in found] == ["timeout" if width == 13 else "pixels" for width in widths]
    first, second = (tmp_path / "13").read_text().split()[:2]
    assert int(first) == os.getpid() != int(second)
    assert "x.parquet#1: decoding takes longer than 1 s; trying once more" in caplog.text


def test_slow_is_not_hung(deadly: Preprocess) -> None:
    """Records wait in the queue for longer than the limit; only the time in hand counts."""

    def slowly() -> Iterator[Record]:
        for record in records(*[16] * 8):
            time.sleep(0.2)
            yield record

    with DecodePool(1, PREPROCESS, LIMITS, 0.5) as pool:
        for item in pool.stream(slowly()):
            time.sleep(0.2)
            assert outcome(item) == "pixels"


@pytest.mark.parametrize("isolated", [False, True])
def test_a_bug_is_raised_not_counted(deadly: Preprocess, isolated: bool) -> None:
    with DecodePool(2, deadly, LIMITS, 60, isolated) as pool, pytest.raises(Exception, match="a bug in the"):
        list(pool.stream(records(16, 14, 17)))


def test_broken_images_keep_their_reasons_in_a_process() -> None:
    with DecodeProcess(PREPROCESS, DecodeLimits(max_pixels=1000), 60) as process:
        for image, reason in (
            (b"", "empty"),
            (b"x" * 100, "not_an_image"),
            (square(0, 99), "too_many_pixels"),
        ):
            with pytest.raises(DecodeError) as refused:
                process.decode(image)
            assert refused.value.reason == reason
        assert process.decode(square(0, 16)).values.shape == (1, 8, 8, 3)


def test_preprocessing_that_cannot_travel_runs_here() -> None:
    class Local(Preprocess):
        pass

    local = Local("pillow", 8)
    with DecodeProcess(local, LIMITS, 60) as process:
        found = process.decode(square(0.3, 20))
    assert (found.width, found.height) == (20, 20)
    with DecodeProcess(PREPROCESS, LIMITS, 60) as process:
        np.testing.assert_array_equal(found.values, process.decode(square(0.3, 20)).values)


def test_no_process_is_left(deadly: Preprocess, tmp_path: Path) -> None:
    with DecodePool(2, deadly, LIMITS, 60, isolated=True) as pool:
        assert len(list(pool.stream(records(16, 17, 16, 17)))) == 4
    pids = {int(pid) for width in (16, 17) for pid in (tmp_path / str(width)).read_text().split()}
    assert os.getpid() not in pids
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_process_loads_no_jax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "looking_preprocess.py").write_text(
        "import sys\n"
        "from lit_precompute.preprocess import Preprocess\n"
        "class Looking(Preprocess):\n"
        "    def __call__(self, image):\n"
        "        heavy = {'jax', 'apache_beam', 'tensorflow', 'pyarrow'} & set(sys.modules)\n"
        "        assert not heavy, heavy\n"
        "        return super().__call__(image)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import looking_preprocess  # type: ignore[import-not-found]

    with DecodeProcess(looking_preprocess.Looking("pillow", 8), LIMITS, 60) as process:
        assert process.decode(square(0.5)).values.shape == (1, 8, 8, 3)
