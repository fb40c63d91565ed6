"""`lit-eval`: what a tuned text tower is worth, from cached image embeddings.

The run's text tower embeds prompts or captions; the store gives the image side. No pixel is read and no image
tower is loaded.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from schemas.storage import read_storage_options
from schemas.store import ImagesFolder, open_store
from trainer.evals import prompts, report, retrieval, zero_shot
from trainer.evals.captions import embed_captions, gather_captioned
from trainer.evals.embed_text import EmbedTexts, text_embedder
from trainer.evals.labels import name_index, resolve_labels
from trainer.evals.selection import Selection, Split, only_tower, selected_parts, selection_of
from trainer.evaluate_few_shot import FewShotConfig, evaluate_few_shot, show_few_shot
from trainer.run_directory import LoadedRun, load_run

DESCRIPTION = """Evaluates a text tower tuned by lit-train on image embeddings cached by lit-embed.

  lit-eval retrieval --run RUN --store STORE --tower-id ID --output retrieval.json
  lit-eval zero-shot --run RUN --store STORE --tower-id ID --classes classes.json \\
      --templates templates.txt --output zero_shot.json
"""


@dataclass(frozen=True, kw_only=True)
class RunEvaluation:
    """What every evaluation of a run needs."""

    run: str
    """Folder made by lit-train."""
    store: str
    """Folder made by lit-embed."""
    tower_id: str | None = None
    """Which of the store's image towers; may be left out where there is one."""
    output: str
    """The JSON report to write."""
    step: int | None = None
    """A checkpoint of the run; the newest unless given."""
    split: Split = "all"
    """By the run's own hold-out rule: all images, those on the training side, or those held out."""
    ids: str | None = None
    """Evaluate only images whose id fits this shell-style pattern, such as 'val/*'."""
    batch_size: int = 256
    """Texts embedded at once."""
    storage_options: str | None = None
    """JSON file of fsspec options by protocol, for a store that is not a local folder."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"--batch-size: must be at least 1, found {self.batch_size}.")


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig(RunEvaluation):
    """Zero-shot classification of the store's labelled images."""

    classes: str
    """JSON file: a list of names (position = label), or of objects with class_index and name."""
    templates: str | None = None
    """File of templates, one {} a line; the bare class name unless given."""
    canonicalize: bool = False
    """Lower-case prompts and delete their punctuation, as the LiT authors' code does."""
    renormalize: bool = True
    """Scale the mean of a class's prompt embeddings to length one; both orders are published."""
    aliases: prompts.Aliases = "whole"
    """What a comma in a class name means: nothing, keep what precedes it (first), or several names (all)."""


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(RunEvaluation):
    """Retrieval between the store's images and their captions, both ways."""

    templates: str | None = None
    """File of templates, one {} a line, for the captions; a caption's embeddings are averaged over them."""


