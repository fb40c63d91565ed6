"""What data in the wild calls its columns."""

from typing import Any, Literal

Preset = Literal["img2dataset", "laion", "datacomp", "coco", "karpathy", "open-clip-csv", "hf"]

# A flag that is given wins over its preset.
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
