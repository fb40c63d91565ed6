"""A folder of image files with `.txt` or `.json` of the same stem beside them."""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, groupby

from lit_precompute.config import SourceConfig
from lit_precompute.records import Record
from lit_precompute.sources.fields import MAX_CAPTION_BYTES, Texts, caption_kinds, read_json_object
from lit_precompute.sources.image_files import IMAGE_SUFFIXES, NOT_READ
from lit_precompute.sources.listing import Listing, list_folder
from lit_precompute.sources.opening import read_whole
from lit_precompute.units import Slice, Unit, bare_name, printable, relative_name
from schemas.storage import StorageOptions

SUFFIXES = tuple(f".{suffix}" for suffix in (*IMAGE_SUFFIXES, "txt", "json"))
UNIT_FILES = 1024  # images in a unit, at most
READ_AHEAD = 8  # files asked for at once: on an object store the wait for one is longer than its bytes


def list_slices(
    listing: Listing, config: SourceConfig, unit_bytes: int, options: StorageOptions | None = None
) -> list[tuple[Slice, ...]]:
    """Units of at most 1,024 images or `unit_bytes`, in the order of their paths.

    The texts beside an image are slices too, right behind it, so that a changed caption is a changed input. Texts
    without an image are left alone.
    """
    images = [file for file in listing.files if _suffix(file.path) in IMAGE_SUFFIXES]
    if not images:
        raise ValueError(
            f"--input: must hold images ({' '.join(IMAGE_SUFFIXES)}), found {len(listing.files)} other files. "
            "Check the pattern and --format."
        )
    texts = _texts_beside(images, listing, options)
    units: list[list[Slice]] = []
    held, held_bytes = 0, 0
    for stem, group in groupby(sorted(images, key=_order), lambda file: _stem(file.path)):
        pictures = list(group)
        files = [*pictures, *texts.get(stem, [])]
        size = sum(file.size for file in files)
        if not units or held + len(pictures) > UNIT_FILES or held_bytes + size > unit_bytes:
            units.append([])
            held, held_bytes = 0, 0
        units[-1] += files
        held += len(pictures)
        held_bytes += size
    return [tuple(unit) for unit in units]


def _order(file: Slice) -> tuple[str, bool, str]:
    """By stem; of those of one stem a file that can be read comes first, as it will keep the id."""
    return _stem(file.path), _suffix(file.path) in NOT_READ, file.path


def files_that_count(
    listing: Listing, config: SourceConfig, options: StorageOptions | None = None
) -> list[Slice]:
    """Images and the texts beside them, in no order; texts without an image do not count."""
    images = [file for file in listing.files if _suffix(file.path) in IMAGE_SUFFIXES]
    return images + [file for files in _texts_beside_images(images, listing, options) for file in files]


def beside_planned(files: Iterable[Slice], planned: Iterable[Slice]) -> list[Slice]:
    """Those of `files` that are texts of an image which is planned: they would change a record that is."""
    stems = {_stem(part.path) for part in planned if _suffix(part.path) in IMAGE_SUFFIXES}
    return [file for file in files if _suffix(file.path) not in IMAGE_SUFFIXES and _stem(file.path) in stems]


def read_unit(
    unit: Unit, config: SourceConfig, options: StorageOptions | None = None, max_bytes: int = 64 << 20
) -> Iterator[Record]:
    """One record per image of a unit, in order.

    The id is the path below the root without its suffix; two images of one stem therefore share an id, and the
    first keeps it. Each line of a `.txt` that is not blank is a caption. Where there is none, captions are the
    fields of `--caption-column` in the `.json`; `--caption-suffixes` may turn that round. Labels are its field
    `--label-column`, metadata is its text.

    Args:
        unit: its slices are images, the texts of a stem right behind its images.
        config: which JSON fields are read.
        options: fsspec options by protocol.
        max_bytes: a larger image is never read and its record says so.

    A file that can not be read costs its own record; nothing is raised.
    """
    positions = count()
    for stem, files in groupby(
        _read_ahead(unit.slices, options, max_bytes), lambda read: _stem(read.file.path)
    ):
        group = list(files)
        texts = _texts(group, config)
        for read in group:
            if _suffix(read.file.path) in IMAGE_SUFFIXES:
                yield _record(read, relative_name(stem, unit.root), texts, next(positions))


