"""Where the images and captions are: flags, and the facts that enter a plan's digest."""

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lit_precompute.config.presets import PRESETS, Preset

Format = Literal["auto", "parquet", "webdataset", "folder", "listing", "coco", "karpathy", "tfrecord", "tfds"]

# Formats a flag means something for; given with another format it is refused rather than ignored.
_FORMATS_OF: dict[str, tuple[str, ...]] = {
    "image_root": ("listing", "coco", "karpathy"),
    "allow_protocols": ("listing", "coco", "karpathy"),
    "csv_separator": ("listing",),
    "split": ("karpathy", "tfds"),
    "builder": ("tfds",),
    "image_suffixes": ("webdataset",),
    "caption_suffixes": ("webdataset", "folder"),
    "metadata_columns": ("parquet", "listing", "tfrecord", "tfds"),
}
_WITH_COLUMNS = ("parquet", "listing", "tfrecord", "tfds")


class Unset(str):
    """A default nobody chose, which a preset may replace."""


class UnsetNames(tuple[str, ...]):
    """Names nobody chose, which a preset may replace."""


@dataclass(frozen=True)
class SourceConfig:
    """Where the images and captions are."""

    input: tuple[str, ...]
    """Files, folders or patterns (* ** {a,b} and :: between several)."""
    format: Format = "auto"
    """How the input is laid out; auto: what --preset says."""
    id_column: str = Unset("key")
    """Column (TFRecord: feature) that names a record; empty for <file>/<row>."""
    image_column: str = Unset("image")
    """Column of encoded images (bytes, or a struct with a field `bytes`); of a listing: of their paths or URLs."""
    caption_column: tuple[str, ...] = UnsetNames(("caption",))
    """Columns, or JSON fields beside an image, that hold captions."""
    label_column: str | None = None
    """Column or JSON field of the class: an integer is a class index, a string a class name."""
    preset: Preset | None = None
    """Format and columns as a well-known data set has them; any flag given beside it wins."""
    metadata_columns: tuple[str, ...] = ()
    """Further columns to keep, as one JSON object a record."""
    image_root: str | None = None
    """Listing, coco, karpathy: the folder that image paths are relative to and may not leave; default the folder of
    the listing."""
    allow_protocols: tuple[str, ...] = ()
    """Listing, coco, karpathy: protocols that rows may name images by, such as https or gs; default the image root's
    own."""
    csv_separator: str | None = None
    """Listing: comma, tab, or the character itself; default by suffix (.csv comma, .tsv tab)."""
    split: str | None = None
    """Karpathy: test, val, train, restval, or several as in train+restval. TFDS: a prepared split, or several."""
    builder: str | None = None
    """TFDS: name, name/config, name:version or name/config:version; may be left out where --input holds only one."""
    image_suffixes: tuple[str, ...] = ()
    """Webdataset: suffixes of the image member, the best first ("jpg;png;webp"); default every common one, whichever
    comes first."""
    caption_suffixes: tuple[str, ...] = ()
    """Webdataset, folder: where captions are, the first that a record has; json stands for the fields of
    --caption-column. Default txt, then json."""
    limit: int | None = None
    """Only the first so many records of the input: a store of its own, for trying things out."""

    def __post_init__(self) -> None:
        if not self.input or not all(pattern.strip() for pattern in self.input):
            raise ValueError("--input: must name at least one file, folder or pattern, found none.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit: must be at least 1, found {self.limit}.")
        self._fill_in()
        for name, formats in _FORMATS_OF.items():
            if getattr(self, name) and self.format not in formats:
                raise ValueError(
                    f"{_flag(name)}: must be given with --format {' or '.join(formats)} only, found "
                    f"--format {self.format}. Leave it out."
                )
        _check_image_root(self.image_root, self.allow_protocols)
        _check_separator(self.csv_separator)
        if self.format == "folder" and not set(self.caption_suffixes) <= {"txt", "json"}:
            found = " ".join(self.caption_suffixes)
            raise ValueError(f"--caption-suffixes: must be of txt and json in a folder, found {found}.")
        if self.format in ("karpathy", "tfds") and not self.split:
            raise ValueError("--split: must say which images, such as test or train+restval, found none.")

    def _fill_in(self) -> None:
        """Puts the preset's values where none was given, and list flags into plain form."""
        preset = PRESETS[self.preset] if self.preset is not None else {}
        if self.format == "auto" and "format" not in preset:
            known = ", ".join(name for name in get_args(Format) if name != "auto")
            raise ValueError(f"--format: must be one of {known}, found none. Give it, or --preset.")
        values = {"format": preset["format"] if self.format == "auto" else self.format}
        if values["format"] == "tfds" and isinstance(self.id_column, Unset):
            values["id_column"] = ""  # examples have no key of their own
        for name, value in preset.items():
            fits = values["format"] in _FORMATS_OF.get(name, (values["format"],))
            if fits and (getattr(self, name) is None or isinstance(getattr(self, name), Unset | UnsetNames)):
                values[name] = value
        for name in ("image_suffixes", "caption_suffixes"):
            pieces = [
                piece.strip().lower().removeprefix(".")
                for text in getattr(self, name)
                for piece in text.split(";")
            ]
            values[name] = tuple(piece for piece in pieces if piece)
        for name, value in values.items():
            object.__setattr__(self, name, value)


def source_facts(source: SourceConfig) -> dict[str, Any]:
    """What ids, texts and the choice of images depend on beside the input files: it enters the plan's digest."""
    facts: dict[str, Any] = {"format": source.format, "caption_column": list(source.caption_column)}
    facts["label_column"] = source.label_column
    if source.format in _WITH_COLUMNS:
        facts |= {"id_column": source.id_column, "image_column": source.image_column}
    for name in (*_FORMATS_OF, "limit"):
        if value := getattr(source, name):
            facts[name] = list(value) if isinstance(value, tuple) else value
    return facts


def _check_image_root(root: str | None, protocols: tuple[str, ...]) -> None:
    if root is not None and (
        "::" in root or re.match(r"(https?|s3a?|gc?s|s?ftp)://[^/]*[@?]|https?://.*[?#]", root)
    ):
        raise ValueError("--image-root: must be a plain folder or URL without user info, query or ::.")
    for protocol in protocols:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*", protocol) or protocol in ("file", "local", "data"):
            raise ValueError(
                f"--allow-protocols: must be names such as https or gs, found {protocol!r}. Local images are named "
                "by plain paths under --image-root."
            )


def _check_separator(separator: str | None) -> None:
    if separator is None or separator in ("comma", "tab", "\\t"):
        return
    if len(separator) != 1 or separator in '"\r\n':
        raise ValueError(f"--csv-separator: must be comma, tab or one character, found {separator!r}.")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
