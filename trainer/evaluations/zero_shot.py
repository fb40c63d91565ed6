"""`lit-eval zero-shot`: classification of a store's labelled images by their nearest class's prompts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainer.evals import prompts, report, zero_shot
from trainer.evals.class_subset import SEEN, in_list_order, read_subset
from trainer.evals.labels import PADDING, LabelFile, map_labels, name_index, read_label_file, resolve_labels
from trainer.evals.selection import selected_parts
from trainer.evaluations.subject import RunEvaluation, Subject, TextSide, open_subject


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig(RunEvaluation):
    """Zero-shot classification of the store's labelled images."""

    classes: str
    """JSON file: a list of names (position = label), or of objects with class_index, name and maybe wnid."""
    templates: str | None = None
    """none, clip-80, clip-7, the latter two with -and-name, or a file of templates, one {} a line; none unless
    given."""
    canonicalize: bool = False
    """Lower-case prompts and delete their punctuation, as the LiT authors' code does."""
    renormalize: bool = True
    """Scale the mean of a class's prompt embeddings to length one; both orders are published."""
    aliases: prompts.Aliases = "whole"
    """What a comma in a class name means: nothing, keep what precedes it (first), or several names (all)."""
    class_subset: str | None = None
    """The classes to choose from: JSON list of indices, names or wnids of --classes, or seen: those that have images
    in the store. All unless given."""
    labels_count: Literal["classes", "subset"] = "classes"
    """What the store's integer labels count: --classes, or the list of --class-subset in its own order."""
    labels: str | None = None
    """JSON file of labels instead of the store's: an object of labels by id, or a list whose n-th entry belongs to the
    image whose id ends in the number n, as ImageNet-ReaL is published."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels_count == "subset" and self.class_subset in (None, SEEN):
            raise ValueError("--labels-count subset: must have a --class-subset with a list, found none.")


def evaluate_zero_shot(config: ZeroShotConfig, text: TextSide | None = None) -> dict[str, Any]:
    """Classifies the chosen labelled images; returns the report.

    Raises:
        ValueError: for inputs that do not fit together, or when no chosen image has a label.
    """
    all_names = prompts.read_classes(config.classes)
    templates = prompts.read_templates(config.templates)
    index_of = name_index(all_names, prompts.read_wnids(config.classes))
    label_file = None if config.labels is None else read_label_file(config.labels)
    subset = None
    if config.class_subset not in (None, SEEN):
        subset = read_subset(str(config.class_subset), index_of, len(all_names))
    subject = open_subject(config, text)
    truth = _Truth(config, subject, index_of, len(all_names), label_file, subset)
    candidates = truth.candidates()
    names = tuple(all_names[index] for index in candidates)
    put, templates_put = names, templates
    if config.canonicalize:
        put = tuple(map(prompts.canonicalize_class_name, names))
        templates_put = tuple(map(prompts.canonicalize_template, templates))
    filled = prompts.make_prompts(put, templates_put, config.aliases)
    embed_texts = subject.text.embedder(config.batch_size)
    classes = zero_shot.average_prompts(
        embed_texts(filled.texts), filled.class_index, filled.n_classes, config.renormalize
    )
    judged, n_chosen, n_outside = [], 0, 0
    for embeddings, labels in truth.parts():
        of_candidates = map_labels(labels, candidates, len(all_names))
        labelled, inside = (labels != PADDING).any(axis=1), (of_candidates != PADDING).any(axis=1)
        judged.append(zero_shot.classify(embeddings[inside], classes, of_candidates[inside]))
        n_chosen, n_outside = n_chosen + len(labels), n_outside + int((labelled & ~inside).sum())
    found = zero_shot.merge(judged)
    if not len(found.rank):
        raise ValueError(
            f"zero-shot must have at least one labelled image; found {n_chosen} chosen images, none with a label. "
            "Check --ids, --where and --split, or embed with --label-column."
        )
    ordering = "scaled to length one again" if config.renormalize else "not scaled to length one again"
    figures = zero_shot.summarize(found, names)
    error = figures.pop("mean_per_class_error")
    long_lists = _in_the_whole_list(
        {key: figures.pop(key) for key in ("confusions", "per_class")}, candidates
    )
    return {
        "evaluation": "zero-shot",
        **figures,
        "n_unlabelled": n_chosen - n_outside - figures["n"],
        "n_outside_subset": n_outside,
        "standard_error": {
            **{key: report.standard_error(figures[key], figures["n"]) for key in ("top1", "top5")},
            "mean_per_class": error,
        },
        "definition": zero_shot.DEFINITION.format(ordering=ordering),
        "notes": _class_notes(filled, names) + subject.notes(),
        **subject.provenance(config),
        "classes": Path(config.classes).name,
        "templates": list(templates_put),
        "canonicalize": config.canonicalize,
        "renormalize": config.renormalize,
        "aliases": config.aliases,
        **long_lists,  # last, so that the rest is readable
    }


def show_zero_shot(found: dict[str, Any]) -> str:
    """The report as a small table."""
    columns = ("top1", "top5", "mean_per_class")
    figures = {name: found[name] for name in columns}
    errors = found["standard_error"]
    title = f"zero-shot: {found['n']:,} images, {found['n_classes']:,} classes, {found['n_unlabelled']:,} unlabelled"
    if found.get("n_outside_subset"):
        title += f", {found['n_outside_subset']:,} of no class to choose from"
    return report.show(title, {"": figures}, {"": errors}, found["notes"])


@dataclass(frozen=True)
class _Truth:
    """The chosen images with their classes, as indices into the whole list."""

    config: ZeroShotConfig
    subject: Subject
    index_of: dict[str, tuple[int, ...]]
    n_classes: int
    label_file: LabelFile | None
    subset: tuple[int, ...] | None

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Unit rows float32 [n, D] and labels int32 [n, W], padded with -1, part by part."""
        for part in selected_parts(self.subject.images, self.subject.selection, ("labels", "label_names")):
            if self.label_file is not None:
                yield part.embeddings, self.label_file.resolve(part.ids, self.index_of)
                continue
            labels = resolve_labels(part.pairs, self.index_of)
            if self.config.labels_count == "subset" and self.subset is not None:
                labels = _count_in(labels, part.pairs.column("labels").to_pylist(), self.subset)
            yield part.embeddings, labels

    def candidates(self) -> tuple[int, ...]:
        """Class indices to choose from."""
        if self.config.class_subset == SEEN:
            return in_list_order(
                [one for _, labels in self.parts() for one in labels[labels != PADDING].tolist()]
            )
        return self.subset or tuple(range(self.n_classes))


