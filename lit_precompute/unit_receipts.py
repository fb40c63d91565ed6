"""Receipts on the store: left when a unit is done, found again, adopted from a part's footer, taken back."""

import logging

from lit_precompute.job import Job
from lit_precompute.parts import entry_of, read_part
from lit_precompute.publish import publish, remove
from lit_precompute.publish import replace as replace_file
from lit_precompute.receipt import Receipt
from lit_precompute.units import Unit
from schemas.storage import Folder

log = logging.getLogger(__name__)


def read_receipt(job: Job, unit_name: str, accept_damaged: bool | None = None) -> Receipt | None:
    """The unit's receipt of this run, or None when there is none or the parts it names are gone or cut short.

    A damaged unit's receipt counts only when `accept_damaged` (default: as the job says): the input may be whole
    by the next run.
    """
    if accept_damaged is None:
        accept_damaged = job.config.limits.accept_damaged
    try:
        receipt = Receipt.from_json(job.receipts.read(f"{unit_name}.json"))
    except (FileNotFoundError, ValueError):
        return None
    if receipt.run_id != job.run_id or not receipt.published:
        return None
    if receipt.status == "damaged" and not accept_damaged:
        return None
    for folder, part in ((job.store.child("pairs"), receipt.pairs), (job.images, receipt.images)):
        if part is not None and not _has_size(folder, part.name, part.bytes):
            return None
    return receipt


def adopt_part(job: Job, unit: Unit) -> Receipt | None:
    """The receipt in the footer of a whole part of this run, left by an attempt that died before its receipt."""
    name = f"embeddings-{unit.name}.parquet"
    found = read_part(job.images, name)
    if found is None or found[1].get("run_id") != job.run_id:
        return None
    table, footer = found
    try:
        receipt = Receipt.from_json(footer["receipt"])
    except (KeyError, ValueError):
        return None
    if receipt.status != "done" or receipt.pairs is None:
        return None
    pairs = read_part(job.store.child("pairs"), receipt.pairs.name)
    if pairs is None or pairs[1]["content"] != receipt.pairs.content:
        return None
    return receipt.with_images(entry_of(job.images, name, unit.planned_name, table, receipt.pairs.name))


def leave_receipt(job: Job, receipt: Receipt) -> Receipt:
    """Leaves the receipt; of a unit that was not published, a note."""
    name, note, data = f"{receipt.unit}.json", f"{receipt.unit}.note", receipt.to_json().encode()
    if not receipt.published:
        return leave_note(job, receipt)
    if not publish(
        job.receipts, name, data
    ):  # of a damaged or cut-short attempt: read_receipt did not accept it
        replace_file(job.receipts, name, data)
    remove(job.receipts, note)
    return receipt


def leave_note(job: Job, receipt: Receipt) -> Receipt:
    """Says beside a receipt's place why there is none, for the summary; storage that refuses even this is logged."""
    try:
        replace_file(job.receipts, f"{receipt.unit}.note", receipt.to_json().encode())
    except OSError as error:
        log.error("%s: %s; no note could be left: %s", receipt.unit, receipt.detail, error)
    return receipt


def refuse_unit(job: Job, unit: Unit, detail: str) -> Receipt:
    """A unit that a worker will not do, with why; the launcher's summary says so."""
    return leave_note(job, Receipt(unit.name, job.run_id, "refused", detail=detail))


def take_back(job: Job, receipt: Receipt, detail: str) -> None:
    """Makes a unit count as not done: its receipt is removed, and a note says why."""
    remove(job.receipts, f"{receipt.unit}.json")
    leave_note(job, Receipt(receipt.unit, job.run_id, "failed", detail=detail))


def _has_size(folder: Folder, name: str, size: int) -> bool:
    return folder.size(name) == size
