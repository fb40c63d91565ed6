"""Pictures for benchmarks: JPEGs that decode and compress about as photographs do."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def jpeg(seed: int, width: int = 341, height: int = 256) -> bytes:
    """Smooth coloured noise with some grain at quality 90: about 30 kB, as a small photograph has."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grainy = smooth + rng.normal(0, 12, smooth.shape).astype(np.int16)
    file = io.BytesIO()
    Image.fromarray(np.clip(grainy, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_parquet(path: Path, count: int) -> Path:
    """`count` pictures with an id and a caption each."""
    rows = [{"key": f"{n:06}", "image": jpeg(n), "caption": f"picture number {n}"} for n in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=64)
    return path
