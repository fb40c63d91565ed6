"""The Arrow schema of a pairs part: the text side of a store, independent of any image tower."""

import pyarrow as pa

CAPTION = pa.struct([("text", pa.string()), ("kind", pa.string()), ("lang", pa.string())])

PAIRS_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("image_sha256", pa.binary(32)),  # of the encoded bytes; null when no bytes could be read
        pa.field("captions", pa.list_(CAPTION), nullable=False),  # [] when the record has no usable caption
        pa.field("labels", pa.list_(pa.int32()), nullable=False),  # class indices
        pa.field("label_names", pa.list_(pa.string()), nullable=False),  # class names
        pa.field("width", pa.int32()),  # as the first tower's decoder saw it; null when undecodable
        pa.field("height", pa.int32()),
        pa.field("metadata", pa.string()),  # a JSON object as text, or null
    ]
)
