"""The text side of the spool: tokens of every chosen caption in every template, and frozen features of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schemas.digests import sha256_json
from trainer.data.by_length import features_by_length, features_of
from trainer.data.captions import Captions
from trainer.data.columns import Columns, ColumnWriter, open_or_build
from trainer.data.pieces import Pieces, built_in_pieces
from trainer.data.progress import Progress
from trainer.data.spool import texts
from trainer.tokenizers import Tokenizer

# Captions of one piece: what a killed spool loses at most.
_TOKENS_PIECE = 1 << 16
_FEATURES_PIECE = 1 << 15


def spool_tokens(
    images: Columns,
    captions: Captions,
    tokenizer: Tokenizer,
    max_length: int,
    templates: Sequence[str],
    root: Path,
) -> Columns:
    """Tokenise every chosen caption in every template.

    Args:
        images: as `spool_images` gives them.
        captions: the m that are trained on.
        tokenizer: what turns texts into ids.
        max_length: L, tokens a text is cut or padded to.
        templates: T texts with one `{}` each for the caption; `("{}",)` leaves captions as they are.
        root: where spools lie.

    Returns:
        Column `tokens` int32 [m * T, L]; row `caption * T + template`.
    """
    digest = sha256_json([captions.digest, tokenizer.digest, max_length, list(templates)])

    def rows(start: int, end: int) -> np.ndarray:
        found = caption_texts(images, captions, np.arange(start, end))
        filled = [fill(template, caption) for caption in found for template in templates]
        return np.asarray(tokenizer(filled, max_length), np.int32)

    facts = {
        "digest": digest,
        "templates": list(templates),
        "max_length": max_length,
        "pad_id": tokenizer.pad_id,
    }
    return _rows_in_pieces(
        root, f"tokens-{digest[:16]}", "tokens", (len(captions), len(templates)), ("<i4", (max_length,)), rows,
        _TOKENS_PIECE, facts, "tokenising captions",
    )  # fmt: skip


def spool_features(
    tokens: Columns,
    compute: Callable[[np.ndarray], np.ndarray],
    feature_dim: int,
    backbone_digest: str,
    root: Path,
    batch_size: int = 256,
    *,
    blind_to_padding: bool = True,
) -> Columns:
    """Run a frozen text backbone over all tokens, once, each caption at about its own length where padding is nothing.

    Args:
        tokens: as `spool_tokens` gives them.
        compute: int32 [batch_size, l] -> float32 [batch_size, H], always called with a whole batch.
        feature_dim: H.
        backbone_digest: names the backbone's architecture and weights.
        root: where spools lie.
        batch_size: texts at a time.
        blind_to_padding: whether a row gives the same without what stands behind its last token; False where padding
            is looked at, or is the end token too.

    Returns:
        Column `features` float32 [m * T, H].
    """
    digest = sha256_json([tokens.facts["digest"], backbone_digest, "by length"])
    column, pad_id = tokens["tokens"], int(tokens.facts["pad_id"])

    def rows(start: int, end: int) -> np.ndarray:
        if not blind_to_padding:
            return features_of(column[start:end], compute, feature_dim, batch_size)
        return features_by_length(column[start:end], compute, feature_dim, pad_id, batch_size)

    return _rows_in_pieces(
        root, f"features-{digest[:16]}", "features", (len(column), 1), ("<f4", (feature_dim,)), rows,
        _FEATURES_PIECE, {"backbone": backbone_digest}, "embedding captions with the frozen backbone",
    )  # fmt: skip


def caption_texts(images: Columns, captions: Captions, chosen: np.ndarray) -> list[str]:
    """The chosen captions int64 [n] as they were written."""
    return texts(images, "caption", captions.stored(chosen))


def fill(template: str, caption: str) -> str:
    """Set a caption into a template, taking it literally: braces inside the caption mean nothing."""
    before, after = template.split("{}")
    return before + caption + after


def _rows_in_pieces(
    root: Path,
    name: str,
    column: str,
    count: tuple[int, int],
    layout: tuple[str, tuple[int, ...]],
    rows: Callable[[int, int], np.ndarray],
    piece: int,
    facts: dict[str, Any],
    label: str,
) -> Columns:
    """One column of known length, computed from a run of items at a time.

    Args:
        root, name: of the folder.
        column: its name.
        count: items, and rows of each.
        layout: dtype of the column, and shape of a row.
        rows: the rows of the items from one number to another.
        piece: items of one run.
        facts: to keep with the column.
        label: what is done, for people.
    """
    items, rows_each = count
    dtype, shape = layout

    def write(pieces: Pieces, missing: list[int]) -> None:
        progress = Progress(label, items)
        progress.skip(items - sum(min(piece, items - number * piece) for number in missing))
        for number in missing:
            start, end = number * piece, min((number + 1) * piece, items)
            pieces.write(number, {column: (start * rows_each, rows(start, end))})
            progress.add(end - start)
        progress.finish()

    def join(pieces: Pieces, writer: ColumnWriter) -> dict[str, Any]:
        return facts

    whole = (items * rows_each, *shape)
    need = int(np.prod(whole, dtype=np.int64)) * np.dtype(dtype).itemsize
    build = built_in_pieces({column: (dtype, whole)}, -(-items // piece), write, join)
    return open_or_build(root, name, build, need, label)
