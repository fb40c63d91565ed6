"""`lit-train`: the training of a text tower on cached image embeddings, from top to bottom."""

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from schemas.digests import sha256_json
from schemas.storage import StorageOptions, read_storage_options
from trainer import parameters, run_directory
from trainer.assembly import assemble, plan, step_flops, tokens_of_a_pair
from trainer.checkpoint import Checkpoints
from trainer.command_line import parse
from trainer.compiling import compiler_options
from trainer.config import TrainConfig
from trainer.data.batches import Batch, ahead, gather
from trainer.data.buffers import Buffers
from trainer.data.mixture import make_mixture
from trainer.data.rows import keys_of
from trainer.data.spool import default_spool_dir
from trainer.data.spool_text import spool_features, spool_tokens
from trainer.data.spools import Spool, mixed_ids, spool_stores
from trainer.data.stores import open_stores
from trainer.devices.mesh import deal_out, mesh_of
from trainer.devices.processes import Processes
from trainer.evals.prompts import parse_templates
from trainer.evaluations.watch import Watch
from trainer.logs import announce
from trainer.logs.diagnosis import BatchFacts, facts_of
from trainer.logs.metrics import MetricsLog
from trainer.logs.notes import Diverged, Notes
from trainer.logs.sinks import JsonLines, Sink, TensorBoard, WeightsAndBiases
from trainer.remote_run import Mirror, fetch, is_remote, working_folder
from trainer.run_directory import Provenance
from trainer.step_plan import describe, measure_flops_per_second
from trainer.stop_signal import StopSignal
from trainer.text_towers import TextTower, build_text_tower
from trainer.warm_start import warm_start

