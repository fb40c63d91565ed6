"""`lit-eval report`: gathers what there is to know of a run and writes the page."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from schemas.storage import read_storage_options
from schemas.store import ImagesFolder
from schemas.weights import bare_name
from trainer import parameters, run_directory
from trainer.data.stores import open_stores
from trainer.evals.captions import embed_captions
from trainer.evals.figures import figures
from trainer.evals.report import check_output
from trainer.evals.retrieval import retrieval_ranks
from trainer.evals.selection import Split, selection_of
from trainer.evaluations.subject import TextSide
from trainer.evaluations.suite import failed_evaluations
from trainer.evaluations.table import read_reports
from trainer.exports.facts import training_settings
from trainer.report import sections
from trainer.report.bars import histogram
from trainer.report.curves import evaluation_charts, read_lines, training_charts
from trainer.report.evaluation_tables import evaluations
from trainer.report.gallery import gallery_markup, make_gallery
from trainer.report.markup import count, percent, short
from trainer.report.page import Section, Tile, build_page, paragraph, side_by_side
from trainer.report.sample import Sample, draw_sample
from trainer.report.similarity import similarities
from trainer.report.thumbnails import Thumbnails, ask_for_thumbnails
from trainer.run_directory import LoadedRun, Weights, load_run

MOST_TILES = 8
# The figures to see first, and what they are called there.
FIRST = {"top1": "top-1", "i2t r1": "image → text recall@1", "t2i r1": "text → image recall@1"}
MOST_TEMPLATES = 8  # of the run's own, for the captions of the sample


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """One HTML page of a run: curves, evaluations, a gallery, classes, similarities, the cache."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder made by lit-train; reports in its `evaluations` are on the page."""
    output: str | None = None
    """The page to write; unless given, report.html in the run's folder."""
    step: int | Literal["best"] | None = None
    """A checkpoint of the run, or the one kept as best while training; the newest unless given."""
    weights: Weights = "average"
    """The running average of the parameters where the run keeps one (--average-decay), or the last ones."""
    store: str | None = None
    """Whose images the gallery shows; unless given, the run's validation store, or the one it was trained on."""
    tower_id: str | None = None
    """Which of the store's image towers; may be left out where there is one."""
    split: Split | None = None
    """Images of the gallery by the run's hold-out rule; unless given, those held out, or all where none were."""
    images: int = 2_000
    """Images the gallery and the histograms are drawn from, chosen by a hash of their ids."""
    queries: int = 6
    """Queries of the gallery each way, half of them misses where there are so many."""
    thumbnails: bool = True
    """Show pictures, read from the inputs that the store's plan names; needs lit-precompute[embed]."""
    max_input_bytes: int = 1 << 30
    """How much of the inputs may be read for pictures."""
    batch_size: int = 256
    """Texts embedded at once."""
    storage_options: str | None = None
    """JSON file of fsspec options by protocol, for a store that is not a local folder."""

    def __post_init__(self) -> None:
        for name in ("images", "queries", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"--{name.replace('_', '-')}: must be at least 1, found {getattr(self, name)}."
                )


def run_report(config: ReportConfig) -> int:
    """Writes the page, and says where it is and what it lacks."""
    if config.output is not None:
        check_output(config.output)
    folder = run_directory.local_run(config.run)
    output = Path(config.output or folder / "report.html")
    run = load_run(folder, config.step, config.weights)
    page, notes = make_report(config, run)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, encoding="utf-8")
    place = str(output) if config.output else run_directory.hand_back(config.run, [output])[0]
    print(f"written to {place} ({len(page.encode()) / 1e6:.1f} MB)")
    for note in notes:
        print(f"Note: {note}")
    return 0


