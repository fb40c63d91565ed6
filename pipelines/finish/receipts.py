"""The receipts of a job's units: which stand, which are taken back, and why there is none."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from lit_precompute.job import Job
from lit_precompute.receipt import Receipt
from lit_precompute.unit_receipts import read_receipt, take_back
from lit_precompute.units import Unit

READERS = 16  # receipts are small and storage is far


def standing_receipts(
    job: Job, units: Sequence[Unit], accept_damaged: bool | None = None
) -> list[Receipt | None]:
    """The receipt of each unit; None where the work is still to be done."""
    there = job.receipts.sizes()  # a listing, so that a fresh run of 10⁵ units does not ask for each
    candidates = [unit.name for unit in units if f"{unit.name}.json" in there]
    with ThreadPoolExecutor(READERS) as pool:
        receipts = pool.map(lambda name: read_receipt(job, name, accept_damaged), candidates)
        found = dict(zip(candidates, receipts, strict=True))
    return [found.get(unit.name) for unit in units]


def note_of(job: Job, unit_name: str) -> Receipt | None:
    """Why a unit has no receipt, when an attempt could say."""
    try:
        note = Receipt.from_json(job.receipts.read(f"{unit_name}.note"))
    except (FileNotFoundError, ValueError):
        return None
    return note if note.run_id == job.run_id else None


def discard_altered(job: Job, receipts: Sequence[Receipt]) -> set[str]:
    """Units of which a part is no longer the file that was published; their receipts are taken back.

    Whatever storage does between a part and the manifest (another attempt that wins late, a disk that forgets), what
    the manifest names has been read once as it stands. Parts are small beside the images they were made from.
    """
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(lambda receipt: _alteration(job, receipt), receipts))
    for receipt, detail in zip(receipts, found, strict=True):
        if detail:
            take_back(job, receipt, detail)
    return {receipt.unit for receipt, detail in zip(receipts, found, strict=True) if detail}


def _alteration(job: Job, receipt: Receipt) -> str:
    for folder, part in ((job.store.child("pairs"), receipt.pairs), (job.images, receipt.images)):
        if part is None:
            continue
        try:
            digest = folder.sha256(part.name)
        except FileNotFoundError:
            return f"{part.name}: gone after it was published"
        if digest != part.sha256:
            return (
                f"{part.name}: changed after it was published (sha256 must be {part.sha256[:12]}…, found "
                f"{digest[:12]}…)"
            )
    return ""
