"""`lit-embed`: flags, and what a launch does with a store, from its plan to its last line."""

import logging
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from errno import EROFS

import tyro
from apache_beam.options.pipeline_options import PipelineOptions

from lit_precompute.agreement import Agreement, agree_plan, settle
from lit_precompute.attempt import died
from lit_precompute.config import EmbedConfig
from lit_precompute.job import Job, begin, finished, note_speed, open_job, standing_manifest
from lit_precompute.lease import Lease, leases
from lit_precompute.plan import Plan
from lit_precompute.publish import remove, sweep
from lit_precompute.towers import checkpoint_of, describe_tower, list_towers
from pipelines.beam_flags import beam_options, flag_names, split_passed
from pipelines.dry_run import dry_run
from pipelines.finish.finalise import finalise
from pipelines.finish.receipts import standing_receipts
from pipelines.finish.standing import damaged_parts, units_to_do
from pipelines.graph import build
from pipelines.outcome import Outcome
from pipelines.progress import Progress
from pipelines.retry import counted, finish_retry, open_retry, records_to_retry, units_to_retry
from pipelines.runners import check_reach, execute
from schemas.storage import read_storage_options

log = logging.getLogger(__name__)


def run(config: EmbedConfig, options: PipelineOptions | None = None) -> Outcome:
    """Embeds what is not embedded yet and finishes the store when nothing is missing.

    Raises:
        ValueError: the request is refused; nothing was written for it.
    """
    options = options or beam_options([])
    storage = read_storage_options(config.work.storage_options)
    tower = describe_tower(config.tower, storage)
    agreement = agree_plan(config, storage)
    job = open_job(config, tower, agreement.plan, storage)
    if config.work.retry_failed:
        return _retry(job, settle(job.store, agreement, config.work.takeover), options)
    if finished(job) is not None and not damaged_parts(job):
        return _tidy(job, agreement)
    return _work(job, agreement, options)


def _tidy(job: Job, agreement: Agreement) -> Outcome:
    """Nothing is left to do but to take away what a run that died at the very end left."""
    takeover = job.config.work.takeover
    held = leases(job.images)  # by that run, or by one that is at work on the finished store
    with Lease(job.images, takeover) if held else nullcontext():
        return finalise(job, settle(job.store, agreement, takeover))


def _retry(job: Job, plan: Plan, options: PipelineOptions) -> Outcome:
    """Tries failed records of a finished store again; until the last step the store stands as it was."""
    job = open_retry(job, plan)
    with Lease(job.images, job.config.work.takeover):
        sweep(job.images)
        before = standing_manifest(job)
        wanted = records_to_retry(job, plan)
        places = units_to_retry(job, plan, wanted)
        count = sum(map(len, wanted.values()))
        print(
            f"lit-embed  {_count(count, 'failed record')} of {_count(len(places), 'unit')} to retry",
            flush=True,
        )
        with Progress(job, replace(plan, units=tuple(unit for _, unit in places))):
            ending = execute(options, lambda pipeline: build(pipeline, job, [place for place, _ in places]))
        if ending.handed_over:
            return Outcome("handed_over", {}, {}, {}, [], job.config.output, job.tower_id)
        outcome = finish_retry(job, plan)
    if before is not None and outcome.status == "complete":
        print(counted(job, before.counts["failed"]))
    if ending.trouble:
        outcome = replace(outcome, problems=[f"engine {ending.trouble}", *outcome.problems])
    return outcome