@dataclass
class _Read:
    """A file and its bytes, or why there are none."""

    file: Slice
    data: bytes | None = None
    problem: tuple[str, str, str] | None = None


def _record(read: _Read, id: str, texts: Texts, position: int) -> Record:
    problem = read.problem
    if printable(id) != id:
        problem = ("id", "not_utf8", printable(id)[:200])
    return Record(
        position=position,
        locator=bare_name(read.file.path),
        id=None if problem and problem[0] == "id" else id,
        image=None if problem else read.data,
        problem=problem,
        **texts.as_fields(),
    )


def _texts(group: Iterable[_Read], config: SourceConfig) -> Texts:
    """The texts of one stem."""
    texts = Texts()
    beside = {suffix: read for read in group if (suffix := _suffix(read.file.path)) in ("txt", "json")}
    fields, texts.metadata = read_json_object((beside["json"].data or b"") if "json" in beside else b"")
    order = config.caption_suffixes or ("txt", "json")
    has_fields = any(fields.get(name) is not None for name in config.caption_column)
    first = next(
        (suffix for suffix in order if has_fields or suffix != "json" if suffix in beside), order[-1]
    )
    if first == "txt" and "txt" in beside:
        _add_lines(texts, beside["txt"])
    elif "json" in order:
        for name, kind in caption_kinds(config.caption_column):
            texts.add_captions(fields.get(name), kind)
    else:
        texts.note("missing")
    if config.label_column is not None:
        texts.add_labels(fields.get(config.label_column))
    return texts


def _add_lines(texts: Texts, read: _Read) -> None:
    if read.data is None:
        texts.note(read.problem[1] if read.problem else "missing")
        return
    lines = [line.removesuffix(b"\r") for line in read.data.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    for line in [line for line in lines if line.strip()] or [b""]:
        texts.add_captions(line)


def _read_ahead(files: Iterable[Slice], options: StorageOptions | None, max_bytes: int) -> Iterator[_Read]:
    """Reads files in order, a few of them at once."""
    window: deque[Future[_Read]] = deque()
    with ThreadPoolExecutor(READ_AHEAD, "read-ahead") as pool:
        for file in files:
            window.append(pool.submit(_read, file, options, max_bytes))
            if len(window) >= READ_AHEAD:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()


def _read(file: Slice, options: StorageOptions | None, max_bytes: int) -> _Read:
    limit = max_bytes if _suffix(file.path) in IMAGE_SUFFIXES else MAX_CAPTION_BYTES
    if file.size > limit:
        return _Read(file, problem=("read", "too_many_bytes", f"{file.size:,} bytes, the limit is {limit:,}"))
    try:
        return _Read(file, read_whole(file, options))
    except OSError as error:
        detail = printable(error.strerror or str(error) or type(error).__name__)
        return _Read(file, problem=("read", "io", f"{type(error).__name__}: {detail}"))


def _texts_beside(
    images: Iterable[Slice], listing: Listing, options: StorageOptions | None
) -> dict[str, list[Slice]]:
    """The `.txt` and `.json` files by stem. Folders that were not walked are listed here."""
    found = list(listing.files)
    walked = set(listing.walked)
    folders = {image.path.rpartition("/")[0] for image in images}
    for folder in sorted(folders):
        if walked.isdisjoint(_with_parents(folder)):
            found += list_folder(folder, options)
    texts: dict[str, dict[str, Slice]] = defaultdict(dict)
    for file in sorted(found, key=lambda file: file.path):
        if _suffix(file.path) in ("txt", "json"):
            texts[_stem(file.path)].setdefault(_suffix(file.path), file)
    return {stem: list(files.values()) for stem, files in texts.items()}


def _texts_beside_images(
    images: list[Slice], listing: Listing, options: StorageOptions | None
) -> list[list[Slice]]:
    texts = _texts_beside(images, listing, options)
    return [texts[stem] for stem in {_stem(image.path) for image in images} if stem in texts]


def _with_parents(folder: str) -> Iterator[str]:
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def _stem(path: str) -> str:
    folder, slash, base = path.rpartition("/")
    stem, dot, _ = base.rpartition(".")
    return f"{folder}{slash}{stem if dot else base}"


def _suffix(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[2].lower()
