"""What the spool lays out is what the store holds, whichever way it is asked for."""

import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from schemas.digests import caption_key
from schemas.store import open_store
from trainer.data.batches import ahead, gather
from trainer.data.columns import open_columns, open_or_build
from trainer.data.sampler import Sampler
from trainer.data.spool import Spool, caption_texts, default_spool_dir, spool_images, training_rows
from trainer.data.spool_text import fill, spool_features, spool_tokens, training_texts


@pytest.fixture
def images(write_store, row):
    """Two parts, two views, D = 3: five images, of which one has no caption and one only blanks."""
    units = [
        [
            row("a", [[1, 2, 3], [-1, -2, -3]], ("a cat", "one sleeping cat")),
            row("b", [[4, 5, 6], [-4, -5, -6]], ()),
            row("ü", [[7, 8, 9], [-7, -8, -9]], ("", "größer {}")),
        ],
        [
            row("d", [[10, 11, 12], [-10, -11, -12]], ("A  CAT",), image=b"same picture"),
            row("e", [[13, 14, 15], [-13, -14, -15]], (" ",)),
            row("f", [[16, 17, 18], [-16, -17, -18]], ("dogs",), image=b"same picture"),
        ],
    ]
    return open_store(write_store(units)).images("tower")


def test_images_without_a_usable_caption_are_counted_and_left_out(images, tmp_path):
    columns = spool_images(images, tmp_path / "spool")
    assert columns.facts["images"] == 4
    assert columns.facts["without_caption"] == 2
    assert columns.facts["captions"] == 5
    assert columns["caption_offsets"].tolist() == [0, 2, 3, 4, 5]
    assert columns["embeddings"].dtype == np.float16
    np.testing.assert_array_equal(columns["embeddings"][2], [[10, 11, 12], [-10, -11, -12]])
    captions = caption_texts(columns, np.arange(5))
    assert captions == ["a cat", "one sleeping cat", "größer {}", "A  CAT", "dogs"]
    assert columns["caption_key"].tolist() == [caption_key(text) for text in captions]
    assert columns["image_key"][2] == columns["image_key"][3]


def test_a_spool_is_built_once_and_again_when_a_file_was_cut(images, tmp_path, monkeypatch):
    root = tmp_path / "spool"
    first = spool_images(images, root)
    monkeypatch.setattr(images, "iter_joined", lambda columns: pytest.fail("read the store again"))
    spool_images(images, root)
    monkeypatch.undo()
    damaged = first.path / "embeddings.bin"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert open_columns(first.path) is None
    again = spool_images(images, root)
    np.testing.assert_array_equal(again["embeddings"][0], [[1, 2, 3], [-1, -2, -3]])


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def build(writer):
        writer.append("x", np.zeros(3))
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="on fire"):
        open_or_build(tmp_path, "half", build, 0)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_dead_builds_are_swept_and_of_living_ones_kept(tmp_path):
    dead = tmp_path / f".building-{socket.gethostname()}-99999999-abc"
    living = tmp_path / f".building-{socket.gethostname()}-{os.getpid()}-abc"
    dead.mkdir()
    living.mkdir()
    open_or_build(tmp_path, "whole", lambda writer: writer.append("x", np.zeros(3)) or {}, 24)
    assert not dead.exists()
    assert living.exists()


def test_another_run_that_finished_first_wins(tmp_path):
    def build(writer):
        writer.append("x", np.array([1]))
        open_or_build(tmp_path, "same", lambda other: other.append("x", np.array([2])) or {}, 8)
        return {}

    assert open_or_build(tmp_path, "same", build, 8)["x"].tolist() == [2]


def test_too_little_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match="--spool-dir"):
        open_or_build(tmp_path, "large", lambda writer: pytest.fail("was built"), 101)


def test_a_store_without_captions_is_refused(write_store, row, tmp_path):
    images = open_store(write_store([[row("a", [[1, 2, 3]], ())]])).images("tower")
    with pytest.raises(ValueError, match="--caption-column"):
        spool_images(images, tmp_path / "spool")
    assert not list((tmp_path / "spool").iterdir())


def test_a_damaged_part_is_named(images, tmp_path):
    part = Path(images.folder.at(images.parts[1].name))
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(ValueError, match=images.parts[1].name):
        spool_images(images, tmp_path / "spool")


