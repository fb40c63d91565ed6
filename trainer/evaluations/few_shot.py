"""`lit-eval few-shot`: a linear probe on the image cache alone, before any text tower is tuned."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.store import ImagesFolder
from trainer.evals import few_shot, prompts, report
from trainer.evals.labels import name_index, resolve_labels
from trainer.evals.selection import Selection, parse_where, stored_embeddings
from trainer.evaluations.subject import StoreEvaluation, TextSide, open_images, provenance


@dataclass(frozen=True, kw_only=True)
class FewShotConfig(StoreEvaluation):
    """A linear probe on few labelled images: what the image cache is worth before any tuning."""

    classes: str | None = None
    """JSON file as for zero-shot; needed when the store's labels are names."""
    test_store: str | None = None
    """Folder made by lit-embed to test on; unless given, the images of the store that were not drawn."""
    shots: tuple[int, ...] = (1, 5, 10, 25)
    """Images a class."""
    seeds: int = 3
    """Draws, averaged."""
    l2: float = 2.0**10
    """Strength of the ridge; the reference's value."""

    def __post_init__(self) -> None:
        if self.seeds < 1 or not self.shots or min(self.shots) < 1:
            raise ValueError(f"--shots and --seeds must be 1 or more, found {self.shots} and {self.seeds}.")
        if self.l2 <= 0:
            raise ValueError(f"--l2: must be above 0, found {self.l2}.")


def evaluate_few_shot(config: FewShotConfig, text: TextSide | None = None) -> dict[str, Any]:
    """Fits a probe per number of shots and seed; returns the report.

    Images of several labels count as the first of them. No text tower takes part.

    Raises:
        ValueError: for inputs that do not fit together, or when there is nothing to draw or to test on.
    """
    names = prompts.read_classes(config.classes) if config.classes else ()
    images = _open(config)
    chosen = Selection(ids=config.ids, where=parse_where(config.where))
    features, labels = _labelled(images, names, chosen)
    held = None
    if config.test_store is not None:
        test = _open(config, config.test_store)
        if test.manifest.space_id != images.manifest.space_id:
            raise ValueError(
                f"--test-store: must hold embeddings of the same space, {images.manifest.space_id[:12]}…, found "
                f"{test.manifest.space_id[:12]}…. Embed it with the same tower."
            )
        held = _labelled(test, names, Selection())
    accuracies = {
        shots: [_accuracy(features, labels, held, shots, seed, config.l2) for seed in range(config.seeds)]
        for shots in config.shots
    }
    return {
        "evaluation": "few-shot",
        "accuracy": {str(shots): float(np.mean(found)) for shots, found in accuracies.items()},
        "per_seed": {str(shots): found for shots, found in accuracies.items()},
        "standard_error": {
            str(shots): float(np.std(found) / np.sqrt(len(found))) for shots, found in accuracies.items()
        },
        "n": len(labels),
        "n_test": "the images not drawn" if held is None else len(held[1]),
        "n_classes": len(np.unique(labels)),
        "l2": config.l2,
        "definition": few_shot.DEFINITION,
        **provenance(images, config),
    }


def show_few_shot(found: dict[str, Any]) -> str:
    """The report as a small table."""
    accuracy = {f"{shots} shots": value for shots, value in found["accuracy"].items()}
    errors = {f"{shots} shots": value for shots, value in found["standard_error"].items()}
    title = f"few-shot: {found['n']:,} labelled images, {found['n_classes']:,} classes"
    return report.show(title, {"accuracy": accuracy}, {"accuracy": errors})


def _open(config: FewShotConfig, path: str | None = None) -> ImagesFolder:
    images, _ = open_images(config, path)
    images.check()
    return images


def _labelled(
    images: ImagesFolder, names: tuple[str, ...], chosen: Selection
) -> tuple[np.ndarray, np.ndarray]:
    """Raw features float32 [N, D] and first labels int32 [N] of the labelled images."""
    index_of = name_index(names)
    features, labels = [], []
    for part in stored_embeddings(images, chosen, ("labels", "label_names")):
        first = resolve_labels(part.pairs, index_of)[:, 0]
        features.append(part.embeddings[first >= 0].astype(np.float32))
        labels.append(first[first >= 0])
    if not sum(map(len, labels)):
        raise ValueError(
            "few-shot must have labelled images, found none. Check --ids, or embed with --label-column."
        )
    return np.concatenate(features), np.concatenate(labels)


def _accuracy(
    features: np.ndarray,
    labels: np.ndarray,
    held: tuple[np.ndarray, np.ndarray] | None,
    shots: int,
    seed: int,
    l2: float,
) -> float:
    rows = few_shot.draw_shots(labels, shots, seed)
    if held is None:
        rest = np.setdiff1d(np.arange(len(labels)), rows)
        held = features[rest], labels[rest]
    if not len(held[1]):
        raise ValueError(
            f"few-shot must have images to test on; {shots} shots a class leave none of {len(labels)}. "
            "Give fewer --shots or a --test-store."
        )
    n_classes = int(max(labels.max(), held[1].max())) + 1
    return few_shot.accuracy(few_shot.fit_probe(features[rows], labels[rows], n_classes, l2), *held)