def make_report(config: ReportConfig, run: LoadedRun) -> tuple[str, list[str]]:
    """The page as text, and what could not be shown.

    Raises:
        ValueError: a store was named that does not fit the run.
    """
    folder = run_directory.local_run(config.run)
    metrics, watched = read_lines(folder / "metrics.jsonl"), read_lines(folder / "evaluations.jsonl")
    reports = read_reports(str(folder))
    images, notes = _images(config, run)
    failed = failed_evaluations(folder / "evaluations")
    notes += [f"{name}, which failed: {error}" for name, error in failed.items()]
    made: list[Section] = []
    if images is not None:
        shown, more = _of_the_store(config, run, images)
        made += shown
        notes += more
    charts = training_charts(metrics) + evaluation_charts(watched)
    page = build_page(
        bare_name(str(Path(config.run).resolve())),
        _lead(run, folder),
        _tiles(run, folder, metrics, reports),
        [
            evaluations(reports),
            Section("training", "Training", side_by_side(charts)),
            *[section for section in made if section.anchor != "cache"],
            sections.classes(reports),
            *[section for section in made if section.anchor == "cache"],
            sections.settings(training_settings(run.config), _facts(run, folder)),
            Section("missing", "Not on this page", "".join(map(paragraph, notes))),
        ],
    )
    return page, notes


def _images(config: ReportConfig, run: LoadedRun) -> tuple[ImagesFolder | None, list[str]]:
    """The store's tower, or nothing and why; a store that was asked for must be right."""
    tower_id = config.tower_id or (None if config.store else run.config["data"]["tower_id"])
    try:
        images = open_stores([_store(config, run)], tower_id, read_storage_options(config.storage_options))[
            0
        ].images
        images.check()
        if images.manifest.space_id != run.space_id:
            raise ValueError(
                f"--store: must hold embeddings of the space the run was tuned to, {run.space_id[:12]}…, found "
                f"{images.manifest.space_id[:12]}… in {images.manifest.tower_id}. Give the --tower-id trained on."
            )
    except (ValueError, OSError) as error:
        if config.store is not None:
            raise
        return None, [f"The gallery, the similarities and the cache: the store could not be opened ({error})"]
    return images, []


def _store(config: ReportConfig, run: LoadedRun) -> str:
    data = run.config["data"]
    return config.store or [*data["val_store"], *data["store"]][0]


def _of_the_store(
    config: ReportConfig, run: LoadedRun, images: ImagesFolder
) -> tuple[list[Section], list[str]]:
    """Gallery, similarities and cache, and what of them could not be shown."""
    same_data = images.manifest.content_id in (run.content_id, *run.mixed)
    held_out = same_data and float(run.config["data"]["holdout_fraction"]) > 0
    split: Split = config.split or ("heldout" if held_out else "all")
    cache = sections.cache(images)
    try:
        everything = draw_sample(images, selection_of(split, None, run.config), config.images)
    except ValueError as error:
        return [cache], [f"The gallery and the similarities: {error}"]
    sample = everything.captioned()
    norms = {"images": everything.norms}
    if not sample.ids:
        body = side_by_side([histogram("Norms of the stored vectors", norms)])
        return [Section("similarities", "Norms", body), cache], ["The gallery: no image has a caption."]
    text = TextSide(run)
    texts, text_norms = _embed(config, text, sample)
    ranks = retrieval_ranks(sample.embeddings, texts, np.arange(len(texts)))
    gallery = make_gallery(sample, texts, ranks, config.queries)
    pictures, word = _pictures(config, run, images, sample, gallery.rows())
    drawn = _drawn(sample, split, same_data)
    found = similarities(sample, texts)
    charts = [
        histogram("Norms of the stored vectors", norms),
        histogram("Norms of the texts' vectors", {"texts": text_norms}),
    ]
    note = ""
    if found is not None:
        groups = {"own caption": found.positives, "another's": found.negatives}
        charts.insert(0, histogram("Cosine of images with captions", groups))
        note = (
            f"An image lies nearer to its own caption than to another's {percent(found.told_apart)} of the time "
            f"({count(len(found.negatives))} foreign pairs)."
        )
    return [
        Section(
            "gallery", "Gallery", gallery_markup(gallery, sample, pictures), f"{drawn} Pictures: {word}."
        ),
        Section("similarities", "Similarities", side_by_side(charts), note),
        cache,
    ], []


