"""`lit-export`: a tuned text tower as a folder that other programs open, with a card that says what it is."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import tyro

from schemas.exit_status import exit_status
from schemas.storage import Folder, StorageOptions, read_storage_options
from trainer.exports.big_vision import write_big_vision
from trainer.exports.facts import gather_facts
from trainer.exports.hugging_face import write_hf
from trainer.exports.latency import measure_latency
from trainer.exports.model_card import model_card, own_reports, read_licenses, read_reports
from trainer.exports.safetensors import load_export, write_safetensors
from trainer.remote_run import is_remote, upload
from trainer.run_directory import Weights

__all__ = ["ExportConfig", "export", "load_export", "main"]

DESCRIPTION = """Writes a text tower tuned by lit-train as a folder that leaves the house.

  lit-export RUN --output DIR
  lit-export RUN --output DIR --format hf --reports retrieval.json zero_shot.json
  lit-export RUN --output DIR --format big-vision --image-checkpoint vit.npz

  safetensors  weights, description, tokenizer; any text tower; trainer.export.load_export reads it back
  hf           a Hugging Face folder: CLIPTextModelWithProjection, SiglipTextModel, or sentence-transformers' with the
               head as a Dense layer (bert, minilm, xlm-roberta, t5, modernbert, clip with a new head)
  big-vision   the reference's two-tower npz; runs of siglip, of transformer with --text-attend-pads, of bert from
               the reference's layout
"""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What is exported, as what, and where to."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder made by lit-train."""
    output: str
    """Folder to write: new, or empty; local or any fsspec URL."""
    format: Literal["safetensors", "hf", "big-vision"] = "safetensors"
    """Layout of the weights."""
    step: int | None = None
    """A checkpoint of the run; the newest unless given."""
    weights: Weights = "average"
    """The running average of the parameters where the run keeps one (--average-decay), or the last ones."""
    image_checkpoint: str | None = None
    """big-vision only: the file the store was embedded with, copied into the result."""
    store: str | None = None
    """Where the image tower and the counts are read from; the run's own store, if it is still there."""
    tower_id: str | None = None
    """Which of the store's image towers; what the run was trained on unless given."""
    reports: tuple[str, ...] | None = None
    """Reports of lit-eval, for the card's table; unless given, those in the run's `evaluations` that are of this
    checkpoint."""
    licenses: tuple[str, ...] = ()
    """For the card: WHAT=LICENCE, such as data=CC-BY-4.0 image-tower=Apache-2.0 this-model=MIT."""
    latency: bool = True
    """Measure on this machine how long texts take, for the card."""
    storage_options: str | None = None
    """JSON file of fsspec options by protocol, for a store or checkpoint that is not a local file."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exports one run. Returns 0, or 2 when the command or its inputs are wrong."""

    def work() -> int:
        flags = list(sys.argv[1:] if argv is None else argv)
        config = tyro.cli(ExportConfig, args=flags, prog="lit-export", description=DESCRIPTION)
        notes = export(config)
        print(f"written to {config.output}: {', '.join(_written(config))}")
        for note in notes:
            print(f"Note: {note}")
        return 0

    return exit_status("lit-export", work)


def export(config: ExportConfig) -> list[str]:
    """Writes the folder, whole or not at all.

    Returns:
        What the reader should know of the result.

    Raises:
        ValueError: the output is not empty, or the run, store, checkpoint or reports do not fit; no folder is left.
    """
    options = read_storage_options(config.storage_options)
    _check_output(config.output, options)
    if config.image_checkpoint is not None and config.format != "big-vision":
        raise ValueError(
            f"--image-checkpoint: must be given with --format big-vision, found --format {config.format}, which "
            "holds the text tower alone. Leave it out."
        )
    facts = gather_facts(config.run, config.step, config.store, config.tower_id, options, config.weights)
    reports = (
        own_reports(config.run, facts) if config.reports is None else read_reports(config.reports, facts)
    )
    licenses = read_licenses(config.licenses)
    latency = measure_latency(facts.run.text_tower) if config.latency else None
    with _whole_folder(config.output, options) as folder:
        if config.format == "safetensors":
            notes = write_safetensors(facts, folder)
        elif config.format == "hf":
            notes = write_hf(facts, folder)
        else:
            notes = write_big_vision(facts, folder, config.image_checkpoint, options)
        card = model_card(facts, config.format, _files(folder), reports, licenses, latency)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return notes


def _check_output(output: str, options: StorageOptions | None) -> None:
    folder = Folder(output, options)
    used = folder.sizes() or folder.folders() or (folder.is_local and Path(output).is_file())
    if used:
        raise ValueError(f"--output: must be a new or empty folder, found {output} in use. Name another.")


@contextmanager
def _whole_folder(output: str, options: StorageOptions | None) -> Iterator[Path]:
    """A folder to fill: beside the output, whose name it takes once it is on the disk, or to be uploaded from."""
    if is_remote(output):
        with TemporaryDirectory(prefix="lit-export-") as folder:
            yield Path(folder)
            upload([Path(folder) / name for name in _files(Path(folder))], Path(folder), output, options)
        return
    target = Path(output).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    aside.mkdir()
    try:
        yield aside
        for path in aside.rglob("*"):
            if path.is_file():
                path.chmod(
                    aside.stat().st_mode & 0o666
                )  # safetensors makes files that only their owner reads
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        aside.replace(target)
    except BaseException:
        shutil.rmtree(aside)
        raise


def _written(config: ExportConfig) -> list[str]:
    folder = Folder(config.output, read_storage_options(config.storage_options))
    root = folder.root.strip("/")
    return sorted(str(name).strip("/").removeprefix(root).strip("/") for name in folder.fs.find(folder.root))


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
