"""The two sides of retrieval, gathered from parts."""

import numpy as np
import pyarrow as pa
import pytest

from schemas.pairs import PAIRS_SCHEMA
from trainer.evals.captions import embed_captions, gather_captioned
from trainer.evals.selection import SelectedPart


def selected(rows, keys, embeddings):
    pairs = pa.Table.from_pylist(
        [
            {"id": id, "captions": [{"text": text} for text in texts], "labels": [], "label_names": []}
            for id, texts in rows
        ],
        schema=PAIRS_SCHEMA,
    )
    ids = [id for id, _ in rows]
    return SelectedPart(
        ids,
        np.array(keys, np.uint64),
        np.array(embeddings, np.float32),
        pairs,
        "part",
        np.zeros((len(ids), 32), np.uint8),
    )


def test_captions_point_to_their_images_across_parts():
    one = selected([("a", ["A dog", "pet"]), ("b", [])], [1, 2], [[1, 0], [9, 9]])
    two = selected(
        [("c", [" ", "a  DOG", "dawn"]), ("d", ["night", "night"])], [2**63 + 5, 1], [[0, 1], [1, 1]]
    )
    found = gather_captioned([one, two])
    assert found.texts == ["A dog", "pet", "a  DOG", "dawn", "night", "night"]
    np.testing.assert_array_equal(found.caption_image, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(found.embeddings, [[1, 0], [0, 1], [1, 1]])
    assert found.n_without_caption == 1
    assert found.n_shared_captions == 2  # "A dog" and "a  DOG"; "night" twice is of one image
    assert found.n_repeated_images == 2


def test_nothing_to_retrieve_is_refused():
    with pytest.raises(ValueError, match="found 1 chosen images, none with one"):
        gather_captioned([selected([("b", [])], [2], [[9, 9]])])
    with pytest.raises(ValueError, match="found 0 chosen images"):
        gather_captioned([])


def test_templates_are_averaged_and_renormalised():
    directions = {"a x": [1.0, 0.0], "the x": [0.0, 1.0], "a y": [0.0, 1.0], "the y": [0.0, 1.0]}

    def embed_texts(texts):
        assert len(texts) == 4  # "x" occurs twice and is embedded once
        return np.array([directions[text] for text in texts], np.float32)

    found = embed_captions(embed_texts, ["x", "y", "x"], ["a {}", "the {}"])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found, [[half, half], [0, 1], [half, half]], atol=1e-6)
