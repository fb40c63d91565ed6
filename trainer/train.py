"""`lit-train`: the training of a text tower on cached image embeddings, from top to bottom."""

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from schemas.digests import sha256_json
from schemas.storage import read_storage_options
from trainer import announce, parameters, run_directory
from trainer import config as configuration
from trainer.checkpoint import Checkpoints
from trainer.config import TrainConfig
from trainer.data.batches import Batch, ahead, gather
from trainer.data.mixture import Mixture, make_mixture
from trainer.data.rows import keys_of
from trainer.data.spool import default_spool_dir
from trainer.data.spool_text import spool_features, spool_tokens
from trainer.data.spools import Spool, mixed_ids, spool_stores
from trainer.data.stores import open_stores
from trainer.devices.mesh import along_rows, lying, mesh_of, replicated
from trainer.evals.prompts import parse_templates
from trainer.evaluations.watch import Watch
from trainer.metrics import MetricsLog
from trainer.optim.optimizer import make_optimizer, make_schedule
from trainer.run_directory import Provenance
from trainer.step import EmbedText, Metrics, TrainStep, add_scale, init_state, make_step
from trainer.step_plan import describe, measure_flops_per_second, plan_step
from trainer.stop_signal import StopSignal
from trainer.text_towers import TextTower, build_text_tower


