"""The text side of the spool: tokens of every caption in every template, and frozen features of them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schemas.digests import sha256_json
from trainer.data.columns import Columns, ColumnWriter, open_or_build
from trainer.data.progress import Progress
from trainer.data.spool import LAYOUT, caption_texts
from trainer.tokenizers import Tokenizer

_CHUNK = 8192


def spool_tokens(
    images: Columns, tokenizer: Tokenizer, max_length: int, templates: Sequence[str], root: Path
) -> Columns:
    """Tokenise every caption in every template.

    Args:
        images: as `spool_images` gives them.
        tokenizer: what turns texts into ids.
        max_length: L, tokens a text is cut or padded to.
        templates: T texts with one `{}` each for the caption; `("{}",)` leaves captions as they are.
        root: where spools lie.

    Returns:
        Column `tokens` int32 [M * T, L]; row `caption * T + template`.
    """
    key = [LAYOUT, images.facts["content_id"], images.facts["space_id"]]
    digest = sha256_json([*key, tokenizer.digest, max_length, list(templates)])
    num_captions = len(images["caption_key"])

    def build(writer: ColumnWriter) -> dict[str, Any]:
        progress = Progress("tokenising captions", num_captions)
        for start in range(0, num_captions, _CHUNK):
            captions = caption_texts(images, np.arange(start, min(start + _CHUNK, num_captions)))
            filled = [fill(template, caption) for caption in captions for template in templates]
            writer.append("tokens", np.asarray(tokenizer(filled, max_length), np.int32))
            progress.add(len(captions))
        progress.finish()
        return {"digest": digest, "templates": list(templates), "max_length": max_length}

    need = num_captions * len(templates) * max_length * 4
    return open_or_build(root, f"tokens-{digest[:16]}", build, need)


def spool_features(
    tokens: Columns,
    compute: Callable[[np.ndarray], np.ndarray],
    feature_dim: int,
    backbone_digest: str,
    root: Path,
    batch_size: int = 256,
) -> Columns:
    """Run a frozen text backbone over all tokens, once.

    Args:
        tokens: as `spool_tokens` gives them.
        compute: int32 [batch_size, L] -> float32 [batch_size, H], always called with a whole batch.
        feature_dim: H.
        backbone_digest: names the backbone's architecture and weights.
        root: where spools lie.
        batch_size: texts at a time.

    Returns:
        Column `features` float32 [M * T, H].
    """
    digest = sha256_json([LAYOUT, tokens.facts["digest"], backbone_digest])
    rows = tokens["tokens"]

    def build(writer: ColumnWriter) -> dict[str, Any]:
        progress = Progress("embedding captions with the frozen backbone", len(rows))
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            # The last batch is filled up with its own last row, so that one shape is compiled.
            whole = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])
            writer.append("features", np.asarray(compute(whole), np.float32)[: len(batch)])
            progress.add(len(batch))
        progress.finish()
        return {"backbone": backbone_digest}

    return open_or_build(root, f"features-{digest[:16]}", build, len(rows) * feature_dim * 4)


def training_texts(images: Columns, rows: np.ndarray, templates: Sequence[str]) -> Iterator[str]:
    """All captions of the given images int64 [R], each set into one template in turn."""
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        firsts, ends = images["caption_offsets"][chunk], images["caption_offsets"][chunk + 1]
        captions = np.concatenate([np.arange(a, b) for a, b in zip(firsts, ends, strict=True)])
        for index, caption in zip(captions, caption_texts(images, captions), strict=True):
            yield fill(templates[index % len(templates)], caption)


def fill(template: str, caption: str) -> str:
    """Set a caption into a template, taking it literally: braces inside the caption mean nothing."""
    before, after = template.split("{}")
    return before + caption + after
