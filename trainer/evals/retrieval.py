"""Retrieval: does an image find one of its captions, and a caption its image."""

from dataclasses import dataclass

import numpy as np

from trainer.evals.vectors import check_finite

KS = (1, 5, 10)

# Equal vectors multiplied in different corners of a block differ in their last bits (seen: 1e-7 for unit vectors,
# float32, D = 768). Scores this close are a tie, so that a tie is one wherever its rows stand.
TIE = 1e-6

DEFINITION = (
    "Candidates are ordered by cosine. i2t: an image hits at k if at least one of its own captions is among the k "
    "nearest captions; t2i: a caption hits at k if its own image is among the k nearest images. Ties count against "
    "us: rank = the number of other items' candidates whose score is at least the (best) own score, scores within "
    f"{TIE:g} of it included, and a hit at k is rank < k. So the figures do not depend on row order, and a caption "
    "that several images share, or an image stored twice, can miss at 1. With fewer than k candidates all are among "
    "the k nearest. r1, r5, r10 are fractions of images (i2t) and of captions (t2i). Images without a caption are "
    "left out of both sides."
)

FOLDS = " Averaged over folds: consecutive images in the store's order with their captions, each a search of its own."


@dataclass(frozen=True)
class Ranks:
    """How many foreign candidates stand at or before the own one.

    Attributes:
        i2t: int64 [N], for each image over captions of other images.
        t2i: int64 [M], for each caption over other images.
    """

    i2t: np.ndarray
    t2i: np.ndarray


def retrieval_ranks(
    image_embeddings: np.ndarray, text_embeddings: np.ndarray, caption_image: np.ndarray, block: int = 1024
) -> Ranks:
    """Ranks own against foreign candidates in both directions, a block of the score matrix at a time.

    S = Z_img Z_txtᵀ;  own_j = S[image of j, j];  best_i = max own_j over captions j of image i;
    t2i_j = |{i ≠ image of j : S_ij ≥ own_j − tie}|;  i2t_i = |{j not of i : S_ij ≥ best_i − tie}|.

    NumPy rather than JAX: comparing costs a quarter of the product here, and XLA's CPU column sums are slower
    (8192 × 8192, D = 256, 2 cores: 0.47 s against 0.47–0.74 s with a compilation besides).

    Args:
        image_embeddings: float32 [N, D], unit rows.
        text_embeddings: float32 [M, D], unit rows, in any order.
        caption_image: int [M], the row of each caption's image; every image has at least one caption.
        block: rows and columns compared at once; memory beside the inputs is O(block² + N + M).

    Raises:
        ValueError: if embeddings are not finite, shapes disagree or an image has no caption.
    """
    _check(image_embeddings, text_embeddings, caption_image)
    # Captions in the order of their images: a block then holds own pairs only near the diagonal.
    order = np.argsort(caption_image, kind="stable")
    owner = np.asarray(caption_image)[order]
    own = _own_scores(image_embeddings, text_embeddings, caption_image, block)[order]
    best = np.full(len(image_embeddings), -np.inf, dtype=np.float32)
    np.maximum.at(best, owner, own)
    i2t = np.zeros(len(image_embeddings), dtype=np.int64)
    t2i_sorted = np.zeros(len(owner), dtype=np.int64)
    for column in range(0, len(owner), block):
        columns = slice(column, column + block)
        texts, owners = text_embeddings[order[columns]], owner[columns]
        for row in range(0, len(i2t), block):
            rows = slice(row, row + block)
            scores = image_embeddings[rows] @ texts.T  # [b, D] @ [D, b] -> [b, b]
            _hide_own_pairs(scores, owners - row)
            i2t[rows] += np.count_nonzero(scores >= best[rows, None] - TIE, axis=1)
            t2i_sorted[columns] += np.count_nonzero(scores >= own[columns] - TIE, axis=0)
    t2i = np.empty_like(t2i_sorted)
    t2i[order] = t2i_sorted
    return Ranks(i2t, t2i)


def recall(ranks: np.ndarray, k: int) -> float:
    """Fraction of ranks int [N] below k.

    >>> recall(np.array([0, 3, 1, 0]), 1)
    0.5
    """
    return float((ranks < k).mean())


def summarize(ranks: np.ndarray) -> dict[str, float]:
    """The report's figures for one direction."""
    return {f"r{k}": recall(ranks, k) for k in KS} | {"median_rank": float(np.median(ranks) + 1)}


def _own_scores(images: np.ndarray, texts: np.ndarray, caption_image: np.ndarray, block: int) -> np.ndarray:
    """float32 [M]: each caption's score with its own image; block rows are gathered at a time."""
    own = np.empty(len(texts), dtype=np.float32)
    for start in range(0, len(texts), block):
        rows = slice(start, start + block)
        own[rows] = np.einsum("md,md->m", images[caption_image[rows]], texts[rows])
    return own


def _hide_own_pairs(scores: np.ndarray, owner_row: np.ndarray) -> None:
    """Sets scores [b, b] of own pairs to -inf, so that no comparison counts them; owner_row int [b] may lie outside."""
    columns = np.flatnonzero((owner_row >= 0) & (owner_row < len(scores)))
    scores[owner_row[columns], columns] = -np.inf


def _check(images: np.ndarray, texts: np.ndarray, caption_image: np.ndarray) -> None:
    if images.shape[1:] != texts.shape[1:] or len(texts) != len(caption_image):
        raise ValueError(
            "images [N, D], texts [M, D] and caption_image [M] must agree; "
            f"found {images.shape}, {texts.shape}, {np.shape(caption_image)}"
        )
    if len(texts) == 0 or caption_image.min() < 0 or caption_image.max() >= len(images):
        raise ValueError(f"caption_image must hold rows 0..{len(images) - 1} of the images, and not be empty")
    captions = np.bincount(caption_image, minlength=len(images))
    if (captions == 0).any():
        raise ValueError(
            f"every image must have a caption; {(captions == 0).sum()} of {len(images)} have none: leave them out first"
        )
    check_finite(images, "image embeddings")
    check_finite(texts, "caption embeddings")
