"""A folder of columns that is built piece by piece, so that a killed build goes on with the pieces it lacks."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.columns import ColumnWriter, open_columns, to_disk

# The folder inside a building that holds what is known piece by piece; gone when the building is published.
_PIECES = "pieces"


@dataclass(frozen=True)
class Piece:
    """What one piece left beside what it wrote in place.

    Attributes:
        columns: by name, of any length.
        facts: JSON values.
    """

    columns: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Pieces:
    """The pieces of one building. Several processes may write different pieces, or the same one, at once.

    Attributes:
        folder: the building.
        in_place: dtype (as `numpy.dtype.str`) and shape, by name, of the columns whose length is known beforehand:
            each piece writes its own rows of them into one file.
    """

    folder: Path
    in_place: Mapping[str, tuple[str, tuple[int, ...]]]

    def prepare(self) -> None:
        """Make the files that are written in place, full of holes, where they are not there yet."""
        sizes = {name: _row_bytes(dtype, shape) * shape[0] for name, (dtype, shape) in self.in_place.items()}
        (self.folder / _PIECES).mkdir(exist_ok=True)
        for name, size in sizes.items():
            with open(self.folder / f"{name}.bin", "ab") as file:
                file.truncate(size)

    def missing(self, count: int) -> list[int]:
        """The numbers below `count` of the pieces that are not there yet."""
        there = {path.name for path in (self.folder / _PIECES).iterdir()}
        return [number for number in range(count) if _name(number) not in there]

    def write(
        self,
        number: int,
        in_place: Mapping[str, tuple[int, np.ndarray]],
        columns: Mapping[str, np.ndarray] = {},
        facts: Mapping[str, Any] = {},
    ) -> None:
        """Put one piece on the disk; it counts as there once this returns, and not before.

        Args:
            number: of the piece.
            in_place: by name, the first row and the rows to write from there.
            columns, facts: what `read` gives back.
        """
        for name, (first, rows) in in_place.items():
            dtype, shape = self.in_place[name]
            found = (rows.dtype.str, rows.shape[1:])
            assert found == (dtype, shape[1:]), f"{name}: {found}"
            with open(self.folder / f"{name}.bin", "r+b") as file:
                file.seek(first * _row_bytes(dtype, shape))
                file.write(np.ascontiguousarray(rows).data if rows.size else b"")
                to_disk(file)
        final = self.folder / _PIECES / _name(number)
        aside = final.with_name(f".{final.name}-{os.getpid()}")
        with open(aside, "wb") as file:
            told = np.frombuffer(json.dumps(facts).encode(), np.uint8)
            np.savez(
                file, allow_pickle=False, facts=told, **{f"column-{n}": rows for n, rows in columns.items()}
            )
            to_disk(file)
        aside.replace(final)

    def read(self, number: int) -> Piece:
        """What `write` was given for a piece."""
        with np.load(self.folder / _PIECES / _name(number), allow_pickle=False) as found:
            facts = json.loads(found["facts"].tobytes())
            columns = {name.removeprefix("column-"): found[name] for name in found.files if name != "facts"}
        return Piece(columns, facts)


def built_in_pieces(
    in_place: Mapping[str, tuple[str, tuple[int, ...]]],
    count: int,
    write: Callable[[Pieces, list[int]], None],
    join: Callable[[Pieces, ColumnWriter], Mapping[str, Any]],
) -> Callable[[Path], None]:
    """A build for `columns.open_or_build` that a kill costs only the pieces in hand.

    Args:
        in_place: as in `Pieces`.
        count: how many pieces there are.
        write: writes the pieces of the given numbers, in any order.
        join: appends the other columns from all pieces and returns the facts to keep; raises ValueError where the
            content is of no use, and then nothing is left.
    """

    def fill(folder: Path) -> None:
        if open_columns(folder) is None:  # else the kill came when all was written
            pieces = Pieces(folder, in_place)
            pieces.prepare()
            if missing := pieces.missing(count):
                write(pieces, missing)
            try:
                with ColumnWriter(folder) as writer:
                    for name, (dtype, shape) in in_place.items():
                        writer.adopt(name, np.dtype(dtype), shape)
                    writer.finish(join(pieces, writer))
            except ValueError:  # what the pieces hold is of no use
                shutil.rmtree(folder)
                raise
        shutil.rmtree(folder / _PIECES, ignore_errors=True)

    return fill


def _name(number: int) -> str:
    return f"{number:08d}.npz"


def _row_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
