"""Keys that stand twice are found, each with its places, in memory or in temporary files."""

import numpy as np
import pytest

from pipelines.store import keys as keys_module
from pipelines.store.keys import KeyLedger


def keys(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def test_repeats_with_their_places_in_the_order_they_were_seen() -> None:
    high = 2**64 - 1
    with KeyLedger() as ledger:
        ledger.add(0, keys(5, high, 7), 0, np.arange(3))
        ledger.add(1, keys(high, 1), 0, np.array([8, 9]))
        ledger.add(2, keys(5, high), 0, np.array([0, 1]))
        found = ledger.repeats(show=1)
    assert (found.entries, found.distinct, found.groups) == (7, 4, 2)
    assert [(int(e["part"]), int(e["row"])) for e in found.largest[0]] == [(0, 1), (1, 8), (2, 1)]


def test_nothing_noted() -> None:
    with KeyLedger() as ledger:
        ledger.add(0, keys(), 0, np.arange(0))
        found = ledger.repeats(show=3)
    assert (found.entries, found.distinct, found.groups, found.largest) == (0, 0, 0, [])


def test_the_same_whether_it_spills_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 2**64, 3000, np.uint64, endpoint=False)
    drawn = pool[rng.integers(0, len(pool), 5000)]
    values, counts = np.unique(drawn, return_counts=True)
    for limit in (1 << 20, 64):
        monkeypatch.setattr(keys_module, "IN_MEMORY", limit)
        with KeyLedger() as ledger:
            for part in range(10):
                ledger.add(part, drawn[500 * part : 500 * part + 500], 0, np.arange(500))
            found = ledger.repeats(show=4)
        assert (found.entries, found.distinct, found.groups) == (5000, len(values), int((counts > 1).sum()))
        assert [len(group) for group in found.largest] == sorted(counts, reverse=True)[:4]
        for group in found.largest:
            assert len({int(drawn[500 * e["part"] + e["row"]]) for e in group}) == 1
