"""The Arrow schema of an embeddings part: one row per view of an image."""

import numpy as np
import pyarrow as pa

DTYPES = {"float16": np.float16, "float32": np.float32}


def embeddings_schema(embedding_dim: int, dtype: str) -> pa.Schema:
    """Schema of an embeddings part.

    Args:
        embedding_dim: D, the length of a vector.
        dtype: "float16" or "float32", how a component is stored.

    `embedding` is what the tower's own loss would normalise, before L2 normalisation; `norm` is its L2 norm
    in float32 before rounding to `dtype`; `view` 0 is the deterministic evaluation view.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype: must be one of {sorted(DTYPES)}, found {dtype!r}.")
    value = pa.float16() if dtype == "float16" else pa.float32()
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("view", pa.int16(), nullable=False),
            pa.field("image_sha256", pa.binary(32), nullable=False),
            pa.field("norm", pa.float32(), nullable=False),
            pa.field(
                "embedding", pa.list_(pa.field("item", value, nullable=False), embedding_dim), nullable=False
            ),
        ]
    )


def vectors(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """The vectors of an `embedding` column as float16 or float32 [n, D], without a copy where Arrow allows."""
    dim = column.type.list_size
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    blocks = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim) for chunk in chunks]
    if len(blocks) == 1:
        return blocks[0]
    dtype = column.type.value_type.to_pandas_dtype() if not blocks else blocks[0].dtype
    return np.concatenate(blocks) if blocks else np.zeros((0, dim), dtype)