def _count_in(labels: np.ndarray, integers: Sequence[Sequence[int]], subset: tuple[int, ...]) -> np.ndarray:
    """Labels int32 [n, W] whose integers count in the subset, as class indices; those given as names are so already."""
    are_integers = np.array([bool(one) for one in integers], dtype=bool)[:, None] & (labels != PADDING)
    wrong = np.unique(labels[are_integers & ((labels < 0) | (labels >= len(subset)))])
    if len(wrong):
        raise ValueError(
            f"--labels-count subset: integer labels must be 0..{len(subset) - 1}, found {wrong[:5].tolist()}."
        )
    return np.where(are_integers, np.array(subset, dtype=np.int32)[np.where(are_integers, labels, 0)], labels)


def _in_the_whole_list(lists: dict[str, list[dict[str, Any]]], candidates: Sequence[int]) -> dict[str, Any]:
    """Places among the candidates as class indices."""
    keys = ("class_index", "label", "predicted")
    return {
        name: [entry | {key: candidates[entry[key]] for key in keys if key in entry} for entry in entries]
        for name, entries in lists.items()
    }


def _class_notes(filled: prompts.Prompts, names: Sequence[str]) -> list[str]:
    groups = prompts.inseparable_classes(filled)
    if not groups:
        return []
    shown = "; ".join(f"{names[group[0]]!r} (classes {', '.join(map(str, group))})" for group in groups[:5])
    return [
        f"{len(groups)} sets of classes have the same prompts, so nothing can tell them apart: {shown}. "
        "Between them the first is always taken."
    ]
