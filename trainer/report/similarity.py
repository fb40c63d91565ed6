"""How near captions lie to their own images, and to those of others."""

from dataclasses import dataclass

import numpy as np

from trainer.report.sample import Sample

NEGATIVES = 16  # foreign captions an image is compared with


@dataclass(frozen=True)
class Similarities:
    """Cosines of a sample.

    Attributes:
        positives: float32 [N], of each image with its own caption.
        negatives: float32 [n], of images with captions of others; equal images and equal captions are left out.
    """

    positives: np.ndarray
    negatives: np.ndarray

    @property
    def told_apart(self) -> float:
        """How often a positive is above a negative, both drawn at random; ties count half."""
        below = np.searchsorted(np.sort(self.negatives), self.positives, "left")
        up_to = np.searchsorted(np.sort(self.negatives), self.positives, "right")
        return float((below + up_to).mean() / 2 / len(self.negatives))


def similarities(sample: Sample, texts: np.ndarray) -> Similarities | None:
    """Cosines of own pairs, and of each image with a few captions of other rows; None where there is no foreign one.

    Args:
        sample: images with captions.
        texts: float32 [N, D], unit rows; of the first caption of each.
    """
    size = len(texts)
    rows = np.arange(size)
    negatives = []
    for shift in np.unique(np.linspace(1, size - 1, NEGATIVES).astype(int)) if size > 1 else ():
        other = (rows + shift) % size
        foreign = (sample.image_keys != sample.image_keys[other]) & (
            sample.caption_keys != sample.caption_keys[other]
        )
        negatives.append(np.einsum("nd,nd->n", sample.embeddings[foreign], texts[other[foreign]]))
    if not sum(map(len, negatives)):
        return None
    return Similarities(np.einsum("nd,nd->n", sample.embeddings, texts), np.concatenate(negatives))