def _embed(config: ReportConfig, text: TextSide, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """First captions as unit rows float32 [N, D], put as in training; and norms float32 [n] before normalising."""
    templates = run_directory.read_provenance(run_directory.local_run(config.run)).templates[:MOST_TEMPLATES]
    captions = [captions[0] for captions in sample.captions]
    texts = embed_captions(text.embedder(config.batch_size), captions, templates)
    distinct = list(dict.fromkeys(templates[0].replace("{}", caption) for caption in captions))
    return texts, text.norms(distinct, config.batch_size)


def _pictures(
    config: ReportConfig, run: LoadedRun, images: ImagesFolder, sample: Sample, rows: list[int]
) -> tuple[Thumbnails, str]:
    if not config.thumbnails:
        return {}, "none, as asked"
    wanted = [(sample.units[row], sample.ids[row]) for row in rows]
    tower_id = images.manifest.tower_id
    return ask_for_thumbnails(
        _store(config, run), wanted, tower_id, config.storage_options, config.max_input_bytes
    )


def _drawn(sample: Sample, split: Split, same_data: bool) -> str:
    which = {"all": "all images", "train": "images trained on", "heldout": "images held out of training"}[
        split
    ]
    if split == "all" and same_data:
        which += ", those trained on included"
    some = "" if sample.parts == sample.all_parts else f", {sample.parts} of {count(sample.all_parts)} parts"
    return (
        f"{count(len(sample.ids))} images with a caption, drawn by a hash of their ids from {which}{some}; first "
        "captions only. Half of the queries are misses, where there are so many."
    )


def _lead(run: LoadedRun, folder: Path) -> str:
    data = run.config["data"]
    trained = run_directory.read_provenance(folder).rows
    stores = " + ".join(map(bare_name, data["store"]))
    return (
        f"{run.text_tower.name} tuned on {count(trained)} images of {stores}, "
        f"{run.config['loss']['loss']} loss, batches of {count(run.config['batch_size'])}; step {count(run.step)} of "
        f"{count(run.config['steps'])}."
    )


def _tiles(
    run: LoadedRun, folder: Path, metrics: list[dict[str, Any]], reports: Mapping[str, Mapping[str, Any]]
) -> list[Tile]:
    """The first figures of the reports, those of held-out data before others, then of the training."""
    tiles = []
    order = {"heldout": 0, "all": 1, "train": 2}
    for name, report in sorted(reports.items(), key=lambda item: order.get(item[1].get("split", "all"), 1)):
        found = figures(report)
        for one in [one for one in found if one.name in FIRST] or found[-1:]:  # of few-shot the most shots
            name_of_it = f"{name}: {FIRST.get(one.name, one.name)}"
            tiles.append(Tile(percent(one.value), name_of_it, _error(one.error)))
    tiles = tiles[: MOST_TILES - 3]
    if (best := run_directory.best(folder)) is not None:
        tiles.append(
            Tile(
                f"step {count(best['step'])}",
                "best checkpoint",
                f"{best['measure']} {percent(best['value'])}",
            )
        )
    if metrics:
        last = metrics[-1]
        if last.get("loss") is not None:
            tiles.append(Tile(f"{last['loss']:.3f}", "last loss", f"at step {count(last['step'])}"))
        if last.get("samples_seen") is not None:
            tiles.append(Tile(short(last["samples_seen"]), "pairs seen"))
    return [*tiles, Tile(short(parameters.count(run.text_tower.params)), "parameters of the text tower")]


def _error(error: float | None) -> str:
    return "" if error is None else f"± {100 * error:.1f}"


def _facts(run: LoadedRun, folder: Path) -> list[tuple[str, str]]:
    provenance = run_directory.read_provenance(folder)
    return [
        ("step", count(run.step)),
        ("text tower", run.text_tower.name),
        ("caption templates", " · ".join(provenance.templates)),
        ("images trained on", count(provenance.rows)),
        ("scale", f"{np.exp(run.log_scale):.3f}"),
        ("bias", "none" if run.bias is None else f"{run.bias:.3f}"),
        ("space_id", run.space_id),
        ("content_id", run.content_id),
        ("tokenizer", provenance.tokenizer),
    ]
