"""Small inputs for the readers, which never decode: any bytes serve as an image."""

import io
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from lit_precompute.config import SourceConfig
from lit_precompute.plan import make_plan
from lit_precompute.records import DamagedInput, Record
from lit_precompute.sources import SOURCES


@pytest.fixture
def read_all() -> Callable[..., tuple[list[Record], DamagedInput | None]]:
    """Plans and reads everything a config means: the records, and the damage if there was any."""

    def read(config: SourceConfig, max_bytes: int = 64 << 20) -> tuple[list[Record], DamagedInput | None]:
        records: list[Record] = []
        damage = None
        for unit in make_plan(config).units:
            try:
                records.extend(
                    _kept(SOURCES[config.format].read_unit(unit, config, max_bytes=max_bytes), records)
                )
            except DamagedInput as found:
                damage = found
        return records, damage

    return read


def _kept(found: Iterable[Record], records: list[Record]) -> Sequence[Record]:
    for record in found:
        records.append(record)
    return ()


def tar_bytes(members: Iterable[tuple[str, bytes]], format: int = tarfile.GNU_FORMAT) -> bytes:
    """An archive of regular files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def write_tar(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, members: Iterable[tuple[str, bytes]], format: int = tarfile.GNU_FORMAT) -> Path:
        path = tmp_path / name
        path.write_bytes(tar_bytes(members, format))
        return path

    return write
