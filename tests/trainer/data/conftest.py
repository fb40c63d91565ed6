"""A small store with everything that needs care, and the spool of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.store import ImagesFolder
from trainer.config import DataConfig
from trainer.data.columns import Columns
from trainer.data.spool import spool_images
from trainer.data.spools import Spool, spool_stores
from trainer.data.stores import OpenedStore, open_stores


@pytest.fixture
def units(row):
    """Two parts, two views, D = 3: six images, of which one has no caption and one only blanks."""
    return [
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


@pytest.fixture
def opened(write_store, units) -> OpenedStore:
    return open_stores([write_store(units)], None, {})[0]


@pytest.fixture
def images(opened) -> ImagesFolder:
    return opened.images


@pytest.fixture
def columns(opened, tmp_path) -> Columns:
    return spool_images(opened.images, opened.source, tmp_path / "spool")


@pytest.fixture
def spooled(write_store, tmp_path) -> Callable[..., Spool]:
    """`spooled(units, name="store", **choices) -> Spool` of a new store; choices are fields of DataConfig."""

    def make(units, name: str = "store", apart=None, **choices) -> Spool:
        stores = open_stores([write_store(units, name)], None, {})
        root: Path = tmp_path / "spool"
        return spool_stores(stores, DataConfig((name,), **choices), root, apart=apart)[0]

    return make
