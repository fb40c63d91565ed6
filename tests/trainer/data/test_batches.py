"""A batch's rows belong together, whichever store, view, caption and template they are of."""

import dataclasses

import numpy as np
import pytest

from schemas.digests import caption_key
from trainer.data.batches import Batch, ahead, gather, parts_of
from trainer.data.mixture import make_mixture
from trainer.data.spool_text import fill, spool_tokens
from trainer.data.spools import mixed_ids

TEMPLATES = ("{}", "see {}!")


@pytest.fixture
def with_tokens(word_lengths, tmp_path):
    def add(spool, templates=TEMPLATES):
        tokens = spool_tokens(spool.images, spool.captions, word_lengths, 4, templates, tmp_path / "spool")
        return dataclasses.replace(spool, text=tokens["tokens"], num_templates=len(templates))

    return add


@pytest.fixture
def spool(spooled, units, with_tokens):
    return with_tokens(spooled(units))


@pytest.fixture
def other(spooled, row, with_tokens):
    """A second store, of one view in which one picture of the first store comes again."""
    rows = [row(f"o{i}", [[100 + i, i, i]], (f"other {'x' * i}",)) for i in range(8)]
    rows.append(row("again", [[108, 8, 8]], ("once more",), image=b"same picture"))
    return with_tokens(spooled([rows], name="other"))


def mixture_of(*spools, batch_size, weights=(), seed=5):
    names, rows = [spool.name for spool in spools], [len(spool.rows) for spool in spools]
    return make_mixture(names, rows, weights, batch_size, seed)


def test_every_row_of_a_batch_belongs_together(spool, word_lengths):
    owners = {"a": {"a cat", "one sleeping cat"}, "ü": {"größer {}"}, "d": {"A  CAT"}, "f": {"dogs"}}
    vectors = {"a": 1, "ü": 7, "d": 10, "f": 16}
    mixture = mixture_of(spool, batch_size=3)
    seen = set()
    for step in range(60):
        batch = gather([spool], mixture, step)
        assert batch.image_embeddings.shape == (3, 3)
        assert batch.text.dtype == np.int32
        for i, name in enumerate(mixed_ids([spool], mixture.rows(step))):
            assert abs(batch.image_embeddings[i, 0]) == vectors[name]
            filled = {text: [fill(t, text) for t in TEMPLATES] for text in owners[name]}
            match = [
                text
                for text, options in filled.items()
                if any((word_lengths([o], 4)[0] == batch.text[i]).all() for o in options)
            ]
            assert match
            keys = {caption_key(text) for text in match}
            assert int(batch.caption_keys[i].view(np.uint64)[0]) in keys
            seen.add((name, tuple(batch.text[i]), float(batch.image_embeddings[i, 0])))
    assert len(seen) == (2 + 1 + 1 + 1) * 2 * 2  # captions x templates x views all come up


def test_a_batch_of_two_stores_has_each_store_s_share_and_its_own_rows(spool, other):
    mixture = mixture_of(spool, other, batch_size=6, weights=(1, 2))
    for step in range(20):
        batch = gather([spool, other], mixture, step)
        ids = mixed_ids([spool, other], mixture.rows(step))
        assert [id.split(": ")[0].rsplit("/", 1)[1] for id in ids] == ["store"] * 2 + ["other"] * 4
        alone = [gather([one], dataclasses.replace(mixture, samplers=(sampler,)), step)
                 for one, sampler in zip((spool, other), mixture.samplers, strict=True)]  # fmt: skip
        for ours, *parts in zip(batch, *alone, strict=True):
            np.testing.assert_array_equal(ours, np.concatenate(parts))


