"""`lit-eval pairs`: the cosine of every image with each of its captions, for filtering data."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.evals import prompts
from trainer.evals.captions import embed_captions
from trainer.evals.cosine_histogram import CosineHistogram
from trainer.evals.selection import selected_parts, written_captions
from trainer.evaluations.subject import RunEvaluation, Subject, TextSide, default_output, open_subject

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("caption", pa.int32(), nullable=False),  # its place among the image's captions, from 0
        pa.field("cosine", pa.float32(), nullable=False),
    ]
)
QUANTILES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)

DEFINITION = (
    "cosine: of an image's embedding with its caption's, one row for every caption that is not blank; CLIPScore as "
    "published is 2.5 · max(cosine, 0). Quantiles are of the cosines, to 5e-5: a filter that keeps cosines above the "
    "quantile 0.3 keeps 70 % of the pairs. Cosines of different towers are not on one scale."
)


@dataclass(frozen=True, kw_only=True)
class PairsConfig(RunEvaluation):
    """How well each caption fits its image by a tuned tower: one cosine a pair, for filtering data."""

    templates: str | None = None
    """none, clip-80, clip-7, the latter two with -and-name, or a file of templates, one {} a line, for the captions;
    a caption's embeddings are averaged over them."""
    pairs_output: str | None = None
    """Parquet file of id, caption (its place among the image's), cosine; unless given, beside the report."""


def evaluate_pairs(config: PairsConfig, text: TextSide | None = None) -> dict[str, Any]:
    """Writes the cosines, a part of the store at a time; returns the report.

    Raises:
        ValueError: for inputs that do not fit together, or when no chosen image has a caption.
    """
    templates = prompts.read_templates(config.templates)
    subject = open_subject(config, text)
    report = Path(config.output or default_output(config, "pairs"))
    target = Path(config.pairs_output or report.with_suffix(".parquet"))
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    histogram, images = CosineHistogram(), 0
    try:
        with pq.ParquetWriter(aside, SCHEMA, compression="zstd") as writer:
            for table in _tables(config, subject, templates):
                writer.write_table(table)
                histogram.add(table.column("cosine").to_numpy())
                images += len(set(table.column("id").to_pylist()))
        if not histogram.count:
            raise ValueError(
                "pairs must have at least one image with a caption, found none. Check --ids, --where and --split."
            )
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    edges, counts = histogram.bars()
    return {
        "evaluation": "pairs",
        "n_pairs": histogram.count,
        "n_images": images,
        "cosine": histogram.summary(),
        "quantiles": {f"{q:g}": round(histogram.quantile(q), 5) for q in QUANTILES},
        "file": target.name,
        "definition": DEFINITION,
        "notes": subject.notes(),
        **subject.provenance(config),
        "templates": list(templates),
        "histogram": {"edges": edges, "counts": counts},
    }


def show_pairs(found: dict[str, Any]) -> str:
    """The report as a few lines."""
    cosine = found["cosine"]
    lines = [
        f"pairs: {found['n_pairs']:,} captions of {found['n_images']:,} images, cosines in {found['file']}",
        f"  mean {cosine['mean']:.4f} ± {cosine['standard_error']:.4f}, standard deviation {cosine['std']:.4f}, "
        f"from {cosine['min']:.4f} to {cosine['max']:.4f}",
        "  quantile   cosine",
        *(f"  {quantile:>8} {value:8.4f}" for quantile, value in found["quantiles"].items()),
    ]
    return "\n".join(lines + [f"Note: {note}" for note in found["notes"]])


def _tables(config: PairsConfig, subject: Subject, templates: tuple[str, ...]) -> Iterator[pa.Table]:
    """Rows of `SCHEMA`, part by part."""
    embed_texts = subject.text.embedder(config.batch_size)
    for part in selected_parts(subject.images, subject.selection):
        captions = written_captions(part.pairs)
        rows = np.repeat(np.arange(len(captions)), [len(found) for found in captions])
        if not len(rows):
            continue
        written = [one for found in captions for one in found]
        texts = embed_captions(embed_texts, [one.text for one in written], templates)
        columns = [
            pa.array([part.ids[row] for row in rows], pa.string()),
            pa.array([one.place for one in written], pa.int32()),
            pa.array(np.einsum("md,md->m", part.embeddings[rows], texts), pa.float32()),
        ]
        yield pa.Table.from_arrays(columns, schema=SCHEMA)
