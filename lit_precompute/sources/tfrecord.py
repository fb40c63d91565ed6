"""TFRecord files of `tf.train.Example`, read without TensorFlow."""

import gzip
import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from lit_precompute.config import SourceConfig
from lit_precompute.records import DamagedInput, Record
from lit_precompute.sources.crc32c import crc32c_function, masked
from lit_precompute.sources.damage import read_past_damage
from lit_precompute.sources.fields import Texts, as_text, caption_kinds, metadata_of
from lit_precompute.sources.listing import Listing
from lit_precompute.sources.opening import InputStream
from lit_precompute.sources.parquet_columns import needed_columns
from lit_precompute.sources.tf_example import Values, feature_names, parse_example
from lit_precompute.units import Slice, Unit, bare_name, relative_name
from schemas.storage import StorageOptions

SUFFIXES = (".tfrecord", ".tfrecords", ".tfrec", ".tfrecord.gz", ".tfrecords.gz")
BESIDE_IMAGE = 16 << 20  # bytes an example may have beside its image
_CHUNK = 1 << 20
_CUT = (EOFError, gzip.BadGzipFile, zlib.error)


def list_slices(
    listing: Listing, config: SourceConfig, unit_bytes: int, options: StorageOptions | None = None
) -> list[tuple[Slice, ...]]:
    """One file, one unit.

    Raises:
        ValueError: the first readable example lacks the image or the id.
        OSError: storage trouble.
    """
    check_first_readable(listing.files, config, options)
    return [(file,) for file in listing.files]


def check_first_readable(
    files: Iterable[Slice], config: SourceConfig, options: StorageOptions | None = None
) -> None:
    """Raises ValueError when the first example that can be read lacks the image or the id."""
    for file in files:
        try:
            with InputStream(file, options) as stream:
                first = next(_examples(stream, 64 << 20), None)
            if first is None or first.data is None:
                continue
            names = feature_names(first.data)
        except (DamagedInput, ValueError):
            continue
        check_features(bare_name(file.path), names, config)
        return


def read_unit(
    unit: Unit, config: SourceConfig, options: StorageOptions | None = None, max_bytes: int = 64 << 20
) -> Iterator[Record]:
    """The examples of a unit's files, in order.

    Columns are features: the image is the first value of `--image-column`, captions are all values of each
    `--caption-column`, labels all of `--label-column`.

    Args:
        unit: its slices are whole files.
        config: which features are read.
        options: fsspec options by protocol.
        max_bytes: a larger image is not kept and its record says so.

    Raises:
        DamagedInput: after every example before the break; a wrong checksum of one example costs only that.
        OSError: storage trouble that stayed, or a file that is not the one planned.
    """
    positions = count()
    return read_past_damage(
        partial(read_file, part, unit.root, config, options, max_bytes, positions) for part in unit.slices
    )


@dataclass
class Example:
    """A serialized example, or why there is none.

    Attributes:
        number: in its file, from 0.
        data: None when it can not be read.
        problem: what was found then.
    """

    number: int
    data: bytes | None
    problem: str = ""


def read_file(
    part: Slice,
    root: str,
    config: SourceConfig,
    options: StorageOptions | None,
    max_bytes: int,
    positions: Iterator[int],
) -> Iterator[Record]:
    """The examples of one file, as `read_unit`."""
    with InputStream(part, options) as stream:
        examples = _examples(stream, max_bytes + BESIDE_IMAGE)
        yield from example_records(examples, part.path, root, config, max_bytes, positions)


def example_records(
    examples: Iterable[Example],
    path: str,
    root: str,
    config: SourceConfig,
    max_bytes: int,
    positions: Iterator[int],
) -> Iterator[Record]:
    """A record per example.

    Args:
        examples: of one file, in order.
        path, root: the file, and the folder its name is relative to.
        config: which features are read.
        max_bytes: a larger image is not kept and its record says so.
        positions: gives each record its place in the unit.
    """
    columns = needed_columns(config)
    for example in examples:
        features: dict[str, Values] = {}
        if example.data is not None:
            try:
                features = parse_example(example.data, columns)
            except ValueError as error:
                example.problem = f"not a tf.train.Example: {error}"
        yield _record(example, features, path, root, config, max_bytes, next(positions))


