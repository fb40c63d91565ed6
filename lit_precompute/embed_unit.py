"""One unit of input becomes one part of pairs, one part of embeddings, one receipt: the heart of stage 1."""

import errno
import logging
import random
import time
from collections.abc import Callable
from itertools import islice

import numpy as np

from lit_precompute.attempt import Attempt
from lit_precompute.config import EmbedConfig
from lit_precompute.decode import DecodeLimits
from lit_precompute.decode_pool import DecodePool
from lit_precompute.embedder import Embedder
from lit_precompute.equal_images import EqualImages
from lit_precompute.job import Job, finished
from lit_precompute.prepare import failure_of
from lit_precompute.publish_unit import RefusedError, publish_retried, publish_unit
from lit_precompute.receipt import Receipt
from lit_precompute.sources import SOURCES
from lit_precompute.standstill import StandstillGuard
from lit_precompute.tally import Tally
from lit_precompute.unit_receipts import adopt_part, leave_note, leave_receipt, read_receipt
from lit_precompute.units import Unit
from lit_precompute.vectors import vectors_problem

log = logging.getLogger(__name__)

READ_ATTEMPTS = 4  # of a whole unit, when storage fails; waits 1, 2, 4 s, each ± half


def embed_unit(
    job: Job, unit: Unit, embedder: Embedder, on_progress: Callable[[int], None] = lambda seen: None
) -> Receipt:
    """Embeds one unit, or finds that it is done already.

    Trouble with one record costs that record; trouble with the input or the storage ends in a receipt that says
    so. Nothing of this is raised: an engine would retry the unit blindly, or give up the whole job.

    Args:
        job: what every unit has in common.
        unit: which input.
        embedder: the loaded tower.
        on_progress: told how many records of this unit are through, now and then.

    Returns:
        The receipt; it has also been published when the unit is done or damaged.
    """
    for attempt in range(READ_ATTEMPTS):
        try:
            if (standing := read_receipt(job, unit.name)) is not None:
                return standing
            if (adopted := adopt_part(job, unit)) is not None:
                return leave_receipt(job, adopted)
            with Attempt(job.receipts, unit.name) as mark, StandstillGuard():
                isolated = job.isolate_decoding or mark.after_death
                receipt = _embed(job, unit, embedder, on_progress, isolated)
            late = not unit.retry and finished(job) is not None
            return receipt if late else leave_receipt(job, receipt)
        except OSError as error:
            detail = f"{type(error).__name__}: {error}"
            if not _worth_retrying(error) or attempt == READ_ATTEMPTS - 1:
                break
            log.warning("%s: %s; trying again", unit.name, detail)
            time.sleep(2**attempt * random.uniform(0.5, 1.5))
        except RefusedError as error:
            return leave_note(job, Receipt(unit.name, job.run_id, "refused", detail=str(error)))
    return leave_note(job, Receipt(unit.name, job.run_id, "failed", detail=detail))


def _embed(
    job: Job, unit: Unit, embedder: Embedder, on_progress: Callable[[int], None], isolated: bool
) -> Receipt:
    """Reads, decodes, embeds and writes one unit."""
    tally = Tally(job.config.limits.max_failure_rate if not unit.retry else 1.0)
    rows: list[tuple[int, str, bytes, np.ndarray]] = []  # position, id, sha256, vectors of its views
    source, config = SOURCES[job.config.source.format], job.config
    read = source.read_unit(unit, config.source, job.storage_options, config.limits.max_bytes)
    wanted = (record for record in islice(read, unit.limit) if unit.wants(record.position))
    records = tally.accept(wanted)
    equal = EqualImages(config.work.dedup_exact)
    with DecodePool(
        config.work.decode_threads,
        embedder.tower.preprocess,
        _limits(config),
        config.limits.decode_timeout,
        isolated,
        config.views,
    ) as pool:
        images = equal.first(tally.images(pool.stream(records)))
        for item, vectors in equal.spread(embedder.stream_views(images)):
            on_progress(tally.seen)
            if problem := vectors_problem(vectors, config.dtype):
                tally.failures.append(failure_of(item.record, "embed", *problem))
            else:
                assert item.record.id is not None
                rows.append((item.record.position, item.record.id, item.sha256, vectors))
    if tally.too_many:
        return Receipt(unit.name, job.run_id, "failed", seen=tally.seen, detail=tally.too_many)
    rows.sort(key=lambda row: row[0])
    publish_rows = publish_retried if unit.retry else publish_unit
    return publish_rows(job, unit, tally, [row[1:] for row in rows])


def _limits(config: EmbedConfig) -> DecodeLimits:
    return DecodeLimits(max_pixels=config.limits.max_pixels, max_bytes=config.limits.max_bytes)


def _worth_retrying(error: OSError) -> bool:
    """A full disk, a changed input, a missing file or right stay what they are; everything else may pass."""
    final = (errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.EDQUOT)
    return not isinstance(error, FileNotFoundError | PermissionError) and error.errno not in final
