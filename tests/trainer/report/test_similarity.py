"""Own pairs against foreign ones, equal images and captions being no strangers."""

import numpy as np
import pytest

from trainer.report.sample import Sample
from trainer.report.similarity import Similarities, similarities


def make_sample(embeddings: np.ndarray, image_keys: list[int], caption_keys: list[int]) -> Sample:
    size = len(embeddings)
    return Sample(
        ids=[str(row) for row in range(size)],
        units=["g000-00000"] * size,
        image_sha256=[b""] * size,
        image_keys=np.array(image_keys, np.uint64),
        caption_keys=np.array(caption_keys, np.uint64),
        captions=[["x"]] * size,
        embeddings=embeddings.astype(np.float32),
        norms=np.ones(size, np.float32),
        looked_at=size,
        parts=1,
        all_parts=1,
    )


def test_every_foreign_pair_of_a_small_sample() -> None:
    eye = np.eye(3)
    found = similarities(make_sample(eye, [1, 2, 3], [4, 5, 6]), eye.astype(np.float32))
    assert found is not None
    assert found.positives.tolist() == [1, 1, 1]
    assert found.negatives.tolist() == [0] * 6
    assert found.told_apart == 1.0


def test_the_same_image_or_caption_is_no_foreign_pair() -> None:
    eye = np.eye(3)
    found = similarities(make_sample(eye, [1, 1, 3], [4, 5, 4]), eye.astype(np.float32))
    assert found is not None
    assert len(found.negatives) == 2  # rows 1 and 2 only, both ways
    assert similarities(make_sample(eye, [1, 1, 1], [4, 5, 6]), eye.astype(np.float32)) is None
    assert similarities(make_sample(eye[:1], [1], [4]), eye[:1].astype(np.float32)) is None


def test_ties_count_half() -> None:
    assert Similarities(np.array([0.5, 0.1]), np.array([0.5, 0.0])).told_apart == pytest.approx((1.5 + 1) / 4)
