"""`lit-embed-text`: flags, graph and manifest."""

import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import apache_beam as beam
import tyro
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.shared import Shared

from lit_precompute.parts import encode_table
from lit_precompute.publish import remove, remove_folder, replace, sweep
from pipelines.beam_flags import beam_options, flag_names, split_passed
from pipelines.runners import execute
from pipelines.text.plan import Texts, plan_units, run_id
from pipelines.text.unit import TextEmbedder, TextJob, TextReceipt, embed_text_unit
from schemas.exit_status import exit_status
from schemas.manifest import content_digest, parts_to_table
from schemas.storage import Folder, read_storage_options
from trainer import parameters
from trainer.run_directory import LoadedRun, load_run

MANIFEST, JOB, RECEIPTS = "manifest.json", "job.json", "_receipts"

DESCRIPTION = """Embeds texts with a text tower tuned by lit-train: captions, queries, product titles, any number.

  lit-embed-text --run RUN --input STORE/pairs --output TEXTS
  lit-embed-text --run RUN --input 'titles/*.parquet' --text-column title --id-column sku --output TEXTS

Beam's own flags (--runner and those of the engine) go with it as with lit-embed; the run must lie where the workers
see it. The same command again goes on where it was stopped.

Exit status: 0 complete, 2 usage or refused, 3 some units could not be read: run again.
"""