def test_tokens_are_caption_major_and_templates_take_captions_literally(images, word_lengths, tmp_path):
    columns = spool_images(images, tmp_path)
    tokens = spool_tokens(columns, word_lengths, 4, ("{}", "see {}!"), tmp_path)["tokens"]
    assert tokens.shape == (10, 4)
    assert tokens[0].tolist() == [1, 3, 0, 0]  # a cat
    assert tokens[1].tolist() == [3, 1, 4, 0]  # see a cat!
    assert tokens[5].tolist() == [3, 6, 3, 0]  # see größer {}!
    assert fill("see {}!", "größer {}") == "see größer {}!"


def test_tokens_depend_on_templates_and_length_alone(images, word_lengths, tmp_path):
    columns = spool_images(images, tmp_path)
    first = spool_tokens(columns, word_lengths, 4, ("{}",), tmp_path)
    assert spool_tokens(columns, word_lengths, 4, ("{}",), tmp_path).path == first.path
    assert spool_tokens(columns, word_lengths, 5, ("{}",), tmp_path).path != first.path
    assert spool_tokens(columns, word_lengths, 4, ("a {}",), tmp_path).path != first.path


def test_frozen_features_come_from_whole_batches_and_are_computed_once(images, word_lengths, tmp_path):
    tokens = spool_tokens(spool_images(images, tmp_path), word_lengths, 4, ("{}",), tmp_path)
    shapes = []

    def compute(batch):
        shapes.append(batch.shape)
        return batch[:, :2].astype(np.float32) * 0.5

    features = spool_features(tokens, compute, 2, "backbone", tmp_path, batch_size=3)["features"]
    np.testing.assert_array_equal(features, tokens["tokens"][:, :2] * np.float32(0.5))
    assert shapes == [(3, 4), (3, 4)]
    spool_features(tokens, lambda batch: pytest.fail("computed again"), 2, "backbone", tmp_path)


def test_hold_out_by_caption_keeps_equal_first_captions_together(write_store, row, tmp_path):
    rows = [row(f"{i}", [[i, 1, 2]], (f"caption {i // 2}",)) for i in range(400)]
    columns = spool_images(open_store(write_store([rows])).images("tower"), tmp_path)
    kept = training_rows(columns, 0.25, "caption", tmp_path)
    assert 260 < len(kept) < 340
    assert all((row ^ 1) in set(kept.tolist()) for row in kept.tolist())
    by_image = training_rows(columns, 0.25, "image", tmp_path)
    assert not np.array_equal(kept, by_image)
    assert training_rows(columns, 0.0, "caption", tmp_path).tolist() == list(range(400))


def test_training_texts_are_the_kept_captions_in_their_templates(images, tmp_path):
    columns = spool_images(images, tmp_path)
    found = list(training_texts(columns, np.array([0, 3]), ("{}", "a photo of {}")))
    assert found == ["a cat", "a photo of one sleeping cat", "dogs"]


@pytest.fixture
def spool(images, word_lengths, tmp_path):
    columns = spool_images(images, tmp_path)
    templates = ("{}", "see {}!")
    tokens = spool_tokens(columns, word_lengths, 4, templates, tmp_path)["tokens"]
    return Spool(columns, np.array([0, 1, 2, 3]), tokens, len(templates))


def test_every_row_of_a_batch_belongs_together(spool, word_lengths):
    owners = {"a": {"a cat", "one sleeping cat"}, "ü": {"größer {}"}, "d": {"A  CAT"}, "f": {"dogs"}}
    vectors = {"a": 1, "ü": 7, "d": 10, "f": 16}
    sampler = Sampler(4, 3, seed=5)
    seen = set()
    for step in range(40):
        batch = gather(spool, sampler, step)
        assert batch.image_embeddings.shape == (3, 3)
        assert batch.text.dtype == np.int32
        for i, name in enumerate(spool.ids(sampler.rows(step))):
            assert abs(batch.image_embeddings[i, 0]) == vectors[name]
            filled = {text: [fill(t, text) for t in ("{}", "see {}!")] for text in owners[name]}
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


def test_batches_made_ahead_are_the_same_and_in_order(spool):
    sampler = Sampler(4, 2, seed=0)
    made = list(ahead(lambda step: gather(spool, sampler, step), range(3, 9)))
    for step, batch in zip(range(3, 9), made, strict=True):
        for ours, theirs in zip(batch, gather(spool, sampler, step), strict=True):
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


def test_the_default_folder_follows_the_desktop_convention(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_spool_dir() == Path("/somewhere/lit-precompute")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_spool_dir() == Path.home() / ".cache" / "lit-precompute"
