import gzip
import io
import tarfile

import pytest

from lit_precompute.records import DamagedInput
from lit_precompute.sources.tar_stream import MissingEndMark, members

SAMPLE = [("a.jpg", b"x" * 700), ("a.txt", b"caption"), ("b.jpg", b"")]


def archive(entries, format: int = tarfile.GNU_FORMAT, **pax) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for entry in entries:
            info = entry if isinstance(entry, tarfile.TarInfo) else tarfile.TarInfo(entry[0])
            data = b"" if isinstance(entry, tarfile.TarInfo) else entry[1]
            if not isinstance(entry, tarfile.TarInfo):
                info.size = len(data)
            info.pax_headers = pax
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def read(data: bytes) -> tuple[list[tuple[str, bytes]], DamagedInput | None]:
    found: list[tuple[str, bytes]] = []
    try:
        for member in members(io.BytesIO(data), "x.tar"):
            found.append((member.name, member.read()))
    except DamagedInput as damage:
        return found, damage
    return found, None


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_regular_members(format: int) -> None:
    assert read(archive(SAMPLE, format)) == (SAMPLE, None)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(format: int) -> None:
    entries = [("d/" * 200 + "a.jpg", b"1"), ("clé/鍵.jpg", b"2"), ("bad\udce9.jpg", b"3"), ("n.jpg", b"4")]
    assert read(archive(entries, format)) == (entries, None)


def test_gzip_and_archives_one_behind_another() -> None:
    assert read(gzip.compress(archive(SAMPLE))) == (SAMPLE, None)
    assert read(archive(SAMPLE) + archive(SAMPLE)) == (SAMPLE * 2, None)


def test_members_need_not_be_read() -> None:
    names = [member.name for member in members(io.BytesIO(archive(SAMPLE)), "x.tar")]
    assert names == ["a.jpg", "a.txt", "b.jpg"]


def test_only_regular_files_count() -> None:
    entries: list = [("a.jpg", b"1")]
    kinds = (
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.DIRTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
    )
    for kind in kinds:
        info = tarfile.TarInfo("evil.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        entries.append(info)
    assert read(archive([*entries, ("b.jpg", b"2")])) == ([("a.jpg", b"1"), ("b.jpg", b"2")], None)
    sparse = archive([("a.jpg", b"1")], tarfile.PAX_FORMAT, **{"GNU.sparse.realsize": "9" * 15})
    assert read(sparse + archive([("b.jpg", b"2")])) == ([("b.jpg", b"2")], None)


def test_a_cut_at_every_place_is_seen() -> None:
    data = archive(SAMPLE)
    length = 512 * 7 - 512  # three headers, two blocks and one block of data
    for end in range(0, length, 37):
        found, damage = read(data[:end])
        assert damage is not None, end
        assert found == SAMPLE[: len(found)]
    assert isinstance(read(data[:length])[1], MissingEndMark)
    assert read(data[:length])[0] == SAMPLE
    assert read(data[: length + 512]) == (SAMPLE, None)
    assert read(data[: length + 700]) == (SAMPLE, None)


def test_a_broken_header_in_the_middle_is_not_the_end() -> None:
    data = bytearray(archive(SAMPLE))
    data[512 * 3] ^= 1  # header of a.txt, behind a header and two blocks
    found, damage = read(bytes(data))
    assert found == SAMPLE[:1]
    assert str(damage) == "x.tar: at byte 1,536: broken header (bad checksum)"
    data[512 * 3 : 512 * 4] = bytes(512)
    found, damage = read(bytes(data))
    assert found == SAMPLE[:1]
    assert "no member behind an end mark" in str(damage)


def test_gzip_that_breaks_off() -> None:
    data = gzip.compress(archive([("a.jpg", bytes(range(256)) * 40), ("b.jpg", b"2")]), mtime=0)
    damage = read(data[: len(data) // 2])[1]
    assert damage is not None
    assert "compressed" in str(damage)


def _with_size(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo("a.jpg")
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE]
)
@pytest.mark.parametrize("size", [1 << 20, 1 << 33, 1 << 60])
def test_claimed_sizes_cost_nothing(kind: bytes, size: int) -> None:
    found, damage = read(_with_size(size, kind) + b"x" * 1000)
    assert found == []
    assert damage is not None


@pytest.mark.parametrize("size", ["-1", "many", "9" * 5000, "1e9", ""])
def test_extended_sizes_must_be_sizes(size: str) -> None:
    line = b" size=" + size.encode() + b"\n"
    length = next(n for n in range(len(line), len(line) + 9) if len(str(n)) + len(line) == n)
    record = str(length).encode() + line
    pax = _with_size(len(record), tarfile.XHDTYPE) + record + bytes(-len(record) % 512)
    found, damage = read(pax + archive(SAMPLE))
    assert found == []
    assert damage is not None
