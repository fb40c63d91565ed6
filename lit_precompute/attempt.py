"""A mark beside the receipts while a unit is worked on: one that still stands says that its process died."""

import logging
import uuid
from types import TracebackType

from lit_precompute.publish import remove, replace
from schemas.storage import Folder

log = logging.getLogger(__name__)

SUFFIX = ".attempt"


class Attempt:
    """Marks a unit as being worked on while the `with` block runs.

    A mark costs three requests a unit and nothing an image. It lies on the store like the receipts, so that the next
    attempt finds it whatever machine that runs on, and it is taken away whenever Python gets to do it. After a death it
    says only that there was one; which image it was, the next attempt finds out by decoding in processes of its own
    (`DecodeProcess`). That is right, and little slower, when the process died of something else.

    Args:
        receipts: the folder of the marks.
        unit: its name.

    Attributes:
        after_death: an earlier attempt at this unit left its mark.

    Raises:
        OSError: by `__enter__`, when the storage can not be read or written.
    """

    def __init__(self, receipts: Folder, unit: str) -> None:
        self._folder, self._name = receipts, f"{unit}{SUFFIX}"
        self._token = uuid.uuid4().hex.encode()
        self.after_death = False

    def __enter__(self) -> "Attempt":
        self.after_death = self._standing() is not None
        replace(self._folder, self._name, self._token)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._standing() == self._token:  # a later attempt may have put its own there
                remove(self._folder, self._name)
        except OSError as trouble:  # the next attempt decodes apart
            log.warning("%s: the mark of this attempt could not be taken away: %s", self._name, trouble)

    def _standing(self) -> bytes | None:
        try:
            return self._folder.read(self._name)
        except FileNotFoundError:
            return None


def died(receipts: Folder) -> list[str]:
    """Units whose marks stand although they are not done and nobody works here (the caller holds the lease)."""
    names = set(receipts.sizes())
    units = (name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))
    return sorted(unit for unit in units if f"{unit}.json" not in names)
