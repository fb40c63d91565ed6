"""WebDataset tar archives: consecutive members with one key make one record."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from lit_precompute.config import SourceConfig
from lit_precompute.records import DamagedInput, Record
from lit_precompute.sources.damage import read_past_damage
from lit_precompute.sources.fields import (
    MAX_CAPTION_BYTES,
    Texts,
    caption_kinds,
    label_of_text,
    read_json_object,
)
from lit_precompute.sources.image_files import READ
from lit_precompute.sources.listing import Listing
from lit_precompute.sources.opening import InputStream
from lit_precompute.sources.tar_stream import Member, MissingEndMark, members
from lit_precompute.units import Slice, Unit, printable
from schemas.storage import StorageOptions

SUFFIXES = (".tar", ".tar.gz", ".tgz")
_TEXT_SUFFIXES = ("txt", "json", "cls")


def list_slices(
    listing: Listing, config: SourceConfig, unit_bytes: int, options: StorageOptions | None = None
) -> list[tuple[Slice, ...]]:
    """One archive, one unit: a tar can only be read from its beginning."""
    return [(file,) for file in listing.files]


def read_unit(
    unit: Unit, config: SourceConfig, options: StorageOptions | None = None, max_bytes: int = 64 << 20
) -> Iterator[Record]:
    """The records of a unit's archives, in order.

    The key, which is the id, is the member's path up to the first dot of its last component. Of one key

    - the image is the first member with an image suffix, in any case; or, of `--image-suffixes`, the one named first;
    - the caption is `.txt` (one final line break is not part of it), or else the JSON fields of `--caption-column`;
      or the first of `--caption-suffixes` that is there, `json` meaning those fields;
    - labels are `.cls` (an integer is a class index, other text a name) and the JSON field of `--label-column`;
    - metadata is the text of `.json`.

    A suffix that comes again begins another record of the same key. Members with other suffixes, and names that
    are hidden or have no suffix, are passed over.

    Args:
        unit: its slices are whole archives.
        config: which JSON fields are read.
        options: fsspec options by protocol.
        max_bytes: a larger image is never read and its record says so.

    Raises:
        DamagedInput: after every record that was whole; the one in hand where the archive broke is left out.
        OSError: storage trouble that stayed, or a file that is not the one planned.
    """
    positions = count()
    return read_past_damage(
        partial(_read_archive, part, config, options, max_bytes, positions) for part in unit.slices
    )


def split_key(name: str) -> tuple[str, str] | None:
    """(key, suffix in lower case) of a member's name, or None when it has none.

    >>> split_key("dir.with.dots/000123.seg.PNG")
    ('dir.with.dots/000123', 'seg.png')
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    return (f"{folder}{slash}{stem}", suffix.lower()) if stem and dot else None


@dataclass(frozen=True)
class _Suffixes:
    """Which members are read."""

    images: tuple[str, ...]
    texts: frozenset[str]
    is_ranked: bool  # the earlier image suffix is the better one; else the first member is

    @classmethod
    def of(cls, config: SourceConfig) -> "_Suffixes":
        texts = frozenset((*_TEXT_SUFFIXES, *config.caption_suffixes))
        return cls(config.image_suffixes or READ, texts, bool(config.image_suffixes))

    def rank(self, suffix: str) -> int:
        return self.images.index(suffix) if self.is_ranked else 0


@dataclass
class _Group:
    """The members of one key so far."""

    key: str
    first_name: str
    image: bytes | None = None
    image_name: str | None = None
    image_bytes: int = 0
    image_rank: int = 0
    texts: dict[str, bytes | None] = field(default_factory=dict)  # by suffix; None: too large to read
    suffixes: set[str] = field(default_factory=set)


def _read_archive(
    part: Slice,
    config: SourceConfig,
    options: StorageOptions | None,
    max_bytes: int,
    positions: Iterator[int],
) -> Iterator[Record]:
    with InputStream(part, options) as stream:
        for group in _groups(members(stream, stream.name), _Suffixes.of(config), max_bytes):
            yield _record(group, stream.name, config, max_bytes, next(positions))


def _groups(found: Iterator[Member], wanted: _Suffixes, max_bytes: int) -> Iterator[_Group]:
    group: _Group | None = None
    try:
        for member in found:
            split = split_key(member.name)
            if split is None or (split[1] not in wanted.texts and split[1] not in wanted.images):
                continue
            key, suffix = split
            if group is not None and (group.key != key or suffix in group.suffixes):
                yield group
                group = None
            group = group or _Group(key, member.name)
            _add(group, member, suffix, wanted, max_bytes)
    except MissingEndMark:
        if group is not None:
            yield group
        raise
    except DamagedInput as damage:
        if group is not None:
            raise DamagedInput(damage.path, f"{damage.detail}, after {printable(group.key)[:80]!r}") from None
        raise
    if group is not None:
        yield group


def _add(group: _Group, member: Member, suffix: str, wanted: _Suffixes, max_bytes: int) -> None:
    group.suffixes.add(suffix)
    if suffix in wanted.texts:
        group.texts[suffix] = member.read() if member.size <= MAX_CAPTION_BYTES else None
    elif group.image_name is None or wanted.rank(suffix) < group.image_rank:
        group.image_rank = wanted.rank(suffix)
        group.image_name = member.name
        group.image_bytes = member.size
        group.image = member.read() if member.size <= max_bytes else None


def _record(group: _Group, archive: str, config: SourceConfig, max_bytes: int, position: int) -> Record:
    problem = None
    if group.image_bytes > max_bytes:
        problem = ("read", "too_many_bytes", f"{group.image_bytes:,} bytes, the limit is {max_bytes:,}")
    id: str | None = group.key
    if printable(group.key) != group.key:
        id, problem = None, ("id", "not_utf8", printable(group.key)[:200])
    return Record(
        position=position,
        locator=f"{archive}#{printable(group.image_name or group.first_name)}",
        id=id,
        image=None if problem else group.image,
        problem=problem,
        **_texts(group, config).as_fields(),
    )


def _texts(group: _Group, config: SourceConfig) -> Texts:
    texts = Texts()
    fields, texts.metadata = read_json_object(group.texts.get("json") or b"")
    _add_captions(texts, group, fields, config)
    if (label := group.texts.get("cls")) is not None:
        texts.add_labels(label_of_text(label.decode("utf-8", "replace")))
    if config.label_column is not None:
        texts.add_labels(fields.get(config.label_column))
    return texts


def _add_captions(texts: Texts, group: _Group, fields: dict[str, object], config: SourceConfig) -> None:
    order = config.caption_suffixes or ("txt", "json")
    for suffix in order:
        if suffix == "json" and any(fields.get(name) is not None for name in config.caption_column):
            break
        if suffix != "json" and suffix in group.texts:
            add_text_file(texts, group.texts[suffix])
            return
    if "json" in order:
        add_json_captions(texts, fields, config)
    else:
        texts.note("missing")


def add_text_file(texts: Texts, data: bytes | None) -> None:
    """The caption of a `.txt`; None stands for one too large to read."""
    if data is None:
        texts.note("too_many_bytes")
    else:
        texts.add_captions(data.removesuffix(b"\n").removesuffix(b"\r"))


def add_json_captions(texts: Texts, fields: dict[str, object], config: SourceConfig) -> None:
    """The captions in the JSON fields of `--caption-column`."""
    for name, kind in caption_kinds(config.caption_column):
        texts.add_captions(fields.get(name), kind)
