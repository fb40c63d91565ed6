"""What may name a record, and what may name a tower's folder."""

import re

MAX_ID_BYTES = 1024
TOWER_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def id_problem(id: str | None) -> str | None:
    """Why a record may not carry this id, or None when it may.

    An id is any non-empty text of at most 1,024 UTF-8 bytes without control characters: slashes, spaces and
    every script are fine. Returns a reason of `failures.REASONS`.
    """
    if id is None:
        return "missing_id"
    if not id.strip():
        return "empty_id"
    if _CONTROL.search(id):
        return "bad_id"
    try:
        size = len(id.encode())
    except UnicodeEncodeError:
        return "bad_id"
    return "bad_id" if size > MAX_ID_BYTES else None


def check_tower_id(tower_id: str) -> str:
    """Returns `tower_id`, or raises ValueError when it could not be a folder's name everywhere."""
    if not TOWER_ID.fullmatch(tower_id):
        raise ValueError(
            f"tower_id: must be 1 to 64 of a-z 0-9 . _ - and start with a letter or digit, found {tower_id!r}. "
            "Choose another --tower-id."
        )
    return tower_id
