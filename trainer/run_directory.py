"""What a training run leaves on the disk, and reading it back.

RUN/
  config.json          the resolved configuration
  provenance.json      which data, tower, templates, tokenizer and first weights it was made from
  text_tower.json      the text tower's architecture
  tokenizer/           its tokenizer
  frozen.safetensors   the backbone, where it is frozen; else it is in the checkpoints
  checkpoints/STEP/    what trains, and the optimizer's state
  metrics.jsonl        one line per logged step
  tensorboard/         the same as events
  best/STEP/           the checkpoint that did best so far, and best.json, which says at what
  evaluations.jsonl    one line per evaluation while training
  evaluations/         reports of lit-eval
  summary.json         written last: the run is complete
"""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainer import parameters
from trainer.checkpoint import read_params
from trainer.config import TrainConfig, differences
from trainer.data.spool import default_spool_dir
from trainer.remote_run import fetch, is_remote, upload, working_folder
from trainer.text_towers import TextTower, rebuild_text_tower
from trainer.tokenizers import load_tokenizer

Weights = Literal["average", "last"]

_DAMAGED = "Copy the run's folder again from where it was trained, or train again."

_OURS = {
    "config.json",
    "provenance.json",
    "text_tower.json",
    "tokenizer",
    "frozen.safetensors",
    "checkpoints",
    "metrics.jsonl",
    "metrics.tmp",
    "tensorboard",
    "wandb",
    "wandb-id",
    "best",
    "best.json",
    "evaluations.jsonl",
    "evaluations.tmp",
    "evaluations",
    "report.html",
}


@dataclass(frozen=True)
class Provenance:
    """What a run was made from, as digests: the same digests, the same run.

    Attributes:
        space_id: of the stores' images folders.
        content_id: of the store's images folder; of a mixture, the digest of all of them (`mixed`).
        templates: the caption templates themselves.
        tokenizer: digest of the tokenizer.
        backbone: digest of the text backbone before the first step.
        rows: images trained on.
        mixed: content_id of each store of a mixture, in order; none for a single store.
        init: digest of the head taken from another run (`trainer.warm_start`); empty without one.
    """

    space_id: str
    content_id: str
    templates: tuple[str, ...]
    tokenizer: str
    backbone: str
    rows: int
    mixed: tuple[str, ...] = ()
    init: str = ""


@dataclass(frozen=True)
class LoadedRun:
    """A trained text tower and where it comes from.

    Attributes:
        text_tower: with the trained parameters.
        log_scale, bias: of the loss; bias None for softmax.
        step: updates made.
        config: the resolved configuration, as JSON values.
        space_id, content_id: of the image embeddings it was tuned to.
        mixed: content_id of each store of a mixture; none for a single store.
    """

    text_tower: TextTower
    log_scale: float
    bias: float | None
    step: int
    config: dict[str, Any]
    space_id: str
    content_id: str
    mixed: tuple[str, ...] = ()


def begin_run(path: Path, config: TrainConfig, provenance: Provenance, tower: TextTower) -> None:
    """Write all that a run keeps beside its checkpoints; `config.json` last, as the sign that it is there."""
    path.mkdir(parents=True, exist_ok=True)
    foreign = sorted(child.name for child in path.iterdir() if child.name not in _OURS)
    if foreign:
        raise ValueError(
            f"output: must be an empty or new folder, or one of lit-train, found {foreign[0]!r} in {path}."
            " Name another with --output."
        )
    tower.tokenizer.save(str(path / "tokenizer"))
    if config.head_alone:
        parameters.save(tower.params["backbone"], path / "frozen.safetensors")
    _write(path / "text_tower.json", json.dumps(tower.architecture, indent=2) + "\n")
    _write(path / "provenance.json", json.dumps(dataclasses.asdict(provenance), indent=2) + "\n")
    _write(path / "config.json", config.to_json())


def is_run(path: Path) -> bool:
    """Whether a folder holds a run that has begun."""
    return (path / "config.json").is_file()


def check_same_run(path: Path, config: TrainConfig, provenance: Provenance) -> None:
    """Refuse to go on with a run whose configuration or data are not these.

    Raises:
        ValueError: naming every field that differs.
    """
    theirs = TrainConfig.from_json((path / "config.json").read_text(encoding="utf-8"))
    before = read_provenance(path)
    differing = [
        f"{name.rsplit('.', 1)[-1]}: the run has {old!r}, found {new!r}"
        for name, (new, old) in differences(config, theirs).items()
    ]
    for field in dataclasses.fields(Provenance):
        new, old = getattr(provenance, field.name), getattr(before, field.name)
        if new != old:
            differing.append(f"{field.name}: the run has {_short(old)}, found {_short(new)}")
    if differing:
        hint = ""
        if config.steps != theirs.steps:
            hint = f" The schedule was laid out for {theirs.steps} steps: more need a run of their own."
        raise ValueError(
            f"output: {path} holds a run that must be resumed as it began, found differences in "
            + "; ".join(differing)
            + f".{hint} Give the same flags, or another --output."
        )


