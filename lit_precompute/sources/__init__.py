"""One module per input format: each lists its units and reads one unit as records."""

from types import ModuleType

from lit_precompute.sources import folder, image_listing, parquet, webdataset

SOURCES: dict[str, ModuleType] = {
    "parquet": parquet,
    "webdataset": webdataset,
    "folder": folder,
    "listing": image_listing,
}