LOOKED_AT = 65_536  # pairs of a batch that a diagnosis measures


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the flags say.

    Returns:
        0 when the run is complete, or stopped by a signal and saved; 2 for flags or data that cannot be;
        3 when the loss is no longer a number.
    """
    try:
        config = parse(sys.argv[1:] if argv is None else argv)
        run(config)
    except SystemExit as stop:  # tyro has said what is wrong, or printed --help
        return stop.code if isinstance(stop.code, int) else 2
    except (ValueError, OSError) as error:
        print(f"lit-train: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"lit-train: {error}", file=sys.stderr)
        return 3
    return 0


def run(config: TrainConfig) -> dict[str, Any]:
    """Train, or go on with training, until the last step; in each of the processes of a run over several.

    Returns:
        The summary of the run: steps done, last metrics, pairs seen.

    Raises:
        ValueError: the configuration does not fit the data, or the output holds another run.
        Diverged: the loss is no longer a number; the last good checkpoint is left as it was.
    """
    processes = Processes(config.processes)
    try:
        with _one_voice(processes):
            return _run(config, processes)
    finally:
        processes.leave()


def _run(config: TrainConfig, processes: Processes) -> dict[str, Any]:
    spool_root = Path(config.data.spool_dir) if config.data.spool_dir else default_spool_dir()
    data = config.data
    options = read_storage_options(data.storage_options)
    output = _local_output(config, spool_root, options, processes)
    opened = open_stores((*data.store, *data.val_store), data.tower_id, options)
    stores, validation = opened[: len(data.store)], opened[len(data.store) :]
    manifests = [store.images.manifest for store in stores]
    templates = _read_templates(data.caption_templates)
    warm = None if config.init is None else warm_start(config, manifests[0])
    if warm is not None:
        config = warm.config
        print(f"text tower: that of {config.init} after step {warm.step:,}")

    text_bytes = 4 * data.max_text_length * len(templates)
    spools = spool_stores(stores, data, spool_root, text_bytes, keys_of(validation))
    rows = [len(spool.rows) for spool in spools]
    config = config.resolved(sum(rows))
    mixture = make_mixture(
        data.store, rows, data.store_weights, config.batch_size, config.seed, data.shuffle_window
    )
    ours = processes.rows(config.batch_size)
    mesh = mesh_of(config.devices, config.batch_size)
    tower = (
        warm.tower
        if warm is not None
        else build_text_tower(
            config.text,
            manifests[0].embedding_dim,
            jax.random.key(config.seed),
            lambda: (text for spool in spools for text in spool.training_texts(templates)),
            config.data.max_text_length,
        )
    )
    backbone = parameters.digest(tower.params["backbone"], json.dumps(tower.architecture["backbone"]))
    contents = [manifest.content_id for manifest in manifests]
    provenance = Provenance(
        space_id=manifests[0].space_id,
        content_id=contents[0] if len(contents) == 1 else sha256_json(contents),
        templates=templates,
        tokenizer=tower.tokenizer.digest,
        backbone=backbone,
        rows=sum(rows),
        mixed=tuple(contents) if len(contents) > 1 else (),
        init="" if warm is None else warm.digest,
    )
    assembly = assemble(config, tower, mesh)
    if config.plan:
        announce.what_is_trained(config, spools, mixture, tower)
        cost = plan(assembly, config, tower, _stored_dtype(spools))
        rate = measure_flops_per_second(jax.local_devices()[0])
        print(describe(cost, config.batch_size, tokens_of_a_pair(config), rate), flush=True)
        return {}
    _begin_or_check(output, config, provenance, tower, processes)
    if (finished := run_directory.summary(output)) is not None:
        print(f"{output} is complete ({config.steps:,} steps): nothing to do.")
        return finished

    spools = [_with_text(spool, tower, config, templates, backbone, spool_root) for spool in spools]
    announce.what_is_trained(config, spools, mixture, tower)

    buffers = Buffers()

    def make_batch(number: int) -> Batch:
        return deal_out(mesh, gather(spools, mixture, number, ours, buffers.empty))

    def facts(number: int) -> BatchFacts:
        some = gather(spools, mixture, number, slice(0, LOOKED_AT))
        return facts_of(some.image_keys, some.caption_keys)

    def ids(number: int) -> list[str]:
        return mixed_ids(spools, mixture.rows(number))

    with contextlib.ExitStack() as closing:
        mirror = Mirror(config.output, output, options) if _is_mirrored(config, processes) else None
        if mirror is not None:
            closing.callback(mirror.close)  # after the checkpoints are closed
        checkpoints = Checkpoints(output / "checkpoints", config.keep_checkpoints, processes.all_agree)
        closing.callback(checkpoints.close)
        state, step = assembly.first_state(), assembly.step
        if (restored := checkpoints.restore(state)) is not None:
            state = restored
            print(f"going on after step {int(state.step):,}")
        first = int(state.step)
        sinks = _sinks(config, output, first) if processes.first else []
        tokens = tokens_of_a_pair(config)
        log = MetricsLog(first, config.steps, config.batch_size, tokens, sinks, processes.first)
        closing.callback(log.close)
        note = Notes(config, log, mixture.epochs, ids, facts, output, processes.first)
        watch = closing.enter_context(Watch(config, output, tower, provenance, first, processes))
        stop = closing.enter_context(StopSignal())
        batches = ahead(make_batch, range(first, config.steps))
        closing.callback(batches.close)
        started = time.perf_counter()

        for done in range(first + 1, config.steps + 1):
            asked = time.perf_counter()
            batch = next(batches)
            log.waited(time.perf_counter() - asked)
            # The device works on this step while the numbers of the one before it are looked at.
            state, metrics = step(state, batch)
            note.later(done, metrics)
            last = processes.all_stop(bool(stop.requested)) and done < config.steps
            if done % config.checkpoint_every == 0 or done == config.steps or last:
                note.flush()  # a state whose loss is not a number is never saved
                checkpoints.save(state)
                if mirror is not None:
                    mirror.check()
            if watch.due(done) and not last:
                note.flush()
                begun = time.perf_counter()
                watch.evaluate(state)
                log.paused(time.perf_counter() - begun)
            if last:
                break

    steps_done = int(state.step)
    summary = {
        "steps": steps_done,
        "samples_seen": steps_done * config.batch_size,
        "seconds": round(time.perf_counter() - started, 3),
        "devices": 1 if mesh is None else mesh.size,
        "device_kind": jax.local_devices()[0].device_kind,
        "tflop_per_step": round(step_flops(assembly, config, tower, _stored_dtype(spools)) / 1e12, 9),
        **(note.last or _last_line(sinks)),
        **watch.best,
    }
    if steps_done < config.steps:
        why = stop.requested or "a signal to another process"
        print(f"stopped by {why} after step {steps_done:,}, saved; the same command goes on from there")
        return summary
    if processes.first:
        run_directory.finish_run(output, summary)
        if mirror is not None:
            Mirror(config.output, output, options).close()  # the summary follows
    processes.wait_for_all("finished")
    announce.what_came_of_it(config, manifests[0].tower_id, summary)
    return summary


@contextlib.contextmanager
def _one_voice(processes: Processes) -> Iterator[None]:
    """While entered, what a process prints is heard from the first alone; errors are heard from all."""
    if processes.first:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _is_mirrored(config: TrainConfig, processes: Processes) -> bool:
    return is_remote(config.output) and processes.first


def _local_output(
    config: TrainConfig, spool_root: Path, options: StorageOptions, processes: Processes
) -> Path:
    """The run's folder; of a run on object storage the local copy, brought up to date."""
    if not is_remote(config.output):
        return Path(config.output)
    local = working_folder(config.output, spool_root)
    if processes.first and not config.plan:
        fetch(config.output, local, options)
    processes.wait_for_all("output is fetched")
    return local


