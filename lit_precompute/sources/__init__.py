"""One module per input format: each lists its units and reads one unit as records."""

from types import ModuleType

from lit_precompute.sources import coco, folder, image_listing, karpathy, parquet, tfds, tfrecord, webdataset

SOURCES: dict[str, ModuleType] = {
    "parquet": parquet,
    "webdataset": webdataset,
    "folder": folder,
    "listing": image_listing,
    "coco": coco,
    "karpathy": karpathy,
    "tfrecord": tfrecord,
    "tfds": tfds,
}
