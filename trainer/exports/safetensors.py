"""A tuned text tower as one safetensors file with a JSON description, and reading it back."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from trainer import parameters
from trainer.exports.facts import RunFacts
from trainer.run_directory import LoadedRun
from trainer.text_towers import rebuild_text_tower
from trainer.tokenizers import load_tokenizer

FORMAT = "lit-precompute/text-tower"
VERSION = 1
WEIGHTS = "text_tower.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer"


def write_safetensors(facts: RunFacts, folder: Path) -> list[str]:
    """Writes weights, description and tokenizer.

    Tensors are named `backbone/…`, `head/kernel`, `head/bias`, `log_scale` and, for a sigmoid loss, `bias`.

    Args:
        facts: the run.
        folder: an empty folder.

    Returns:
        What the reader of the command's output should know; nothing here.
    """
    run = facts.run
    tree: dict[str, Any] = {**run.text_tower.params, "log_scale": np.float32(run.log_scale)}
    if run.bias is not None:
        tree["bias"] = np.float32(run.bias)
    parameters.save(tree, folder / WEIGHTS)
    run.text_tower.tokenizer.save(str(folder / TOKENIZER))
    weights = {"file": WEIGHTS, "sha256": _sha256(folder / WEIGHTS)}
    described = {"format": FORMAT, "version": VERSION, "weights": weights, **facts.to_json()}
    (folder / CONFIG).write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return []


def load_export(path: str | Path) -> LoadedRun:
    """Reads back a folder of `lit-export --format safetensors`.

    Args:
        path: a local folder.

    Returns:
        The tower and scale as `load_run` gives them; `config` holds the training settings without places.

    Raises:
        ValueError: the folder is no such export, is of another release, or its weights are not those described.
    """
    folder = Path(path)
    described = _description(folder)
    found, wanted = _sha256(folder / WEIGHTS), described["weights"]["sha256"]
    if found != wanted:
        raise ValueError(
            f"{folder / WEIGHTS}: must have the sha256 that {CONFIG} states, {wanted[:12]}…, found {found[:12]}…. "
            "Copy the folder again, or export anew."
        )
    tree = parameters.load(folder / WEIGHTS)
    tower = rebuild_text_tower(
        described["architecture"],
        {"backbone": tree["backbone"], "head": tree.get("head", {})},
        load_tokenizer(str(folder / TOKENIZER)),
    )
    return LoadedRun(
        text_tower=tower,
        log_scale=float(tree["log_scale"]),
        bias=float(tree["bias"]) if "bias" in tree else None,
        step=described["step"],
        config=described["training"],
        space_id=described["space_id"],
        content_id=described["content_id"],
    )


def _description(folder: Path) -> dict[str, Any]:
    try:
        described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        described = None
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: must be JSON, found {error}. Export anew.") from None
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise ValueError(
            f"{folder}: must be a folder of lit-export --format safetensors, found no {CONFIG} of format {FORMAT!r}."
        )
    if described.get("version") != VERSION:
        raise ValueError(
            f"{folder}: this release reads version {VERSION}, found {described.get('version')!r}. "
            "Read it with the release that wrote it."
        )
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder}: must hold {WEIGHTS}, found none. Copy the folder again, or export anew.")
    return described


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
