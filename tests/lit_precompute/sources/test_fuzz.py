"""A few hundred of the broken inputs of `benchmarks.fuzz`, which puts through a hundred thousand."""

from typing import Any

import pytest

from benchmarks import fuzz
from benchmarks.fuzz_seeds import SEEDS
from lit_precompute.sources import karpathy

INPUTS = 60


@pytest.mark.parametrize("reader", SEEDS)
def test_readers_give_records_or_damage(reader: str) -> None:
    assert any(outcome is None for data in SEEDS[reader].whole() for outcome in fuzz.outcomes(reader, data))
    assert not [o for data in SEEDS[reader].whole() for o in fuzz.outcomes(reader, data) if o is not None]
    for number in range(INPUTS):
        list(fuzz.outcomes(reader, fuzz.an_input(reader, 7, number)))


def test_inputs_depend_on_seed_and_number_alone() -> None:
    assert fuzz.an_input("coco", 0, 5) == fuzz.an_input("coco", 0, 5)
    assert len({fuzz.an_input("coco", seed, number) for seed in range(2) for number in range(30)}) > 50


def test_what_is_not_documented_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(data: dict[str, Any], config: Any) -> list[Any]:
        return [data["images"][0]]

    monkeypatch.setattr(karpathy, "parse", careless)
    with pytest.raises(IndexError):
        list(fuzz.outcomes("karpathy", b'{"images": []}'))
