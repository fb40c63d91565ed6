"""Which images are evaluated: the run's hold-out rule, ids, view 0."""

import numpy as np
import pyarrow as pa
import pytest

from schemas.digests import caption_key, image_keys
from schemas.pairs import PAIRS_SCHEMA
from schemas.store import JoinedPart
from trainer.data.holdout import held_out
from trainer.evals.selection import Selection, selected_parts


def joined(number, rows):
    """A part of the given (id, captions) rows; embeddings have two views, the second one is nonsense."""
    ids = [id for id, _ in rows]
    sha = np.random.default_rng(number).integers(0, 256, (len(rows), 32), dtype=np.uint8)
    views = np.stack([np.tile([3.0, 4.0], (len(rows), 1)), np.full((len(rows), 2), np.nan)], axis=1)
    pairs = pa.Table.from_pylist(
        [
            {"id": id, "captions": [{"text": text} for text in captions], "labels": [], "label_names": []}
            for id, captions in rows
        ],
        schema=PAIRS_SCHEMA,
    )
    return JoinedPart(f"part-{number}", pa.array(ids), sha, views.astype(np.float16), pairs)


class Parts:
    def __init__(self, parts):
        self.parts = parts

    def iter_joined(self, columns=()):
        for part in self.parts:
            yield JoinedPart(
                part.part, part.ids, part.image_sha256, part.embeddings, part.pairs.select(["id", *columns])
            )


@pytest.fixture
def parts():
    rows = [(f"val/{n}" if n % 3 else f"train/{n}", [f"caption {n}", "other"]) for n in range(40)]
    rows[7] = ("val/7", [])
    rows[8] = ("val/8", [" "])
    return [joined(0, rows[:25]), joined(1, rows[25:])]


def chosen(parts, **rule):
    return [id for part in selected_parts(Parts(parts), Selection(**rule)) for id in part.ids]


def test_all_images_in_order_with_unit_vectors_of_view_0(parts):
    found = list(selected_parts(Parts(parts), Selection(), ("labels",)))
    assert [id for part in found for id in part.ids] == [id for part in parts for id in part.ids.to_pylist()]
    np.testing.assert_allclose(found[0].embeddings, np.tile([0.6, 0.8], (25, 1)), atol=1e-3)
    assert found[0].pairs.column_names == ["id", "captions", "labels"]


def test_ids_are_a_shell_pattern_and_rows_stay_aligned(parts):
    found = list(selected_parts(Parts(parts), Selection(ids="train/*")))
    assert [id for part in found for id in part.ids] == [f"train/{n}" for n in range(0, 40, 3)]
    assert all(part.pairs.column("id").to_pylist() == part.ids for part in found)
    assert chosen(parts, ids="val/[12]") == ["val/1", "val/2"]
    assert chosen(parts, ids="TRAIN/*") == []


def test_splits_follow_the_training_rule_by_first_caption(parts):
    heldout, train = (
        chosen(parts, split=split, holdout_fraction=0.3, holdout_by="caption")
        for split in ("heldout", "train")
    )
    keys = {f"{n}": held_out(np.array([caption_key(f"caption {n}")], np.uint64), 0.3)[0] for n in range(40)}
    with_caption = [n for n in range(40) if n not in (7, 8)]
    assert [id.split("/")[1] for id in heldout] == [f"{n}" for n in with_caption if keys[f"{n}"]]
    assert [id.split("/")[1] for id in train] == [f"{n}" for n in with_caption if not keys[f"{n}"]]
    assert heldout


def test_splits_follow_the_training_rule_by_image(parts):
    heldout = chosen(parts, split="heldout", holdout_fraction=0.3, holdout_by="image")
    train = chosen(parts, split="train", holdout_fraction=0.3, holdout_by="image")
    out = [
        id
        for part in parts
        for id, held in zip(part.ids.to_pylist(), held_out(image_keys(part.image_sha256), 0.3), strict=True)
        if held
    ]
    assert heldout == out
    assert set(heldout) | set(train) | {"val/7", "val/8"} == set(chosen(parts))
    assert not set(heldout) & set(train)


def test_a_run_without_hold_out_has_no_heldout_split():
    with pytest.raises(ValueError, match="--split heldout: the run must have held images out"):
        Selection("heldout", holdout_fraction=0.0)
