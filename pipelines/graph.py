"""The graph that embeds every unit of a plan once."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import apache_beam as beam
from apache_beam.utils.shared import Shared

from lit_precompute.embed_unit import embed_unit
from lit_precompute.embedder import Embedder
from lit_precompute.job import Job
from lit_precompute.plan import read_plan
from lit_precompute.receipt import Receipt
from lit_precompute.towers import load_tower
from lit_precompute.unit_receipts import refuse_unit
from pipelines.finish.finalise import finalise
from pipelines.finish.standing import plan_of
from pipelines.progress import Heartbeat
from pipelines.retry import finish_retry, records_to_retry

log = logging.getLogger(__name__)


class EmbedUnit(beam.DoFn):
    """Unit number -> receipt. The tower is loaded once per process, however many threads ask for it."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._shared = Shared()

    def setup(self) -> None:
        self._plan = read_plan(self._job.store)
        self._only = records_to_retry(self._job, self._plan) if self._job.retry else None
        self._loaded: Embedder | _Refusal = self._shared.acquire(self._load, tag=self._job.run_id)

    def process(self, number: int) -> list[Receipt]:
        planned = self._plan.units[number]
        if isinstance(self._loaded, _Refusal):
            return [refuse_unit(self._job, planned, self._loaded)]
        only = None if self._only is None else frozenset(self._only.get(planned.name, ()))
        unit = replace(planned, retry=self._job.retry, only=only)
        with Heartbeat(self._job, unit.name) as heartbeat:
            return [embed_unit(self._job, unit, self._loaded, heartbeat.beat)]

    def _load(self) -> "Embedder | _Refusal":
        config = self._job.config
        try:
            tower = load_tower(config.tower, self._job.storage_options)
        except ValueError as error:
            return _Refusal(error)
        if tower.info.space_id != self._job.tower.space_id:
            return _Refusal(
                f"--checkpoint: the worker must load the weights the job was planned with "
                f"({self._job.tower.weights[:12]}…), found {tower.info.weights[:12]}…. Run again with one file."
            )
        return Embedder(tower, config.work.batch_size)


class _Refusal(str):
    """Why a worker has no tower, in its place: `Shared` holds it by a weak reference, which plain text has not."""


def build(pipeline: beam.Pipeline, job: Job, numbers: Sequence[int]) -> beam.PCollection:
    """The graph. Only unit numbers and receipts cross it; pixels and vectors stay inside a unit."""
    return (
        pipeline
        | "Plan units" >> beam.Create(list(numbers), reshuffle=False)
        | "Spread over workers" >> beam.Reshuffle()
        | "Embed unit" >> beam.ParDo(EmbedUnit(job))
        | "Collect receipts" >> beam.combiners.ToList()
        | "Write manifest" >> beam.Map(_finish, job)
    )


def _finish(receipts: Sequence[Receipt], job: Job) -> None:
    """Finalises where the launcher may have gone; one that has not does it again, and says what is wrong."""
    try:
        (finish_retry if job.retry else finalise)(job, plan_of(job))
    except (OSError, ValueError) as error:
        log.error("the manifest can not be written now: %s", error)
