"""`lit-eval retrieval`: does an image find one of its captions, and a caption its image."""

from dataclasses import dataclass
from typing import Any

from trainer.evals import prompts, report, retrieval
from trainer.evals.captions import embed_captions, gather_captioned
from trainer.evals.selection import selected_parts
from trainer.evaluations.subject import RunEvaluation, TextSide, open_subject


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(RunEvaluation):
    """Retrieval between the store's images and their captions, both ways."""

    templates: str | None = None
    """File of templates, one {} a line, for the captions; a caption's embeddings are averaged over them."""


def evaluate_retrieval(config: RetrievalConfig, text: TextSide | None = None) -> dict[str, Any]:
    """Ranks captions for images and images for captions; returns the report.

    Raises:
        ValueError: for inputs that do not fit together, or when no chosen image has a caption.
    """
    templates = prompts.read_templates(config.templates)
    subject = open_subject(config, text)
    pairs = gather_captioned(selected_parts(subject.images, subject.selection))
    texts = embed_captions(subject.text.embedder(config.batch_size), pairs.texts, templates)
    ranks = retrieval.retrieval_ranks(pairs.embeddings, texts, pairs.caption_image)
    i2t, t2i = retrieval.summarize(ranks.i2t), retrieval.summarize(ranks.t2i)
    n_images, n_captions = len(ranks.i2t), len(ranks.t2i)
    return {
        "evaluation": "retrieval",
        "i2t": i2t,
        "t2i": t2i,
        "n_images": n_images,
        "n_captions": n_captions,
        "n_images_without_caption": pairs.n_without_caption,
        "n_shared_captions": pairs.n_shared_captions,
        "n_repeated_images": pairs.n_repeated_images,
        "standard_error": {
            "i2t": {f"r{k}": report.standard_error(i2t[f"r{k}"], n_images) for k in retrieval.KS},
            "t2i": {f"r{k}": report.standard_error(t2i[f"r{k}"], n_captions) for k in retrieval.KS},
        },
        "definition": retrieval.DEFINITION,
        "notes": subject.notes(),
        **subject.provenance(config),
        "templates": list(templates),
    }


def show_retrieval(found: dict[str, Any]) -> str:
    """The report as a small table."""
    title = f"retrieval: {found['n_images']:,} images, {found['n_captions']:,} captions"
    rows = {
        name: {f"r{k}": found[side][f"r{k}"] for k in retrieval.KS}
        for name, side in (("image → text", "i2t"), ("text → image", "t2i"))
    }
    errors = {"image → text": found["standard_error"]["i2t"], "text → image": found["standard_error"]["t2i"]}
    return report.show(title, rows, errors, found["notes"])