def test_one_picture_has_one_key_in_both_stores(spool, other):
    mixture = mixture_of(spool, other, batch_size=0)
    batch = gather([spool, other], mixture, 0)
    ids = [id.split(": ")[1] for id in mixed_ids([spool, other], mixture.rows(0))]
    keys = dict(zip(ids, batch.image_keys.tolist(), strict=True))
    assert keys["again"] == keys["d"] == keys["f"]
    assert len({tuple(key) for key in keys.values()}) == len(ids) - 2


def test_views_are_drawn_by_seed_step_and_row(spool):
    def views(step: int, seed: int) -> list[bool]:
        return (
            gather([spool], mixture_of(spool, batch_size=0, seed=seed), step).image_embeddings[:, 0] < 0
        ).tolist()

    assert views(3, 0) == views(3, 0)
    assert len({tuple(views(step, seed)) for step in range(8) for seed in range(4)}) > 8


def test_stores_of_two_dtypes_give_the_wider(spool, spooled, write_store, row, with_tokens, tmp_path):
    from trainer.config import DataConfig
    from trainer.data.spools import spool_stores
    from trainer.data.stores import open_stores

    path = write_store([[row("w", [[0.1, 0.2, 0.3]], ("w",))]], "wide", "float32")
    wide = with_tokens(
        spool_stores(open_stores([path], None, {}), DataConfig((path,)), tmp_path / "spool")[0]
    )
    batch = gather([spool, wide], mixture_of(spool, wide, batch_size=0), 0)
    assert batch.image_embeddings.dtype == np.float32
    np.testing.assert_array_equal(batch.image_embeddings[-1], np.float32([0.1, 0.2, 0.3]))
    assert set(np.abs(batch.image_embeddings[:-1, 0])) == {1, 7, 10, 16}


def test_joint_batches_have_a_caption_of_each_kind(spooled, row, with_tokens, word_lengths):
    units = [
        [
            row(f"{i}", [[i, 0]], ((f"t {i}", "title", None), (f"d {i} {i}", "tags", None)))
            for i in range(1, 6)
        ]
    ]
    spool = with_tokens(spooled(units, caption_kinds=("title", "tags"), caption_draw="joint"), ("{}",))
    mixture = mixture_of(spool, batch_size=4)
    batch = gather([spool], mixture, 2)
    assert batch.text.shape == (4, 2, 4)
    assert batch.caption_keys.shape == (4, 2, 2)
    for i, name in enumerate(spool.ids(mixture.rows(2)[0])):
        texts = [f"t {name}", f"d {name} {name}"]
        np.testing.assert_array_equal(batch.text[i], word_lengths(texts, 4))
        keys = np.ascontiguousarray(batch.caption_keys[i]).view(np.uint64)[:, 0]
        assert keys.tolist() == [caption_key(text) for text in texts]


def test_a_part_of_a_batch_is_that_slice_of_it(spool, other):
    mixture = mixture_of(spool, other, batch_size=9)
    whole = gather([spool, other], mixture, 4)
    for part in (slice(0, 3), slice(3, 6), slice(2, 9), slice(5, 5)):
        for ours, theirs in zip(gather([spool, other], mixture, 4, part), whole, strict=True):
            np.testing.assert_array_equal(ours, theirs[part])
    assert [one.tolist() for one in parts_of([np.arange(3), np.arange(4)], slice(2, 5))] == [[2], [0, 1]]


def test_batches_made_ahead_are_the_same_and_in_order(spool):
    mixture = mixture_of(spool, batch_size=2)
    made = list(ahead(lambda step: gather([spool], mixture, step), range(3, 9)))
    for step, batch in zip(range(3, 9), made, strict=True):
        assert isinstance(batch, Batch)
        for ours, theirs in zip(batch, gather([spool], mixture, step), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_trouble_while_making_ahead_is_raised_at_its_step():
    def make(step):
        if step == 2:
            raise RuntimeError("step 2")
        return step

    batches = ahead(make, range(5))
    assert next(batches) == 0
    assert next(batches) == 1
    with pytest.raises(RuntimeError, match="step 2"):
        next(batches)
