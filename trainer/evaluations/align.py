"""`lit-eval align`: how well image caches go with the captions, before anything is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.digests import caption_key, key64
from schemas.storage import read_storage_options
from schemas.store import ImagesFolder, Store, open_store
from schemas.weights import bare_name
from trainer.evals import report
from trainer.evals.alignment import DEFINITION, debiased_cka, mutual_neighbours
from trainer.evals.selection import Selection, selected_parts, usable_captions
from trainer.evals.word_vectors import word_vectors
from trainer.evaluations.subject import TextSide
from trainer.run_directory import load_run


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """How alike images and captions are arranged, for each image tower of a store: which one to tune against?"""

    store: str
    """Folder made by lit-embed, with one or more image towers over the same pairs."""
    tower_ids: tuple[str, ...] = ()
    """Which of its image towers; all finished ones unless given."""
    run: str | None = None
    """Run of lit-train whose text tower reads the captions; unless given, captions are bags of words."""
    neighbours: int = 10
    """Nearest images and captions compared."""
    sample: int = 4096
    """Images looked at, drawn by a hash of their ids: the same ones for every tower."""
    ids: str | None = None
    """Only images whose id fits this shell-style pattern, such as 'val/*'."""
    output: str | None = None
    """The JSON report to write, where one is wanted."""
    storage_options: str | None = None
    """JSON file of fsspec options by protocol, for a store that is not a local folder."""

    def __post_init__(self) -> None:
        if self.sample < 4:
            raise ValueError(f"--sample: must be at least 4, found {self.sample}.")


@dataclass(frozen=True)
class Sampled:
    """Some images of a tower: id → unit vector float32 [D], and id → first caption."""

    vectors: dict[str, np.ndarray]
    captions: dict[str, str]


def run_align(config: AlignConfig) -> int:
    """Measures, prints a table, and writes the report where asked."""
    if config.output:
        report.check_output(config.output)
    found = evaluate_align(config)
    print(show_align(found))
    if config.output:
        report.write_report(found, config.output)
        print(f"\nwritten to {config.output}")
    return 0


def evaluate_align(config: AlignConfig) -> dict[str, Any]:
    """Compares each tower's arrangement of the images with that of their captions; returns the report.

    Only images that all the towers have, and of images with one caption between them the first, by the hash of ids.

    Raises:
        ValueError: for a store without finished towers, or too few images with a caption.
    """
    store = open_store(config.store, read_storage_options(config.storage_options))
    folders = _folders(store, config.tower_ids)
    sampled = {name: _sample(images, config) for name, images in folders.items()}
    ids = _common(list(sampled.values()))
    captions = next(iter(sampled.values())).captions
    texts = _text_vectors([captions[one] for one in ids], config.run)
    towers = {}
    for name, some in sampled.items():
        vectors = np.stack([some.vectors[one] for one in ids]) if ids else np.zeros((0, 1), np.float32)
        towers[name] = {
            "cka": debiased_cka(vectors, texts),
            "mutual_neighbours": mutual_neighbours(vectors, texts, config.neighbours),
            "embedding_dim": vectors.shape[1],
            "space_id": folders[name].manifest.space_id,
            "content_id": folders[name].manifest.content_id,
        }
    return {
        "evaluation": "align",
        "towers": towers,
        "n": len(ids),
        "neighbours": config.neighbours,
        "chance": config.neighbours / (len(ids) - 1),
        "text": "bag of words" if config.run is None else bare_name(config.run),
        "definition": DEFINITION,
        "versions": report.versions(),
    }


def show_align(found: dict[str, Any]) -> str:
    """The report as a small table, the best arrangement first."""
    width = max(len(name) for name in found["towers"])
    lines = [
        f"alignment with the captions ({found['text']}): {found['n']:,} images, chance {100 * found['chance']:.1f} %",
        f"{'':<{width}} {'cka':>8} {'mutual neighbours':>18}",
    ]
    best_first = sorted(found["towers"].items(), key=lambda item: -item[1]["mutual_neighbours"])
    for name, figures in best_first:
        lines.append(f"{name:<{width}} {figures['cka']:>8.3f} {100 * figures['mutual_neighbours']:>16.1f} %")
    return "\n".join(lines)


def _folders(store: Store, names: Sequence[str]) -> dict[str, ImagesFolder]:
    names = list(dict.fromkeys(names)) or store.tower_ids()
    if not names:
        raise ValueError(
            f"--store: must have a finished image tower, found none in {store.path}. Run lit-embed first."
        )
    folders = {name: store.images(name) for name in names}
    for images in folders.values():
        images.check()
    return folders


def _sample(images: ImagesFolder, config: AlignConfig) -> Sampled:
    """The captioned images of the smallest id hashes; memory holds the sample and one part."""
    kept: list[tuple[int, str, np.ndarray, str]] = []
    for part in selected_parts(images, Selection(ids=config.ids)):
        for id, vector, captions in zip(part.ids, part.embeddings, usable_captions(part.pairs), strict=True):
            if captions:
                kept.append((key64(id.encode()), id, vector, captions[0]))
        kept = sorted(kept, key=lambda item: item[:2])[: config.sample]
    return Sampled({id: vector for _, id, vector, _ in kept}, {id: text for _, id, _, text in kept})


def _common(sampled: Sequence[Sampled]) -> list[str]:
    """Ids that all samples have, by hash, one per wording of the caption."""
    first, *others = sampled
    owners: dict[int, str] = {}
    for id, text in first.captions.items():
        if all(id in other.captions for other in others):
            owners.setdefault(caption_key(text), id)
    return list(owners.values())


def _text_vectors(texts: Sequence[str], run: str | None) -> np.ndarray:
    if run is None:
        return word_vectors(texts)
    return TextSide(load_run(run)).embedder(256)(texts)