class Diverged(Exception):
    """The loss or its gradient is no longer a number."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the flags say.

    Returns:
        0 when the run is complete, or stopped by a signal and saved; 2 for flags or data that cannot be;
        3 when the loss is no longer a number.
    """
    try:
        config = configuration.parse(sys.argv[1:] if argv is None else argv)
    except SystemExit as stop:  # tyro has said what is wrong, or printed --help
        return stop.code if isinstance(stop.code, int) else 2
    try:
        run(config)
    except (ValueError, OSError) as error:
        print(f"lit-train: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"lit-train: {error}", file=sys.stderr)
        return 3
    return 0


def run(config: TrainConfig) -> dict[str, Any]:
    """Train, or go on with training, until the last step.

    Returns:
        The summary of the run: steps done, last metrics, pairs seen.

    Raises:
        ValueError: the configuration does not fit the data, or the output holds another run.
        Diverged: the loss is no longer a number; the last good checkpoint is left as it was.
    """
    output = Path(config.output)
    spool_root = Path(config.data.spool_dir) if config.data.spool_dir else default_spool_dir()
    data = config.data
    opened = open_stores(
        (*data.store, *data.val_store), data.tower_id, read_storage_options(data.storage_options)
    )
    stores, validation = opened[: len(data.store)], opened[len(data.store) :]
    manifests = [store.images.manifest for store in stores]
    templates = _read_templates(data.caption_templates)

    text_bytes = 4 * data.max_text_length * len(templates)
    spools = spool_stores(stores, data, spool_root, text_bytes, keys_of(validation))
    rows = [len(spool.rows) for spool in spools]
    config = config.resolved(sum(rows))
    mixture = make_mixture(
        data.store, rows, data.store_weights, config.batch_size, config.seed, data.shuffle_window
    )
    mesh = mesh_of(config.devices, config.batch_size)
    tower = build_text_tower(
        config.text,
        manifests[0].embedding_dim,
        jax.random.key(config.seed),
        lambda: (text for spool in spools for text in spool.training_texts(templates)),
        config.data.max_text_length,
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
    )
    if config.plan:
        announce.what_is_trained(config, spools, mixture, tower)
        _plan(config, spools, tower, mesh)
        return {}
    _begin_or_check(output, config, provenance, tower)
    if (finished := run_directory.summary(output)) is not None:
        print(f"{output} is complete ({config.steps:,} steps): nothing to do.")
        return finished

    spools = [_with_text(spool, tower, config, templates, backbone, spool_root) for spool in spools]
    announce.what_is_trained(config, spools, mixture, tower)

    params, optimizer, step = _make_step(config, tower, mesh)
    state = init_state(params, optimizer)
    if mesh is not None:
        state = jax.device_put(state, replicated(mesh))

    def make_batch(number: int) -> Batch:
        batch = gather(spools, mixture, number)
        return batch if mesh is None else jax.device_put(batch, along_rows(mesh))

    with contextlib.ExitStack() as closing:
        checkpoints = Checkpoints(output / "checkpoints", config.keep_checkpoints)
        closing.callback(checkpoints.close)
        if (restored := checkpoints.restore(state)) is not None:
            state = restored
            print(f"going on after step {int(state.step):,}")
        first = int(state.step)
        log = MetricsLog(output, first, config.steps, config.batch_size, config.tensorboard)
        closing.callback(log.close)
        note = _Notes(config, log, spools, mixture, output)
        watch = closing.enter_context(Watch(config, output, tower, provenance, first))
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
            if done % config.checkpoint_every == 0 or done == config.steps or stop.requested:
                note.flush()  # a state whose loss is not a number is never saved
                checkpoints.save(state)
            if watch.due(done) and not stop.requested:
                note.flush()
                watch.evaluate(state)
            if stop.requested:
                break

    steps_done = int(state.step)
    summary = {
        "steps": steps_done,
        "samples_seen": steps_done * config.batch_size,
        "seconds": round(time.perf_counter() - started, 3),
        **(note.last or log.last_record()),
        **watch.best,
    }
    if steps_done < config.steps:
        print(
            f"stopped by {stop.requested} after step {steps_done:,}, saved; the same command goes on from there"
        )
        return summary
    run_directory.finish_run(output, summary)
    announce.what_came_of_it(config, manifests[0].tower_id, summary)
    return summary


class _Notes:
    """Looks at each step's metrics one step late, stops at NaN, logs every so often."""

    def __init__(
        self, config: TrainConfig, log: MetricsLog, spools: Sequence[Spool], mixture: Mixture, output: Path
    ) -> None:
        self._config, self._log, self._spools, self._mixture = config, log, spools, mixture
        self._output = output
        self._pending: tuple[int, Metrics] | None = None
        self.last: dict[str, Any] = {}

    def later(self, done: int, metrics: Metrics) -> None:
        """Take the metrics of step `done` (from 1), and look at those taken before."""
        self.flush()
        self._pending = (done, metrics)

    def flush(self) -> None:
        """Wait for the step last taken and look at its metrics."""
        if self._pending is None:
            return
        done, metrics = self._pending
        self._pending = None
        found = {name: float(value) for name, value in metrics.items()}
        if not (math.isfinite(found["loss"]) and math.isfinite(found["grad_norm"])):
            self._stop(done, found)
        if done % self._config.log_every == 0 or done in (1, self._config.steps):
            factor = found.pop("lr_factor")
            found["lr"] = factor * self._config.optimizer.peak_rate
            found["epoch"] = self._mixture.epochs(done)
            self.last = self._log.write(done, found)

    def _stop(self, done: int, found: dict[str, float]) -> None:
        path = self._output / f"diverged-step-{done}.json"
        ids = mixed_ids(self._spools, self._mixture.rows(done - 1))
        record = {"step": done, "loss": str(found["loss"]), "grad_norm": str(found["grad_norm"]), "ids": ids}
        path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        raise Diverged(
            f"loss and gradient must be finite, found loss {found['loss']} and gradient norm"
            f" {found['grad_norm']} at step {done}. The ids of that batch are in {path}; the last good checkpoint"
            " is kept. Try a smaller --learning-rate, or look at those images and captions."
        )


def _read_templates(path: str | None) -> tuple[str, ...]:
    return ("{}",) if path is None else parse_templates(Path(path).read_text(encoding="utf-8"), path)


def _begin_or_check(output: Path, config: TrainConfig, provenance: Provenance, tower: TextTower) -> None:
    if run_directory.is_run(output):
        run_directory.check_same_run(output, config, provenance)
    else:
        run_directory.begin_run(output, config, provenance, tower)


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
    if config.text.freeze_backbone:
        features = jax.jit(tower.features)
        weights = jax.device_put(tower.params["backbone"])
        text = spool_features(
            tokens, lambda batch: np.asarray(features(weights, batch)), tower.feature_dim, backbone, root
        )["features"]
    return dataclasses.replace(spool, text=text, num_templates=len(templates))


def _make_step(
    config: TrainConfig, tower: TextTower, mesh: Mesh | None
) -> tuple[dict[str, Any], optax.GradientTransformation, TrainStep]:
    """What trains before the first step, what moves it, and the step that does both."""
    params, embed_text = _trained_part(tower, config)
    optimizer = make_optimizer(
        config.optimizer, params, config.steps, pretrained_backbone=config.text.text_checkpoint is not None
    )
    step = make_step(
        embed_text,
        config.loss,
        optimizer,
        make_schedule(config.optimizer, config.steps),
        config.seed,
        config.log_every,
        microbatch_size=config.microbatch_size,
        mesh=mesh,
    )
    return params, optimizer, step


def _trained_part(tower: TextTower, config: TrainConfig) -> tuple[dict[str, Any], EmbedText]:
    """What trains of the tower and the loss, and how it embeds what the batch holds."""
    if config.text.freeze_backbone:
        params = add_scale({"head": tower.params["head"]}, config.loss)
        return params, lambda params, features, key, row_offset=0: tower.project(params["head"], features)
    params = add_scale(tower.params, config.loss)
    if config.text.text_dropout == 0:
        return params, lambda params, tokens, key, row_offset=0: tower.embed(params, tokens)
    return params, lambda params, tokens, key, row_offset=0: tower.embed(
        params, tokens, dropout_key=key, row_offset=row_offset
    )


def _plan(config: TrainConfig, spools: Sequence[Spool], tower: TextTower, mesh: Mesh | None) -> None:
    """Compile the step for shapes alone, and print what it needs."""
    params, optimizer, step = _make_step(config, tower, mesh)
    frozen, rows = config.text.freeze_backbone, config.batch_size
    width = tower.feature_dim if frozen else config.data.max_text_length
    keys = jax.ShapeDtypeStruct((rows, 2), np.uint32)
    vectors = np.result_type(*(spool.images["embeddings"] for spool in spools))
    batch = Batch(
        jax.ShapeDtypeStruct((rows, tower.out_dim), vectors),
        jax.ShapeDtypeStruct((rows, width), np.float32 if frozen else np.int32),
        keys,
        keys,
    )
    state = jax.eval_shape(lambda params: init_state(params, optimizer), params)
    if mesh is not None:
        batch, state = lying(along_rows(mesh), batch), lying(replicated(mesh), state)
    plan = plan_step(step, state, batch, 1 if mesh is None else mesh.size)
    rate = measure_flops_per_second(jax.local_devices()[0])
    print(describe(plan, rows, None if frozen else width, rate), flush=True)


if __name__ == "__main__":
    sys.exit(main())