def _work(job: Job, agreement: Agreement, options: PipelineOptions) -> Outcome:
    work = job.config.work
    span = None if work.shard_range is None else work.units_of(len(agreement.plan.units))
    with Lease(job.images, work.takeover, span):
        plan = settle(job.store, agreement, work.takeover)
        if finished(job) is not None and (damage := damaged_parts(job)):
            log.warning("%s: made again, with every other unit checked", "; ".join(damage))
            remove(job.images, "manifest.json")  # it must not be read while they are missing
        begin(job, plan)
        for folder in (job.store, job.images, job.receipts, job.store.child("pairs")):
            sweep(folder)
        places = units_to_do(job, plan)
        names = {unit.name for _, unit in places}
        if unfinished := names.intersection(died(job.receipts)):
            job = replace(job, isolate_decoding=True)
            log.warning(
                "An earlier run died while it worked on %s. Images are now decoded in processes of their own.",
                _count(len(unfinished), "unit"),
            )
        manifest = standing_manifest(job)
        seen_before = 0 if manifest is None else manifest.counts["seen"]
        before = standing_receipts(job, [unit for _, unit in places])
        todo = [place for (place, _), receipt in zip(places, before, strict=True) if receipt is None]
        print(_opening(job, plan, len(todo)), flush=True)
        started = time.monotonic()
        with Progress(job, replace(plan, units=tuple(unit for _, unit in places))):
            ending = execute(options, lambda pipeline: build(pipeline, job, todo))
    if ending.handed_over:
        return Outcome("handed_over", {}, {}, {}, [], job.config.output, job.tower_id)
    seconds = time.monotonic() - started
    outcome = finalise(job, plan)
    if ending.trouble:
        outcome = replace(outcome, problems=[f"engine {ending.trouble}", *outcome.problems])
    seen_now = outcome.counts["seen"] - seen_before - sum(one.seen for one in before if one is not None)
    if todo and seen_now > 0:
        note_speed(job, seen_now, seconds)
    return replace(outcome, seconds=seconds, seen_now=seen_now)


def _places(config: EmbedConfig) -> dict[str, str]:
    """Every path that workers open, by its flag."""
    places = {f"--input #{place}": path for place, path in enumerate(config.source.input, 1)}
    if config.source.image_root:
        places["--image-root"] = config.source.image_root
    if checkpoint := checkpoint_of(config.tower):
        places["--checkpoint"] = checkpoint
    return places | {"--output": config.output}


def _opening(job: Job, plan: Plan, todo: int) -> str:
    done = len(plan.units) - todo
    resumed = f" ({done} done before)" if done else ""
    tower = job.tower
    size = tower.preprocessing.get("image_size")
    pixels = f"{size}x{size} pixels" if size else "images of varying size"
    files = {part.path: part.size for unit in plan.units for part in unit.slices}
    megabytes = sum(files.values()) / 1e6
    return (
        f"lit-embed  {_count(len(files), 'file')}, {megabytes:,.1f} MB -> {_count(len(plan.units), 'unit')}{resumed}\n"
        f"tower      {job.tower_id}: {tower.tower}, {pixels} -> {tower.embedding_dim} x {job.config.dtype}"
    )


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status documented in `EmbedConfig`."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    argv, passed = split_passed(sys.argv[1:] if argv is None else argv)
    if "--list-towers" in argv:
        print("\n".join(list_towers()))
        return 0
    try:
        config, rest = tyro.cli(
            EmbedConfig,
            args=argv,
            prog="lit-embed",
            return_unknown_args=True,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        options = beam_options(rest, passed, flag_names(EmbedConfig))
        check_reach(options, _places(config))
        if config.work.dry_run:
            print(dry_run(config))
            return 0
        outcome = run(config, options)
    except SystemExit as stop:  # tyro has printed help, or what is wrong with a flag
        return int(stop.code or 0)
    except (ValueError, OSError) as error:
        print(f"lit-embed: {error}", file=sys.stderr)
        return 3 if _may_pass(error) else 2
    print(outcome.summary())
    return outcome.exit_status


def _may_pass(error: Exception) -> bool:
    """Whether the same command may get further later: a full disk, storage that stumbles for long."""
    mistaken = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)
    return isinstance(error, OSError) and not isinstance(error, mistaken) and error.errno not in (None, EROFS)


if __name__ == "__main__":
    sys.exit(main())
