import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_precompute.config import SourceConfig
from lit_precompute.plan import make_plan
from lit_precompute.sources import opening, parquet
from lit_precompute.sources.opening import InputStream, read_whole, with_retries
from lit_precompute.units import Slice


class Flaky:
    """A filesystem whose reads fail now and then."""

    def __init__(self, data: bytes, failures: list[Exception]) -> None:
        self.data, self.failures, self.opened = data, failures, 0

    def open(self, path: str, mode: str) -> "FlakyFile":
        self.opened += 1
        return FlakyFile(self)

    def size(self, path: str) -> int:
        return len(self.data)


class FlakyFile(io.BytesIO):
    def __init__(self, owner: Flaky) -> None:
        super().__init__(owner.data)
        self.owner = owner

    def read(self, size: int | None = -1) -> bytes:
        if self.owner.failures:
            raise self.owner.failures.pop(0)
        return super().read(size)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Flaky], Flaky]:
    monkeypatch.setattr("schemas.retries.FIRST_WAIT", 0.0)

    def put(flaky: Flaky) -> Flaky:
        monkeypatch.setattr(opening, "filesystem", lambda path, options: (flaky, path))
        return flaky

    return put


def test_dropped_connections_are_retried_where_reading_stood(use) -> None:
    flaky = use(Flaky(b"0123456789", []))
    stream = InputStream(Slice("x://h/a", 10, ""))
    assert stream.read(4) == b"0123"
    flaky.failures += [ConnectionResetError("gone"), RuntimeError("503")]
    assert stream.read(4) == b"4567"
    assert flaky.opened == 3
    assert (stream.seek(-2, io.SEEK_END), stream.read(), stream.tell()) == (8, b"89", 10)


def test_trouble_that_stays_ends_as_oserror(use) -> None:
    flaky = use(Flaky(b"0123456789", []))
    stream = InputStream(Slice("x://h/a", 10, ""))
    flaky.failures += [RuntimeError("503")] * opening.ATTEMPTS
    with pytest.raises(OSError, match="a: RuntimeError: 503") as caught:
        stream.read()
    assert stream.failure is caught.value


def test_a_changed_file_is_not_read(use) -> None:
    use(Flaky(b"0123456789", []))
    with pytest.raises(OSError, match="must have 11 bytes as planned, found 10"):
        InputStream(Slice("x://h/a", 11, ""))


def test_missing_files_are_not_retried(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_whole(Slice(f"{tmp_path}/none", 1, ""))
    calls: list[int] = []
    with pytest.raises(PermissionError):
        with_retries(lambda: calls.append(1) or _raise(PermissionError("no")), "x")
    assert len(calls) == 1


def test_storage_trouble_inside_arrow_is_not_taken_for_damage(use, tmp_path: Path) -> None:
    table = pa.table({"key": ["a"], "image": [b"1"], "caption": ["c"]})
    pq.write_table(table, tmp_path / "a.parquet")
    config = SourceConfig((f"{tmp_path}/a.parquet",), "parquet")
    unit = make_plan(config).units[0]
    data = (tmp_path / "a.parquet").read_bytes()
    use(Flaky(data, [RuntimeError("503")] * 2))
    assert len(list(parquet.read_unit(unit, config))) == 1
    use(Flaky(data, [RuntimeError("503")] * 100))
    with pytest.raises(OSError, match="RuntimeError: 503"):
        list(parquet.read_unit(unit, config))


def _raise(error: Exception) -> None:
    raise error
