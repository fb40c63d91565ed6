"""Which texts may name a record or a tower."""

import pytest

from schemas.failures import REASONS
from schemas.ids import check_tower_id, id_problem


@pytest.mark.parametrize("id", ["a", "0", "clé/ünï code 鍵", "a" * 1024, "../x", "emoji 😀"])
def test_good_ids(id: str) -> None:
    assert id_problem(id) is None


@pytest.mark.parametrize(
    ("id", "reason"),
    [
        (None, "missing_id"),
        ("", "empty_id"),
        (" \u00a0", "empty_id"),
        ("a\x00b", "bad_id"),
        ("a\nb", "bad_id"),
        ("é" * 513, "bad_id"),
        ("\ud800", "bad_id"),
    ],
)
def test_bad_ids_have_a_documented_reason(id: str | None, reason: str) -> None:
    assert id_problem(id) == reason
    assert reason in REASONS


@pytest.mark.parametrize("tower_id", ["", "A", "-a", ".hidden", "a/b", "a" * 65, "a b"])
def test_tower_id_is_a_folder_name_everywhere(tower_id: str) -> None:
    with pytest.raises(ValueError, match="tower_id: must be"):
        check_tower_id(tower_id)
    assert check_tower_id("vit-b16.v2_x") == "vit-b16.v2_x"
