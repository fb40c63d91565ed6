"""`lit-eval zero-shot`: classification of a store's labelled images by their nearest class's prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.evals import prompts, report, zero_shot
from trainer.evals.labels import name_index, resolve_labels
from trainer.evals.selection import selected_parts
from trainer.evaluations.subject import RunEvaluation, TextSide, open_subject


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig(RunEvaluation):
    """Zero-shot classification of the store's labelled images."""

    classes: str
    """JSON file: a list of names (position = label), or of objects with class_index and name."""
    templates: str | None = None
    """none, clip-80, clip-7, the latter two with -and-name, or a file of templates, one {} a line; none unless
    given."""
    canonicalize: bool = False
    """Lower-case prompts and delete their punctuation, as the LiT authors' code does."""
    renormalize: bool = True
    """Scale the mean of a class's prompt embeddings to length one; both orders are published."""
    aliases: prompts.Aliases = "whole"
    """What a comma in a class name means: nothing, keep what precedes it (first), or several names (all)."""


def evaluate_zero_shot(config: ZeroShotConfig, text: TextSide | None = None) -> dict[str, Any]:
    """Classifies the chosen labelled images; returns the report.

    Raises:
        ValueError: for inputs that do not fit together, or when no chosen image has a label.
    """
    written_names = prompts.read_classes(config.classes)
    names, templates = written_names, prompts.read_templates(config.templates)
    if config.canonicalize:
        names = tuple(map(prompts.canonicalize_class_name, names))
        templates = tuple(map(prompts.canonicalize_template, templates))
    subject = open_subject(config, text)
    filled = prompts.make_prompts(names, templates, config.aliases)
    embed_texts = subject.text.embedder(config.batch_size)
    classes = zero_shot.average_prompts(
        embed_texts(filled.texts), filled.class_index, filled.n_classes, config.renormalize
    )
    index_of = name_index(written_names)
    judged, n_chosen = [], 0
    for part in selected_parts(subject.images, subject.selection, ("labels", "label_names")):
        labels = resolve_labels(part.pairs, index_of)
        labelled = (labels >= 0).any(axis=1) | (labels < -1).any(axis=1)
        judged.append(zero_shot.classify(part.embeddings[labelled], classes, labels[labelled]))
        n_chosen += len(labels)
    found = zero_shot.merge(judged)
    if not len(found.rank):
        raise ValueError(
            f"zero-shot must have at least one labelled image; found {n_chosen} chosen images, none with a label. "
            "Check --ids and --split, or embed with --label-column."
        )
    ordering = "scaled to length one again" if config.renormalize else "not scaled to length one again"
    figures = zero_shot.summarize(found, written_names)
    long_lists = {
        key: figures.pop(key) for key in ("confusions", "per_class")
    }  # last, so the rest is readable
    return {
        "evaluation": "zero-shot",
        **figures,
        "n_unlabelled": n_chosen - figures["n"],
        "standard_error": {
            key: report.standard_error(figures[key], figures["n"]) for key in ("top1", "top5")
        },
        "definition": zero_shot.DEFINITION.format(ordering=ordering),
        "notes": _class_notes(filled, written_names) + subject.notes(),
        **subject.provenance(config),
        "classes": Path(config.classes).name,
        "templates": list(templates),
        "canonicalize": config.canonicalize,
        "renormalize": config.renormalize,
        "aliases": config.aliases,
        **long_lists,
    }


def show_zero_shot(found: dict[str, Any]) -> str:
    """The report as a small table."""
    columns = ("top1", "top5", "mean_per_class")
    figures = {name: found[name] for name in columns}
    errors = found["standard_error"]
    title = f"zero-shot: {found['n']:,} images, {found['n_classes']:,} classes, {found['n_unlabelled']:,} unlabelled"
    return report.show(title, {"": figures}, {"": errors}, found["notes"])


def _class_notes(filled: prompts.Prompts, names: Sequence[str]) -> list[str]:
    groups = prompts.inseparable_classes(filled)
    if not groups:
        return []
    shown = "; ".join(f"{names[group[0]]!r} (classes {', '.join(map(str, group))})" for group in groups[:5])
    return [
        f"{len(groups)} sets of classes have the same prompts, so nothing can tell them apart: {shown}. "
        "Between them the first is always taken."
    ]