def _stored_dtype(spools: Sequence[Spool]) -> np.dtype:
    return np.result_type(*(spool.images["embeddings"] for spool in spools))


def _sinks(config: TrainConfig, output: Path, first_step: int) -> list[Sink]:
    sinks: list[Sink] = [JsonLines(output / "metrics.jsonl", first_step)]
    if config.tensorboard:
        try:
            sinks.append(TensorBoard(output / "tensorboard", first_step))
        except ImportError:
            print("TensorBoard events are not written: install tensorboardX, or give --no-tensorboard.")
    if config.wandb:
        sinks.append(WeightsAndBiases(output, config.wandb, dataclasses.asdict(config)))
    return sinks


def _last_line(sinks: Sequence[Sink]) -> dict[str, Any]:
    """What was logged last, by this run or the one it goes on with."""
    return next((sink.last() for sink in sinks if isinstance(sink, JsonLines)), {})


def _read_templates(path: str | None) -> tuple[str, ...]:
    return ("{}",) if path is None else parse_templates(Path(path).read_text(encoding="utf-8"), path)


def _begin_or_check(
    output: Path, config: TrainConfig, provenance: Provenance, tower: TextTower, processes: Processes
) -> None:
    """Make the run's folder, or check that it holds this run; all processes see one folder."""
    begun = run_directory.is_run(output)
    processes.wait_for_all("looked at the output")
    if not begun and processes.first:
        run_directory.begin_run(output, config, provenance, tower)
    processes.wait_for_all("output is there")
    if not begun and not run_directory.is_run(output):
        raise ValueError(
            f"output: must be a folder that all {processes.count} processes see, found nothing of process 0 in"
            f" {output}. Name one on a shared file system with --output."
        )
    run_directory.check_same_run(output, config, provenance)


def _with_text(
    spool: Spool,
    tower: TextTower,
    config: TrainConfig,
    templates: tuple[str, ...],
    backbone: str,
    root: Path,
) -> Spool:
    """The spool with the tokens of its captions, or with a frozen backbone their features."""
    length = config.data.max_text_length
    tokens = spool_tokens(spool.images, spool.captions, tower.tokenizer, length, templates, root)
    text = tokens["tokens"]
    if config.head_alone:
        features = jax.jit(tower.features, compiler_options=compiler_options(tower.compute_dtype))
        weights = jax.device_put(tower.params["backbone"])
        text = spool_features(
            tokens,
            lambda batch: np.asarray(features(weights, batch)),
            tower.feature_dim,
            backbone,
            root,
            blind_to_padding=tower.blind_to_padding,
        )["features"]
    return dataclasses.replace(spool, text=text, num_templates=len(templates))


if __name__ == "__main__":
    sys.exit(main())
