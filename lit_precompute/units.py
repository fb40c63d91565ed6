"""A unit of work: which stretches of which input files are read together."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slice:
    """A file, or a range of what it holds: row groups of a Parquet file of images, rows of a listing, images of a
    caption file.

    Attributes:
        path: openable address without user info or query: an absolute path or `scheme://host/path`.
        size: bytes of the whole file; -1 when the storage does not say.
        version: what changes when the content does: mtime in ns, generation, etag; "" when there is nothing.
        first, last: the range [first, last); None for the beginning or the end.
    """

    path: str
    size: int
    version: str
    first: int | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """What one worker reads in one go, and what one part is made from.

    Attributes:
        generation: 0 for the first plan of a store; one more whenever inputs are added.
        number: place in its generation, from 0.
        slices: what to read, in order.
        root: the folder that names made from paths are relative to.
        limit: records that are read of it at most; None for all.
        retry: which retry of its failed records this is; 0 for the unit itself.
        only: positions of the records that are wanted; None for all.
    """

    generation: int
    number: int
    slices: tuple[Slice, ...]
    root: str = ""
    limit: int | None = None
    retry: int = 0
    only: frozenset[int] | None = None

    def wants(self, position: int) -> bool:
        """Whether a record is to be read; sources that fetch images elsewhere fetch no others."""
        return self.only is None or position in self.only

    @property
    def planned_name(self) -> str:
        """`g000-00007`: what the unit is called, whichever of its records are read."""
        return f"g{self.generation:03d}-{self.number:05d}"

    @property
    def name(self) -> str:
        """`g000-00007`, `g000-00007-r001` for a retry: in the names of parts and receipt."""
        return self.planned_name + (f"-r{self.retry:03d}" if self.retry else "")


def relative_name(path: str, root: str) -> str:
    """`path` as seen from `root`; unchanged when it lies elsewhere.

    >>> relative_name("gs://bucket/a/b.tar", "gs://bucket")
    'a/b.tar'
    """
    return path[len(root) + 1 :] if path.startswith(f"{root}/") else path


def bare_name(path: str) -> str:
    """The last component, printable everywhere.

    >>> bare_name("gs://bucket/a/b.tar")
    'b.tar'
    """
    return printable(path.rsplit("/", 1)[-1])


def printable(text: str) -> str:
    r"""`text` with bytes that were not UTF-8 in a file's name written as `\udc..`."""
    return text.encode("utf-8", "backslashreplace").decode()