Command = (
    Annotated[ZeroShotConfig, tyro.conf.subcommand("zero-shot")]
    | Annotated[RetrievalConfig, tyro.conf.subcommand("retrieval")]
    | Annotated[FewShotConfig, tyro.conf.subcommand("few-shot")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one evaluation. Returns 0, or 2 when the command or its inputs are wrong."""
    try:
        config = tyro.cli(
            Command,
            args=list(sys.argv[1:] if argv is None else argv),
            prog="lit-eval",
            description=DESCRIPTION,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        evaluate, show = COMMANDS[type(config)]
        print(show(evaluate(config)))
    except SystemExit as stop:  # tyro has said what is wrong, or printed --help
        return stop.code if isinstance(stop.code, int) else 2
    except (ValueError, OSError) as error:
        print(f"lit-eval: {error}", file=sys.stderr)
        return 2
    print(f"\nwritten to {config.output}")
    return 0


def evaluate_zero_shot(config: ZeroShotConfig) -> dict[str, Any]:
    """Classifies the chosen labelled images by their nearest class's prompts; writes and returns the report.

    Raises:
        ValueError: for inputs that do not fit together, or when no chosen image has a label.
    """
    report.check_output(config.output)
    written_names = prompts.read_classes(config.classes)
    names, templates = written_names, prompts.read_templates(config.templates)
    if config.canonicalize:
        names = tuple(map(prompts.canonicalize_class_name, names))
        templates = tuple(map(prompts.canonicalize_template, templates))
    images, run, selection = _open(config)
    filled = prompts.make_prompts(names, templates, config.aliases)
    embed_texts = _embedder(run, config)
    classes = zero_shot.average_prompts(
        embed_texts(filled.texts), filled.class_index, filled.n_classes, config.renormalize
    )
    index_of = name_index(written_names)
    judged, n_chosen = [], 0
    for part in selected_parts(images, selection, ("labels", "label_names")):
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
    result = {
        "evaluation": "zero-shot",
        **figures,
        "n_unlabelled": n_chosen - figures["n"],
        "standard_error": {
            key: report.standard_error(figures[key], figures["n"]) for key in ("top1", "top5")
        },
        "definition": zero_shot.DEFINITION.format(ordering=ordering),
        "notes": _class_notes(filled, written_names) + _notes(images, run, config),
        **_provenance(images, run, config, selection),
        "classes": Path(config.classes).name,
        "templates": list(templates),
        "canonicalize": config.canonicalize,
        "renormalize": config.renormalize,
        "aliases": config.aliases,
        **long_lists,
    }
    report.write_report(result, config.output)
    return result


def evaluate_retrieval(config: RetrievalConfig) -> dict[str, Any]:
    """Ranks captions for images and images for captions; writes and returns the report.

    Raises:
        ValueError: for inputs that do not fit together, or when no chosen image has a caption.
    """
    report.check_output(config.output)
    templates = prompts.read_templates(config.templates)
    images, run, selection = _open(config)
    pairs = gather_captioned(selected_parts(images, selection))
    texts = embed_captions(_embedder(run, config), pairs.texts, templates)
    ranks = retrieval.retrieval_ranks(pairs.embeddings, texts, pairs.caption_image)
    i2t, t2i = retrieval.summarize(ranks.i2t), retrieval.summarize(ranks.t2i)
    n_images, n_captions = len(ranks.i2t), len(ranks.t2i)
    result = {
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
        "notes": _notes(images, run, config),
        **_provenance(images, run, config, selection),
        "templates": list(templates),
    }
    report.write_report(result, config.output)
    return result


def _open(config: RunEvaluation) -> tuple[ImagesFolder, LoadedRun, Selection]:
    """Opens store and run, and checks that they speak of one space before anything is computed."""
    store = open_store(config.store, read_storage_options(config.storage_options))
    images = store.images(only_tower(store) if config.tower_id is None else config.tower_id)
    run = load_run(config.run, config.step)
    found, needed = images.manifest.space_id, run.space_id
    if found != needed:
        raise ValueError(
            f"space_id: the run's text tower must be evaluated in the space it was tuned for, {needed[:12]}…, found "
            f"{found[:12]}… in {images.manifest.tower_id} of {config.store}. Give the --tower-id trained on (known "
            f"here: {', '.join(store.tower_ids())}), embed these images with that tower, or train on this one."
        )
    images.check()
    return images, run, selection_of(config.split, config.ids, run.config)


def _embedder(run: LoadedRun, config: RunEvaluation) -> EmbedTexts:
    return text_embedder(run.text_tower, run.text_tower.max_text_length, config.batch_size)


def _provenance(
    images: ImagesFolder, run: LoadedRun, config: RunEvaluation, selection: Selection
) -> dict[str, Any]:
    """Which vectors, which weights and which libraries the figures come from."""
    return {
        "run": config.run,
        "checkpoint_step": run.step,
        "tower_id": images.manifest.tower_id,
        "space_id": images.manifest.space_id,
        "content_id": images.manifest.content_id,
        "trained_on_content_id": run.content_id,
        "split": selection.split,
        "holdout_fraction": selection.holdout_fraction,
        "holdout_by": selection.holdout_by,
        "ids": selection.ids,
        "versions": report.versions(),
    }


def _notes(images: ImagesFolder, run: LoadedRun, config: RunEvaluation) -> list[str]:
    """What a reader must know before believing the figures."""
    if images.manifest.content_id != run.content_id or config.split == "heldout":
        return []
    return ["This is the store the run was trained on: the figures include images seen in training."]


def _class_notes(filled: prompts.Prompts, names: Sequence[str]) -> list[str]:
    groups = prompts.inseparable_classes(filled)
    if not groups:
        return []
    shown = "; ".join(f"{names[group[0]]!r} (classes {', '.join(map(str, group))})" for group in groups[:5])
    return [
        f"{len(groups)} sets of classes have the same prompts, so nothing can tell them apart: {shown}. "
        "Between them the first is always taken."
    ]


def _show_zero_shot(found: dict[str, Any]) -> str:
    columns = ("top1", "top5", "mean_per_class")
    figures = {name: found[name] for name in columns}
    errors = found["standard_error"]
    title = f"zero-shot: {found['n']:,} images, {found['n_classes']:,} classes, {found['n_unlabelled']:,} unlabelled"
    return report.show(title, {"": figures}, {"": errors}, found["notes"])


def _show_retrieval(found: dict[str, Any]) -> str:
    title = f"retrieval: {found['n_images']:,} images, {found['n_captions']:,} captions"
    rows = {
        name: {f"r{k}": found[side][f"r{k}"] for k in retrieval.KS}
        for name, side in (("image → text", "i2t"), ("text → image", "t2i"))
    }
    errors = {"image → text": found["standard_error"]["i2t"], "text → image": found["standard_error"]["t2i"]}
    return report.show(title, rows, errors, found["notes"])


# Each kind of evaluation: what makes its report, what shows it.
COMMANDS: dict[type, tuple[Callable[[Any], dict[str, Any]], Callable[[dict[str, Any]], str]]] = {
    ZeroShotConfig: (evaluate_zero_shot, _show_zero_shot),
    RetrievalConfig: (evaluate_retrieval, _show_retrieval),
    FewShotConfig: (evaluate_few_shot, show_few_shot),
}


if __name__ == "__main__":
    sys.exit(main())
