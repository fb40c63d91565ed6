"""Sections of a report, and how they look on a terminal."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

BAR = 32  # characters of the longest bar
_NUMBER = re.compile(r"[-+]?[\d.,]+ ?%?")


@dataclass(frozen=True)
class Shown:
    """An image as a reader sees it.

    Attributes:
        unit: the unit it was made from.
        id: its name.
        image_sha256: of the encoded image, 32 bytes.
        captions: as written.
    """

    unit: str
    id: str
    image_sha256: bytes
    captions: tuple[str, ...]

    def words(self) -> str:
        more = f" (+{len(self.captions) - 1})" if len(self.captions) > 1 else ""
        caption = f' "{clean(self.captions[0], 60)}"' if self.captions else ""
        return f"{clean(self.id, 40)}{caption}{more}"


Cell = str | Shown


@dataclass(frozen=True)
class Section:
    """A heading with a table below it.

    Attributes:
        title: the heading.
        rows: cells; all rows have the same number.
        header: names of the columns, or none.
        notes: lines below.
    """

    title: str
    rows: Sequence[Sequence[Cell]]
    header: Sequence[str] = ()
    notes: Sequence[str] = ()


def clean(text: str, longest: int = 200) -> str:
    r"""Text of unknown origin on one line, safe to print: no control or bidirectional characters.

    >>> clean("a\x1b[31m  red\ndog", 9)
    'a�[31m r…'
    """
    line = " ".join(text[: 4 * longest].split())
    line = "".join(char if char.isprintable() or char == "\u200d" else "�" for char in line)
    return line if len(line) <= longest else line[: longest - 1] + "…"


def bar(count: int, most: int) -> str:
    """A bar whose length goes with `count`; anything above 0 shows."""
    return "█" * max(round(BAR * count / max(most, 1)), count > 0)


def share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "–"


def as_text(sections: Sequence[Section]) -> str:
    """All sections, a blank line between them."""
    return "\n\n".join("\n".join(_lines(section)) for section in sections)


def _lines(section: Section) -> list[str]:
    rows = [[words(cell) for cell in row] for row in section.rows]
    table = [list(section.header), *rows] if section.header else rows
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    right = [all(_NUMBER.fullmatch(row[place]) for row in rows if row[place]) for place in range(len(widths))]
    lines = [section.title]
    for row in table:
        cells = zip(row, widths, right, strict=True)
        padded = (cell.rjust(width) if number else cell.ljust(width) for cell, width, number in cells)
        lines.append(("  " + "  ".join(padded)).rstrip())
    return lines + [f"  {note}" for note in section.notes]


def words(cell: Cell) -> str:
    return cell.words() if isinstance(cell, Shown) else cell
