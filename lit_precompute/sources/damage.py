"""Reading on past a damaged piece, so that nothing good beside it is lost."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from lit_precompute.records import DamagedInput

T = TypeVar("T")


def read_past_damage(pieces: Iterable[Callable[[], Iterator[T]]]) -> Iterator[T]:
    """The records (or rows) of all pieces, in order.

    Args:
        pieces: each starts reading a file or a row group.

    Raises:
        DamagedInput: after the last record, when a piece raised it; it names every damage.
    """
    damages: list[tuple[str, str]] = []
    for piece in pieces:
        try:
            yield from piece()
        except DamagedInput as damage:
            damages += damage.damages
    if damages:
        raise DamagedInput(*damages[0], others=damages[1:])
