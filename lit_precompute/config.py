"""What `lit-embed` is asked to do: typed, frozen, and the source of its flags."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from schemas.embeddings import DTYPES
from schemas.failures import REASONS, TRANSIENT
from schemas.ids import check_tower_id

Format = Literal["auto", "parquet", "webdataset", "folder", "listing", "coco", "karpathy", "tfrecord", "tfds"]
Preset = Literal["img2dataset", "laion", "datacomp", "coco", "karpathy", "open-clip-csv", "hf"]

# What data in the wild calls its columns. A flag that is given wins over its preset.
PRESETS: dict[str, dict[str, Any]] = {
    "img2dataset": {"format": "webdataset", "id_column": "key", "image_column": "jpg"},
    "laion": {"format": "listing", "id_column": "", "image_column": "URL", "caption_column": ("TEXT",)},
    "datacomp": {
        "format": "listing", "id_column": "uid", "image_column": "url", "caption_column": ("text",)
    },
    "coco": {"format": "coco"},
    "karpathy": {"format": "karpathy"},
    "open-clip-csv": {
        "format": "listing", "id_column": "filepath", "image_column": "filepath", "caption_column": ("title",),
        "csv_separator": "tab",
    },
    "hf": {"format": "parquet", "id_column": "", "image_column": "image", "caption_column": ("text",)},
}  # fmt: skip

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

MOST_VIEWS = 1000  # more would be a mistake; all of an image's are in memory together


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


@dataclass(frozen=True)
class TowerConfig:
    """The locked image tower."""

    tower: str
    """Name of the tower, such as siglip2-so400m-16-256 (lit-embed --list-towers names all), or package.module:build."""
    checkpoint: str | None = None
    """Weight file (.npz, .safetensors, .pth), Hugging Face model folder, hf://org/model@revision, or random:SEED;
    default where the tower's weights are published."""
    tower_id: str | None = None
    """Name of the folder in STORE/images; default <tower>-<first 8 of space_id>."""
    resize: Literal["crop", "full"] | None = None
    """crop: short side to size, then the centre; full: the whole image squeezed to a square. Default crop, or what
    preprocessor_config.json says."""
    image_size: int | None = None
    """Side in pixels; default what the checkpoint was trained with."""
    pool: str | None = None
    """ViT pooling (gap, map, tok, 0; of Hugging Face towers cls, mean, cls+mean, map); default read from the
    checkpoint."""
    features: Literal["default", "head", "pre-head"] = "default"
    """head: the output of the checkpoint's last projection; pre-head: what enters it; default: pre-head of towers that
    are named after a classifier, else what the checkpoint's own loss normalises."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """What blocks compute in; bfloat16 is faster on accelerators and makes another space (norms and heads stay
    float32)."""

    def __post_init__(self) -> None:
        if self.tower_id is not None:
            check_tower_id(self.tower_id)
        if self.image_size is not None and not 1 <= self.image_size <= 4096:
            raise ValueError(f"--image-size: must be 1 to 4096 pixels, found {self.image_size}.")


@dataclass(frozen=True)
class LimitsConfig:
    """What one record may cost."""

    max_pixels: int = 50_000_000
    """Pixels an image's header may declare; more is refused before decoding (50 MP ≈ 150 MB decoded)."""
    max_bytes: int = 64 << 20
    """Bytes an encoded image may have."""
    decode_timeout: float = 60.0
    """Seconds an image may take to decode; then it is tried once more in a process of its own, and given up."""
    max_failure_rate: float = 0.1
    """Share of failed records above which the run stops with status 4 (judged after 1,000 records)."""
    accept_damaged: bool = False
    """Finish although an input broke off, keeping the records before the break."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_failure_rate <= 1:
            raise ValueError(f"--max-failure-rate: must be 0 to 1, found {self.max_failure_rate}.")
        if not 0 < self.decode_timeout < float("inf"):
            raise ValueError(
                f"--decode-timeout: must be a number of seconds above 0, found {self.decode_timeout}."
            )


@dataclass(frozen=True)
class WorkConfig:
    """How the work is done; none of it changes a vector."""

    batch_size: int = 64
    """Images per forward pass; short batches are padded to it, so the tower compiles once."""
    decode_threads: int = 2
    """Threads that decode and resize while the tower computes."""
    unit_bytes: int = 64 << 20
    """About how much input is one unit of work: what a stopped run loses at most."""
    storage_options: str | None = None
    """JSON file of fsspec options by protocol; reaches the workers, never the store."""
    takeover: bool = False
    """Take the folder over from a launch elsewhere that has been silent for two minutes."""
    retry_failed: bool = False
    """Of a finished store, try records again that failed for a reason that may pass; what is recovered is added."""
    retry_reasons: tuple[str, ...] = TRANSIENT
    """Which failures --retry-failed tries again."""
    append: bool = False
    """Add inputs that the store does not have yet; what it has is neither renumbered nor done again."""
    accept_touched: bool = False
    """Go on with inputs that carry another time (or version) than planned, once their records are found equal to
    those in the store."""
    dedup_exact: bool = False
    """Embed images of equal bytes once within a unit, and give every record of them that vector."""
    shard_range: str | None = None
    """A:B, only the units from A up to B (not B itself): several machines each do a range of one plan, then the
    command without this flag finishes the store."""
    dry_run: bool = False
    """Print the plan, the shapes and what it will take, measured on some records; nothing is written."""

    def __post_init__(self) -> None:
        self.units_of(0)
        if unknown := sorted(set(self.retry_reasons) - set(REASONS)):
            raise ValueError(
                f"--retry-reasons: must be of {', '.join(REASONS)}, found {', '.join(unknown)}. "
                "failures.parquet names the reasons that there are."
            )
        for name in ("batch_size", "decode_threads", "unit_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"--{name.replace('_', '-')}: must be at least 1, found {getattr(self, name)}."
                )

    def units_of(self, count: int) -> range:
        """Places in the plan of the units this launch does, of `count` in all."""
        if self.shard_range is None:
            return range(count)
        match = re.fullmatch(r"(\d*):(\d*)", self.shard_range.strip())
        first, last = (int(match[1] or 0), int(match[2]) if match[2] else None) if match else (0, 0)
        if match is None or (last is not None and first >= last):
            raise ValueError(
                f"--shard-range: must be A:B with A below B, such as 0:100 or 100:, found {self.shard_range!r}."
            )
        return range(min(first, count), count if last is None else min(last, count))


@dataclass(frozen=True)
class EmbedConfig:
    """Embed every image once with a locked tower and write a store.

    First job (a folder of photographs with .txt captions beside them):

        lit-embed --input photos/ --format folder --tower efficientnet-lite0 \\
                  --checkpoint efficientnet-lite0.pth --output store/

    lit-embed --list-towers names the towers, with D, parameters, GFLOPs an image and where their weights are.

    Flags that are not listed here go to Beam (--runner, --direct_num_workers, ...).
    Exit status: 0 complete, 1 a bug of ours, 2 usage or refused, 3 incomplete or damaged (run the same command
    again), 4 too many failures.
    """

    source: SourceConfig
    tower: TowerConfig
    output: str
    """The store: a folder, or any fsspec URL."""
    dtype: Literal["float16", "float32"] = "float16"
    """How a component is stored; float16 is half the size."""
    views: int = 1
    """V, vectors of each image: the first of the image as the tower takes it, the others of random crops, half of
    them mirrored, which follow from the id alone. Costs V forward passes and one decode."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    work: WorkConfig = field(default_factory=WorkConfig)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"--dtype: must be one of {sorted(DTYPES)}, found {self.dtype!r}.")
        if not 1 <= self.views <= MOST_VIEWS:
            raise ValueError(f"--views: must be 1 to {MOST_VIEWS}, found {self.views}.")
        if self.views > 1 and self.work.dedup_exact:
            raise ValueError(
                "--dedup-exact: must not be given with --views above 1, found both. Crops are drawn by id, so equal "
                "images under different ids have further views of their own. Leave one of the flags out."
            )
        if self.source.limit is not None and self.work.append:
            raise ValueError("--limit: must not be given with --append: a limited store can not grow.")
        if self.source.format == "tfds" and self.work.append:
            raise ValueError(
                "--append: a prepared TFDS version never grows. Write another one to another --output."
            )


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
