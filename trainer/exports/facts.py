"""All that is known of a run at the moment it is exported, each fact from a file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.manifest import ImagesManifest
from schemas.storage import StorageOptions
from schemas.store import open_store
from schemas.weights import bare_name
from trainer import run_directory
from trainer.evals.selection import only_tower
from trainer.run_directory import LoadedRun, Provenance

# Where things lie on one machine is nobody else's business: of these the bare name is kept, of the others nothing.
_NAMED_PLACES = (
    ("data", "store"),
    ("data", "val_store"),
    ("data", "caption_templates"),
    ("text", "text_checkpoint"),
    (None, "eval_suite"),
    (None, "init"),
)
_DROPPED_PLACES = ((None, "output"), ("data", "spool_dir"), ("data", "storage_options"))


@dataclass(frozen=True)
class RunFacts:
    """A run, as an export speaks of it.

    Attributes:
        name: bare name of the run's folder.
        run: the trained tower and its scale.
        provenance: what the run was made from.
        summary: what the training wrote at its end; None for a run that was stopped before.
        images: manifest of embeddings of the same space; None where the store was not at hand.
    """

    name: str
    run: LoadedRun
    provenance: Provenance
    summary: dict[str, Any] | None
    images: ImagesManifest | None

    @property
    def same_data(self) -> bool:
        """Whether `images` speaks of the very embeddings that were trained on."""
        return self.images is not None and self.images.content_id == self.run.content_id

    def to_json(self) -> dict[str, Any]:
        """What every export keeps beside its weights, whatever its format."""
        return {
            "run": self.name,
            "step": self.run.step,
            "space_id": self.run.space_id,
            "content_id": self.run.content_id,
            "architecture": self.run.text_tower.architecture,
            "max_text_length": self.run.text_tower.max_text_length,
            "templates": list(self.provenance.templates),
            "provenance": {
                "tokenizer": self.provenance.tokenizer,
                "first_backbone": self.provenance.backbone,
                "rows": self.provenance.rows,
            },
            "image_tower": self.images.tower.to_json() if self.images else None,
            "training": training_settings(self.run.config),
        }


def gather_facts(
    run: str,
    step: int | None = None,
    store: str | None = None,
    tower_id: str | None = None,
    options: StorageOptions | None = None,
    weights: run_directory.Weights = "average",
) -> RunFacts:
    """Reads a run, and the manifest of the images it was tuned to.

    Args:
        run: a folder made by lit-train.
        step: which checkpoint; the newest unless given.
        store: where the manifest is; the run's own store, if it is still there, unless given.
        tower_id: which of the store's towers.
        options: fsspec options by protocol, for the store.
        weights: the running average of the parameters where the run keeps one, or the last ones.

    Raises:
        ValueError: there is no such run or checkpoint, or the store given is of another space.
    """
    name, local = Path(run).resolve().name, run_directory.local_run(run)
    loaded = run_directory.load_run(local, step, weights)
    return RunFacts(
        name=name,
        run=loaded,
        provenance=run_directory.read_provenance(local),
        summary=run_directory.summary(local),
        images=_manifest(loaded, store, tower_id, options),
    )


def training_settings(config: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration without the places where things lay."""
    settings = json.loads(json.dumps(config))
    for part, name in _DROPPED_PLACES:
        (settings if part is None else settings[part]).pop(name, None)
    for part, name in _NAMED_PLACES:
        inside = settings if part is None else settings[part]
        if found := inside.get(name):
            inside[name] = bare_name(found) if isinstance(found, str) else [bare_name(one) for one in found]
    return settings


def _manifest(
    run: LoadedRun, store: str | None, tower_id: str | None, options: StorageOptions | None
) -> ImagesManifest | None:
    if store is not None:
        found = _open(store, tower_id, options)
        if found.space_id != run.space_id:
            raise ValueError(
                f"--store: must hold embeddings of the space the run was tuned to, {run.space_id[:12]}…, found "
                f"{found.space_id[:12]}… in {found.tower_id} of {store}. Give the --tower-id trained on."
            )
        return found
    recorded = run.config["data"]["store"][0]  # the others are of the same space
    if not Path(recorded).is_dir():  # moved, deleted, or not a local folder: ask for it with --store
        return None
    try:
        found = _open(recorded, tower_id or run.config["data"]["tower_id"], options)
    except (ValueError, OSError):
        return None
    return found if found.space_id == run.space_id else None


def _open(store: str, tower_id: str | None, options: StorageOptions | None) -> ImagesManifest:
    opened = open_store(store, options)
    return opened.images(only_tower(opened) if tower_id is None else tower_id).manifest