def summary(path: Path) -> dict[str, Any] | None:
    """The summary of a complete run, None while it is not complete."""
    file = path / "summary.json"
    return _read(file) if file.is_file() else None


def finish_run(path: Path, summary: dict[str, Any]) -> None:
    """Mark a run as complete."""
    _write(path / "summary.json", json.dumps(summary, indent=2) + "\n")


def local_run(path: str | Path) -> Path:
    """The local folder of a run; of one on object storage the copy of it, fetched as far as need be."""
    if not is_remote(str(path)):
        return Path(path)
    local = working_folder(str(path), default_spool_dir())
    fetch(str(path), local)
    return local


def hand_back(path: str | Path, files: Iterable[Path]) -> list[str]:
    """Copies files of `local_run(path)` to where the run is, where that is object storage; gives where they are.

    Raises:
        OSError: the storage cannot be written to.
    """
    if not is_remote(str(path)):
        return [str(file) for file in files]
    return upload(files, working_folder(str(path), default_spool_dir()), str(path))


def load_run(
    path: str | Path, step: int | Literal["best"] | None = None, weights: Weights = "average"
) -> LoadedRun:
    """Read a trained text tower.

    Args:
        path: a folder made by lit-train.
        step: which checkpoint, or the one kept as best; the newest whole one unless given.
        weights: "average": the running average of the parameters, where the run keeps one; "last": the parameters
            themselves.

    Raises:
        ValueError: the folder is no run, or has no such checkpoint.
    """
    path = local_run(path)
    if not is_run(path):
        found_there = "no config.json in it" if path.is_dir() else "no such folder"
        raise ValueError(f"run: must be a folder made by lit-train, found {found_there}: {path}.")
    config = _read(path / "config.json")
    missing = [part for part in ("data", "text", "loss", "optimizer") if part not in config]
    if missing:
        found_there = ", ".join(config) or "nothing"
        raise ValueError(
            f"{path / 'config.json'}: must hold {', '.join(missing)}, found {found_there}. {_DAMAGED}"
        )
    provenance = read_provenance(path)
    averaged = weights == "average" and config["optimizer"].get("average_decay") is not None
    item = "average" if averaged else "params"
    found, params = (
        _read_best(path, item) if step == "best" else read_params(path / "checkpoints", step, item)
    )
    backbone = params.get("backbone")
    if backbone is None:
        backbone = parameters.load(path / "frozen.safetensors")
    tower = rebuild_text_tower(
        _read(path / "text_tower.json"),
        {"backbone": backbone, "head": params.get("head", {})},
        load_tokenizer(str(path / "tokenizer")),
    )
    return LoadedRun(
        text_tower=tower,
        log_scale=float(params["log_scale"]),
        bias=float(params["bias"]) if "bias" in params else None,
        step=found,
        config=config,
        space_id=provenance.space_id,
        content_id=provenance.content_id,
        mixed=provenance.mixed,
    )


def best(path: Path) -> dict[str, Any] | None:
    """Which step did best while training and at what: step, value, measure, figures; None where none was kept."""
    file = path / "best.json"
    return _read(file) if file.is_file() else None


def _read_best(path: Path, item: str) -> tuple[int, dict[str, Any]]:
    if not (path / "best").is_dir():
        raise ValueError(
            f"--step best: {path} must have kept one, found none. Train with --eval-every, or give a number."
        )
    return read_params(path / "best", item=item)


def read_provenance(path: Path) -> Provenance:
    """What the run in a folder was made from.

    Raises:
        ValueError: the file is damaged, or of another release.
    """
    value = _read(path / "provenance.json")
    lists: dict[str, Any] = {name: tuple(one) for name, one in value.items() if isinstance(one, list)}
    try:
        return Provenance(**{**value, **lists})
    except TypeError as error:
        raise ValueError(f"{path / 'provenance.json'}: must be of this release, found: {error}.") from None


def _read(file: Path) -> dict[str, Any]:
    """A JSON object of a run; raises ValueError where it is not there or is another thing."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{file}: must be there, as lit-train wrote it, found no such file. {_DAMAGED}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{file}: must be JSON as lit-train wrote it, found: {error}. {_DAMAGED}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file}: must be a JSON object, found {type(value).__name__}. {_DAMAGED}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"


def _write(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
