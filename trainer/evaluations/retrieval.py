"""`lit-eval retrieval`: does an image find one of its captions, and a caption its image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.evals import prompts, report, retrieval
from trainer.evals.captions import embed_captions, gather_captioned
from trainer.evals.selection import selected_parts
from trainer.evaluations.subject import RunEvaluation, TextSide, open_subject

SIDES = {"i2t": "image → text", "t2i": "text → image"}


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(RunEvaluation):
    """Retrieval between the store's images and their captions, both ways."""

    templates: str | None = None
    """none, clip-80, clip-7, the latter two with -and-name, or a file of templates, one {} a line, for the captions;
    a caption's embeddings are averaged over them."""
    fold_size: int | None = None
    """Average over folds of so many images, in the store's order, each a search of its own: 1000 for the published
    1k figures of COCO. Images that do not fill a fold are left out."""
    captions_per_image: int | None = None
    """Only the first so many captions of each image; all unless given. Some images of COCO have more than five."""
    languages: tuple[str, ...] = ()
    """Only captions in these languages, as the store has them (none: of unknown language)."""
    per_language: bool = False
    """Also each language by itself, its captions among each other, and the mean over the languages."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("fold_size", "captions_per_image"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')}: must be at least 1, found {value}.")


def evaluate_retrieval(config: RetrievalConfig, text: TextSide | None = None) -> dict[str, Any]:
    """Ranks captions for images and images for captions; returns the report.

    Raises:
        ValueError: for inputs that do not fit together, or when no chosen image has a caption.
    """
    templates = prompts.read_templates(config.templates)
    subject = open_subject(config, text)
    pairs = gather_captioned(
        selected_parts(subject.images, subject.selection), config.languages, config.captions_per_image
    )
    texts = embed_captions(subject.text.embedder(config.batch_size), pairs.texts, templates)
    found = _judge(pairs.embeddings, texts, pairs.caption_image, config.fold_size)
    languages: dict[str, dict[str, Any]] = {}
    if config.per_language:
        langs = np.array(pairs.langs)
        languages = {
            str(lang): _of_captions(
                pairs.embeddings, texts, pairs.caption_image, langs == lang, config.fold_size
            )
            for lang in np.unique(langs)
        }
    return {
        "evaluation": "retrieval",
        **found,
        "n_images_without_caption": pairs.n_without_caption,
        "n_shared_captions": pairs.n_shared_captions,
        "n_repeated_images": pairs.n_repeated_images,
        "definition": retrieval.DEFINITION + (retrieval.FOLDS if config.fold_size else ""),
        "notes": subject.notes(),
        **subject.provenance(config),
        "templates": list(templates),
        **({"mean_over_languages": _mean_of(languages), "languages": languages} if languages else {}),
    }


def show_retrieval(found: dict[str, Any]) -> str:
    """The report as a small table."""
    title = f"retrieval: {found['n_images']:,} images, {found['n_captions']:,} captions"
    if "folds" in found:
        title += f", mean of {found['folds']['n']} folds of {found['folds']['size']:,} images"
    rows = {title: _recalls(found[side]) for side, title in SIDES.items()}
    errors = {title: found["standard_error"][side] for side, title in SIDES.items()}
    for lang, one in found.get("languages", {}).items():
        rows |= {f"{lang} {side}": _recalls(one[side]) for side in SIDES}
        errors |= {f"{lang} {side}": one["standard_error"][side] for side in SIDES}
    if "mean_over_languages" in found:
        rows |= {f"mean {side}": _recalls(found["mean_over_languages"][side]) for side in SIDES}
        errors |= {f"mean {side}": {} for side in SIDES}
    return report.show(title, rows, errors, found["notes"])


def _judge(
    images: np.ndarray, texts: np.ndarray, caption_image: np.ndarray, fold_size: int | None
) -> dict[str, Any]:
    """Figures of one set of captions, whole or averaged over folds."""
    folds = [
        retrieval.retrieval_ranks(*fold)
        for fold in _folds(images, texts, caption_image, fold_size or len(images))
    ]
    if not folds:
        raise ValueError(
            f"--fold-size: must be at most the number of images with a caption, {len(images):,}, found {fold_size}."
        )
    sides = {side: [retrieval.summarize(getattr(ranks, side)) for ranks in folds] for side in SIDES}
    means = {side: _mean(each) for side, each in sides.items()}
    counts = {side: sum(len(getattr(ranks, side)) for ranks in folds) for side in SIDES}
    judged: dict[str, Any] = {
        **means,
        "n_images": counts["i2t"],
        "n_captions": counts["t2i"],
        "standard_error": {
            side: {f"r{k}": report.standard_error(means[side][f"r{k}"], counts[side]) for k in retrieval.KS}
            for side in SIDES
        },
    }
    if fold_size:
        judged["folds"] = {
            "n": len(folds),
            "size": fold_size,
            "left_out": len(images) - counts["i2t"],
            "each": sides,
        }
    return judged


def _folds(
    images: np.ndarray, texts: np.ndarray, caption_image: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Whole folds of consecutive images with their captions."""
    for start in range(0, len(images) - size + 1, size):
        own = (caption_image >= start) & (caption_image < start + size)
        yield images[start : start + size], texts[own], caption_image[own] - start


def _of_captions(
    images: np.ndarray,
    texts: np.ndarray,
    caption_image: np.ndarray,
    chosen: np.ndarray,
    fold_size: int | None,
) -> dict[str, Any]:
    """Figures of some captions and the images that have them; chosen is bool [M]."""
    rows, place = np.unique(caption_image[chosen], return_inverse=True)
    return _judge(images[rows], texts[chosen], place, fold_size)


def _mean_of(languages: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    return {side: _recalls(_mean([one[side] for one in languages.values()])) for side in SIDES}


def _mean(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


def _recalls(side: Mapping[str, float]) -> dict[str, float]:
    return {f"r{k}": side[f"r{k}"] for k in retrieval.KS}