@dataclass(frozen=True)
class EmbedTextConfig:
    """Which texts, which tower, and where to."""

    input: tuple[str, ...]
    """Parquet files, patterns or folders."""
    run: str
    """Folder made by lit-train."""
    output: str
    """Folder for the parts and their manifest."""
    texts: Texts = field(default_factory=Texts)
    step: int | Literal["best"] | None = None
    """A checkpoint of the run, or the one kept as best; the newest unless given."""
    dtype: Literal["float16", "float32"] = "float16"
    """How vectors are stored; they are not normalised."""
    batch_size: int = 256
    """Texts embedded at once."""
    storage_options: str | None = None
    """JSON file of fsspec options by protocol, for places that are not local folders."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"--batch-size: must be at least 1, found {self.batch_size}.")


class EmbedTexts(beam.DoFn):
    """Unit → receipt; the tower is loaded once per process."""

    def __init__(self, config: EmbedTextConfig, job: TextJob) -> None:
        self._config, self._job = config, job
        self._shared = Shared()

    def setup(self) -> None:
        self._embedder: TextEmbedder = self._shared.acquire(self._load, tag=self._job.run_id)

    def process(self, number: int) -> list[int]:
        unit = self._job.units[number]
        receipt = embed_text_unit(unit, self._job, self._embedder)
        replace(self._job.folder.child(RECEIPTS), f"{unit.part}.json", receipt.to_json())
        return [number]

    def _load(self) -> TextEmbedder:
        return TextEmbedder(load_run(self._config.run, self._config.step).text_tower, self._config.batch_size)


def run(config: EmbedTextConfig, options: PipelineOptions | None = None) -> int:
    """Embeds what is not embedded yet; writes the manifest when nothing is missing.

    Raises:
        ValueError: the request is refused; nothing was written for it.
    """
    storage = read_storage_options(config.storage_options)
    loaded = load_run(config.run, config.step)
    tower = parameters.digest(
        loaded.text_tower.params, json.dumps(loaded.text_tower.architecture, sort_keys=True)
    )
    units = plan_units(config.input, config.texts, storage)
    run = run_id(units, config.texts, tower, config.dtype)
    job = TextJob(tuple(units), config.texts, config.output, run, config.dtype, storage)
    output = job.folder
    _refuse_others(output, run)
    sweep(output)
    before = _receipts(output)
    todo = [unit.number for unit in units if unit.part not in before]
    rows = sum(unit.rows for unit in units)
    done = "" if len(todo) == len(units) else f" ({len(units) - len(todo):,} done before)"
    print(f"lit-embed-text  {rows:,} rows in {len(units):,} units{done} -> {config.output}", flush=True)
    replace(output, JOB, json.dumps({"run_id": run}).encode())
    started = time.monotonic()
    ending = execute(
        options or beam_options([]),
        lambda pipeline: _graph(pipeline, EmbedTexts(config, job), todo),
    )
    if ending.handed_over:
        return 0
    receipts = _receipts(output)
    missing = [unit.name for unit in units if unit.part not in receipts]
    troubles = [*filter(None, [ending.trouble]), *_troubles(output), *missing[:3]]
    if missing:
        print(
            f"lit-embed-text: {len(missing):,} of {len(units):,} units are missing; run the same command again."
        )
        print("\n".join(f"  {trouble}" for trouble in troubles), file=sys.stderr)
        return 3
    _write_manifest(config, output, loaded, run, [receipts[unit.part] for unit in units])
    texts, blank = sum(one.texts for one in receipts.values()), sum(one.blank for one in receipts.values())
    rate = texts / max(time.monotonic() - started, 1e-9)
    print(f"done: {texts - blank:,} texts embedded, {blank:,} blank; {rate:,.0f} texts/s\n{config.output}")
    return 0


def _graph(pipeline: beam.Pipeline, embed: EmbedTexts, todo: Sequence[int]) -> None:
    numbers = pipeline | "Plan units" >> beam.Create(list(todo), reshuffle=False)
    _ = numbers | "Spread over workers" >> beam.Reshuffle() | "Embed texts" >> beam.ParDo(embed)


def _refuse_others(output: Folder, run: str) -> None:
    """Raises ValueError when the folder holds parts of another job."""
    for name in (MANIFEST, JOB):
        if output.exists(name) and (found := json.loads(output.read(name)).get("run_id")) != run:
            raise ValueError(
                f"--output: {output.path} holds vectors of another job (run_id {str(found)[:12]}…, this one is "
                f"{run[:12]}…): the texts, their columns, the tower's weights or --dtype differ. Name another folder."
            )


def _all_receipts(output: Folder) -> list[TextReceipt]:
    folder = output.child(RECEIPTS)
    return [
        TextReceipt.from_json(folder.read(name)) for name in sorted(folder.sizes()) if name.endswith(".json")
    ]


def _receipts(output: Folder) -> dict[str, TextReceipt]:
    """Receipts by part of the units whose part stands, whole as far as its size tells."""
    sizes = output.sizes()
    return {
        one.unit: one for one in _all_receipts(output) if one.part and sizes.get(one.unit) == one.part.bytes
    }


def _troubles(output: Folder) -> list[str]:
    return [one.trouble for one in _all_receipts(output) if one.trouble][:10]


def _write_manifest(
    config: EmbedTextConfig, output: Folder, loaded: LoadedRun, run: str, receipts: Sequence[TextReceipt]
) -> None:
    parts = [one.part for one in receipts if one.part is not None]
    manifest: dict[str, Any] = {
        "format": "lit-precompute.texts",
        "version": 1,
        "run_id": run,
        "space_id": loaded.space_id,
        "content_id": content_digest(parts),
        "checkpoint_step": loaded.step,
        "text_tower": loaded.text_tower.architecture,
        "texts": asdict(config.texts),
        "embedding_dim": loaded.text_tower.out_dim,
        "dtype": config.dtype,
        "counts": {
            "texts": sum(one.texts for one in receipts),
            "embedded": sum(part.rows for part in parts),
            "blank": sum(one.blank for one in receipts),
        },
    }
    replace(output, "parts.parquet", encode_table(parts_to_table(parts)))
    replace(output, MANIFEST, (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
    remove_folder(output.child(RECEIPTS))
    remove(output, JOB)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    flags, passed = split_passed(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        config, rest = tyro.cli(
            EmbedTextConfig,
            args=flags,
            prog="lit-embed-text",
            description=DESCRIPTION,
            return_unknown_args=True,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        return run(config, beam_options(rest, passed, flag_names(EmbedTextConfig)))

    return exit_status("lit-embed-text", work)


if __name__ == "__main__":
    sys.exit(main())
