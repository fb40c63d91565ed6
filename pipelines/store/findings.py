"""What a check of a store finds: problems, what mends them, and how much was looked at."""

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import pyarrow as pa

from pipelines.store.meter import Meter
from schemas.manifest import PartEntry
from schemas.storage import Folder

# What pyarrow, json and our own readers raise for broken bytes.
BROKEN = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError)

T = TypeVar("T")


class DamageError(Exception):
    """A file is missing or broken; the text says which of the two."""


def read_or_damage(folder: Folder, name: str, reader: Callable[[], T]) -> T:
    """What `reader` makes of a small file.

    The file is fetched first, so that trouble with the storage is not taken for damage: following the advice to
    delete a file must never follow from a connection that broke.

    Raises:
        DamageError: the file is missing, or `reader` can not read it.
        OSError: the storage failed.
    """
    try:
        folder.read(name)
    except FileNotFoundError:
        raise DamageError("must exist, not found") from None
    try:
        return reader()
    except BROKEN as error:
        raise DamageError(f"must be readable, found: {first_line(error)}") from None


def damage_text(error: BaseException) -> str:
    """What is wrong with a file, from what a reader raised; raises it again when it was the storage that failed."""
    if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):  # pyarrow's own have no errno
        raise error
    return first_line(error)


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def short(value: object) -> str:
    """A value for a message: digests cut to 12 digits."""
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text[:300]


@dataclass(frozen=True)
class Problem:
    """Something that does not hold.

    Attributes:
        file: the file at fault, below the store.
        text: what must hold, and what was found.
        mend: files, below the store, to delete so that lit-embed makes them again.
    """

    file: str
    text: str
    mend: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


@dataclass
class Findings:
    """What a pass over a store has come to.

    Attributes:
        on_problem: told of each problem when it is found.
        meter: told of bytes that were looked at.
        parts, bytes, records, images: how much was looked at.
        towers: the towers that were looked at.
        problems: in the order they were found.
        notes: what is worth saying and is no damage.
    """

    on_problem: Callable[[Problem], None]
    meter: Meter
    parts: int = 0
    bytes: int = 0
    records: int = 0
    images: int = 0
    towers: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def say(self, file: str, text: str, mend: tuple[str, ...]) -> None:
        self.problems.append(Problem(file, text, mend))
        self.meter.clear()
        self.on_problem(self.problems[-1])

    def looked_at(self, file: str, entry: PartEntry, problems: list[str], mend: tuple[str, ...]) -> None:
        """A part is done."""
        for text in problems:
            self.say(file, text, mend)
        self.parts += 1
        self.bytes += entry.bytes
        self.meter.add(entry.bytes)

    def hold(self, file: str, claims: Mapping[str, tuple[object, object]], mend: tuple[str, ...]) -> None:
        """Says every claim of a manifest, (said, found), that its files do not bear out."""
        for name, (said, found) in claims.items():
            if said != found:
                self.say(file, f"{name} must be {short(found)} by its files, found {short(said)}", mend)

    def mend(self) -> list[str]:
        """Every file to delete, each once, parts before manifests."""
        files = {file for problem in self.problems for file in problem.mend}
        return sorted(files, key=lambda file: (file.endswith(".json"), file))