def _examples(stream: InputStream, most: int) -> Iterator[Example]:
    """The records of a file, plain or gzip: length, its checksum, data, their checksum."""
    file: Any = io.BufferedReader(stream, _CHUNK)
    checksum = crc32c_function()
    start = file.peek(12)[:12]
    if start[:2] == b"\x1f\x8b" and (len(start) < 12 or not _is_header(start, checksum)):
        file = gzip.GzipFile(fileobj=file)
    for number in count():
        try:
            header = file.read(12)
            if not header:
                return
            if len(header) < 12 or not _is_header(header, checksum):
                raise DamagedInput(stream.name, f"example {number:,}: broken header")
            size = int.from_bytes(header[:8], "little")
            data = _take(file, size, most)
            tail = file.read(4)
        except _CUT as error:
            if stream.failure is not None:
                raise stream.failure from None
            raise DamagedInput(stream.name, f"example {number:,}: compressed data ({error})") from None
        if len(tail) < 4:
            raise DamagedInput(stream.name, f"example {number:,}: cut off")
        if data is None:
            yield Example(number, None, f"{size:,} bytes, the limit is {most:,}")
        elif masked(checksum(data)) != int.from_bytes(tail, "little"):
            yield Example(number, None, "wrong checksum")
        else:
            yield Example(number, data)


def _is_header(header: bytes, checksum: Any) -> bool:
    return masked(checksum(header[:8])) == struct.unpack("<I", header[8:12])[0]


def _take(file: Any, size: int, most: int) -> bytes | None:
    """The next bytes; those of too large an example are passed over and None is returned."""
    pieces: list[bytes] = []
    left = size
    while left and (piece := file.read(min(left, _CHUNK))):  # a false size costs no memory the file has not
        left -= len(piece)
        if size <= most:
            pieces.append(piece)
    return b"".join(pieces) if size <= most else None


def _record(
    example: Example,
    features: dict[str, Values],
    path: str,
    root: str,
    config: SourceConfig,
    max_bytes: int,
    position: int,
) -> Record:
    problem = ("read", "malformed", example.problem) if example.problem else None
    if config.id_column:
        id, problem = _id(features, config.id_column, problem)
    else:
        id = f"{relative_name(path, root)}/{example.number}"
    image = next((value for value in features.get(config.image_column, ()) if isinstance(value, bytes)), None)
    if image is not None and len(image) > max_bytes:
        problem = problem or ("read", "too_many_bytes", f"{len(image):,} bytes, the limit is {max_bytes:,}")
    return Record(
        position=position,
        locator=f"{bare_name(path)}#{example.number}",
        id=id,
        image=None if problem else image,
        problem=problem,
        **_texts(features, config).as_fields(),
    )


def _id(
    features: dict[str, Values], name: str, problem: tuple[str, str, str] | None
) -> tuple[str | None, tuple[str, str, str] | None]:
    if problem is not None:
        return None, ("id", *problem[1:])
    value = next(iter(features.get(name, ())), None)
    if isinstance(value, bytes):
        text = as_text(value)
        return text, None if text is not None else ("id", "not_utf8", repr(value[:80]))
    return (str(value) if isinstance(value, int) else None), None


def _texts(features: dict[str, Values], config: SourceConfig) -> Texts:
    texts = Texts()
    for name, kind in caption_kinds(config.caption_column):
        texts.add_captions(features.get(name), kind)
    if config.label_column is not None:
        texts.add_labels(features.get(config.label_column))
    if config.metadata_columns:
        kept = {name: features.get(name, []) for name in config.metadata_columns}
        texts.metadata = metadata_of({name: v[0] if len(v) == 1 else v for name, v in kept.items()})
    return texts


def check_features(file: str, names: list[str], config: SourceConfig) -> None:
    """Raises ValueError when an example's features lack the image or the id."""
    wanted = {"--image-column": config.image_column, "--id-column": config.id_column}
    if lacking := [f"{flag} {name!r}" for flag, name in wanted.items() if name and name not in names]:
        raise ValueError(
            f"{file}: its first example must have {' and '.join(lacking)}, found features "
            f"{', '.join(map(repr, names[:50])) or 'none'}. An empty --id-column makes ids <file>/<row>."
        )
