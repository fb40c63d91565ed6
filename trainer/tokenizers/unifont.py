"""Captions drawn as pictures in the bitmap font GNU Unifont, which is how CLIPPO reads text (arXiv 2212.08045).

Exact to the reference's `render_unifont` at its font size of 16. The font is not part of this package (4 MB, under the
GPL with a font exception and the OFL): CLIPPO was trained with the files `unifont-9.0.06.hex` and
`unifont_upper-9.0.06.hex` of the GNU Unifont project; newer versions redraw some glyphs and add many.
"""

import gzip
import hashlib
import re
from collections.abc import Sequence

import numpy as np

from schemas.storage import StorageOptions, filesystem
from schemas.weights import bare_name

CELL = 16  # pixels: the side of a glyph's cell, and the height of a line
INK, PAPER = 0, 127
SPACING = 1  # blank columns kept at the left of a glyph
MIN_WIDTH = 4  # columns a glyph takes at least; a blank takes these
MAX_CHARACTERS = 768
MAX_FILE_BYTES = 64 << 20  # unpacked; the whole font has 5 MB
CODE_POINTS = 0x110000
LINE = re.compile(rb"([0-9A-Fa-f]{4,6}):([0-9A-Fa-f]{32}|[0-9A-Fa-f]{64})")


class Unifont:
    """A bitmap font that draws captions.

    Attributes:
        digest: sha256 hex of all that decides the pictures: equal digests, equal pictures.
    """

    def __init__(self, glyphs: dict[int, bytes]) -> None:
        """Takes glyphs by code point: 32 bytes, 16 rows of 16 columns, a set bit is ink."""
        codes = sorted(glyphs)
        packed = np.frombuffer(b"".join([bytes(32), *(glyphs[code] for code in codes)]), np.uint8)
        bits = np.unpackbits(packed.reshape(-1, CELL, 2), axis=-1).astype(
            bool
        )  # [G, row, column]; 0 is blank
        self._columns = bits.transpose(0, 2, 1).copy()  # [G, column, row]
        self._first, self._stop = _trimmed(np.any(bits, axis=1))
        self._glyph_of = np.zeros(CODE_POINTS, np.int32)
        self._glyph_of[codes] = np.arange(1, len(codes) + 1)
        named = b"".join(code.to_bytes(4, "little") + glyphs[code] for code in codes)
        self.digest = hashlib.sha256(b"unifont-16 1\n" + named).hexdigest()

    def draw(
        self,
        texts: Sequence[str],
        size: int = 224,
        *,
        lower: bool = True,
        max_characters: int = MAX_CHARACTERS,
        monospace: bool = False,
    ) -> np.ndarray:
        """Draws captions line by line from the top left, dark on grey; what does not fit is not drawn.

        Args:
            texts: n captions; any string will do. A character without a glyph is blank.
            size: side of a picture in pixels, at least 32.
            lower: lower-case A to Z first, and no other letters, as the reference.
            max_characters: code points drawn of a caption.
            monospace: give every glyph its whole cell.

        Returns:
            uint8 [n, size, size], `INK` or `PAPER`; a tower sees the one channel three times.

        Raises:
            ValueError: the size leaves no room for a line.
        """
        if size < 2 * CELL:
            raise ValueError(f"size: must be at least {2 * CELL} pixels to draw text, found {size}.")
        pictures = np.full((len(texts), size, size), PAPER, np.uint8)
        for picture, text in zip(pictures, texts, strict=True):
            glyphs = self._glyph_of[_code_points(text, lower)[:max_characters]]
            if len(glyphs):
                self._draw(picture, glyphs, monospace)
        return pictures

    def _draw(self, picture: np.ndarray, glyphs: np.ndarray, monospace: bool) -> None:
        """Column by column: [kept columns of all glyphs] -> where each goes, then one assignment."""
        size = len(picture)
        first = np.zeros_like(glyphs) if monospace else self._first[glyphs]
        stop = np.full_like(glyphs, CELL) if monospace else self._stop[glyphs]
        line, left = _placed(stop - first, size)
        seen = line * CELL < size
        glyphs, first, stop, line, left = (array[seen] for array in (glyphs, first, stop, line, left))
        width = stop - first
        which = np.repeat(np.arange(len(glyphs)), width)
        offset = np.arange(len(which)) - np.repeat(np.cumsum(width) - width, width)
        ink = self._columns[glyphs[which], first[which] + offset]  # [columns, 16]
        lines = np.zeros((-(-size // CELL), size, CELL), bool)
        lines[line[which], left[which] + offset] = ink
        picture[lines.transpose(0, 2, 1).reshape(-1, size)[:size]] = INK


def _trimmed(inked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and past-the-last column kept of each glyph.

    One blank column stays at the left, none at the right beyond the last with ink (the reference's right margin is
    exclusive); a blank glyph is its first four columns.

    Args:
        inked: bool [G, 16], whether a column has ink.
    """
    blank = ~inked.any(axis=1)
    first = np.where(blank, 0, inked.argmax(axis=1))
    last = np.where(blank, 0, CELL - 1 - inked[:, ::-1].argmax(axis=1))
    first = np.maximum(first - SPACING, 0)
    stop = np.minimum(np.maximum(last + SPACING, first + MIN_WIDTH), CELL)
    return first.astype(np.int32), stop.astype(np.int32)


def _placed(width: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Line and left edge of each glyph. A line ends by the running width of the whole text, so it never overflows."""
    total = np.cumsum(width)
    usable = np.float32(size - width.max())
    line = np.floor(total.astype(np.float32) / usable).astype(np.int64)
    before = total - width
    starts = np.flatnonzero(np.diff(line, prepend=-1))  # first glyph of each line that has any
    return line, before - np.repeat(before[starts], np.diff(starts, append=len(line)))


def _code_points(text: str, lower: bool) -> np.ndarray:
    """int32 code points; an unpaired surrogate counts as a question mark."""
    raw = text.encode("utf-8", "replace")
    raw = raw.lower() if lower else raw  # bytes: A to Z only
    return np.frombuffer(raw.decode().encode("utf-32-le"), np.int32)


def load_unifont(*paths: str, storage_options: StorageOptions | None = None) -> Unifont:
    """A font of one or more `.hex` files, which may be packed with gzip; a later file wins where two have a glyph.

    Args:
        paths: local paths or fsspec URLs of files with lines such as `0041:00000000182424427E42424242000000`.
        storage_options: fsspec options by protocol.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is not of that format.
    """
    glyphs: dict[int, bytes] = {}
    for path in paths:
        glyphs |= _read_hex(bare_name(path), _read(path, storage_options))
    if not glyphs:
        raise ValueError("a Unifont must have at least one .hex file with glyphs, found none.")
    return Unifont(glyphs)


def _read(path: str, storage_options: StorageOptions | None) -> bytes:
    fs, inner = filesystem(path, storage_options)
    with fs.open(inner, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with gzip.open(file) if packed else file as lines:
            data: bytes = lines.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{bare_name(path)}: a font must have at most {MAX_FILE_BYTES} bytes, found more.")
    return data


def _read_hex(source: str, data: bytes) -> dict[int, bytes]:
    """Glyphs by code point; narrow ones are put into the left half of their cell."""
    glyphs = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip() or line.startswith(b"#"):
            continue
        match = LINE.fullmatch(line.strip())
        if match is None or int(match[1], 16) >= CODE_POINTS:
            raise ValueError(
                f"{source}: a Unifont .hex file must have lines CODEPOINT:BITMAP with 32 or 64 hexadecimal digits, "
                f"found {line[:80]!r} in line {number}."
            )
        rows = bytes.fromhex(match[2].decode())
        glyphs[int(match[1], 16)] = rows if len(rows) == 32 else b"".join(bytes((row, 0)) for row in rows)
    return glyphs
