"""What an evaluation is of: a text tower, the embeddings of a store, and where its figures come from."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from schemas.storage import read_storage_options
from schemas.store import ImagesFolder, open_store
from schemas.weights import bare_name
from trainer.evals import report
from trainer.evals.embed_text import CompiledEmbed, EmbedTexts, compiled_embed, raw_embeddings, text_embedder
from trainer.evals.published_figures import published_figures
from trainer.evals.selection import Selection, Split, only_tower, parse_where, selection_of
from trainer.run_directory import LoadedRun, Weights, load_run, local_run
from trainer.text_towers.published import load_text_side

# Options that name places: reports keep their bare names, as what lies where is nobody else's business.
_PLACES = (
    "run",
    "model",
    "model_tokenizer",
    "store",
    "test_store",
    "classes",
    "class_subset",
    "labels",
    "templates",
)
_DROPPED = ("output", "pairs_output", "storage_options", "batch_size")  # they change no figure


@dataclass(frozen=True, kw_only=True)
class StoreEvaluation:
    """What every evaluation of a store's images needs."""

    store: str
    """Folder made by lit-embed."""
    tower_id: str | None = None
    """Which of the store's image towers; may be left out where there is one."""
    output: str | None = None
    """The JSON report to write; unless given, `evaluations/` in the run's folder, under the evaluation's name."""
    ids: str | None = None
    """Only images whose id fits this shell-style pattern, such as 'val/*'."""
    where: tuple[str, ...] = ()
    """Only images whose metadata has FIELD=VALUE, such as split=test; of several values of a field any will do."""
    storage_options: str | None = None
    """JSON file of fsspec options by protocol, for a store that is not a local folder."""


@dataclass(frozen=True, kw_only=True)
class RunEvaluation(StoreEvaluation):
    """What every evaluation of a text tower needs: a run's, or that of a published dual encoder."""

    run: str | None = None
    """Folder made by lit-train."""
    model: str | None = None
    """Instead of a run: a dual encoder as its authors publish it, LiT's, SigLIP's or CLIPPO's .npz or a CLIP or SigLIP
    folder (any fsspec path or hf://org/model), on a store embedded with its own image tower. Needs --output."""
    model_tokenizer: str | None = None
    """Where the model has no tokenizer with it: as --text-tokenizer of lit-train."""
    model_text_length: int | None = None
    """Tokens of a text; unless given, what the model was made for."""
    model_text_heads: int | None = None
    """Attention heads of a BERT in the reference's layout; unless given, one for every 64 of width."""
    step: int | Literal["best"] | None = None
    """A checkpoint of the run, or the one kept as best while training; the newest unless given."""
    weights: Weights = "average"
    """The running average of the parameters where the run keeps one (--average-decay), or the last ones."""
    split: Split = "all"
    """By the run's own hold-out rule: all images, those on the training side, or those held out."""
    batch_size: int = 256
    """Texts embedded at once."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"--batch-size: must be at least 1, found {self.batch_size}.")
        if (self.run is None) == (self.model is None):
            found = "neither" if self.run is None else "both"
            raise ValueError(f"--run, --model: must be given one of the two, found {found}.")
        if self.model is not None and (self.step is not None or self.split != "all"):
            raise ValueError("--step, --split: belong to a --run, found them with --model. Leave them out.")


class TextSide:
    """A tuned text tower, compiled once for whatever is asked of it.

    Attributes:
        run: the tower with its trained parameters, and where it comes from.
    """

    def __init__(self, run: LoadedRun, embed: CompiledEmbed | None = None) -> None:
        self.run = run
        self._embed = embed or compiled_embed(run.text_tower)

    def at(self, params: dict[str, Any], step: int) -> "TextSide":
        """The same tower with other parameters: nothing is compiled again."""
        tower = dataclasses.replace(self.run.text_tower, params=params)
        return TextSide(dataclasses.replace(self.run, text_tower=tower, step=step), self._embed)

    def embedder(self, batch_size: int) -> EmbedTexts:
        """From n texts to float32 [n, D] unit rows."""
        tower = self.run.text_tower
        return text_embedder(tower, tower.max_text_length, batch_size, self._embed)

    def norms(self, texts: Sequence[str], batch_size: int) -> np.ndarray:
        """float32 [n]: lengths of the texts' embeddings before they are normalised."""
        tower = self.run.text_tower
        raw = raw_embeddings(self._embed, tower, texts, tower.max_text_length, batch_size)
        return np.linalg.norm(raw, axis=1)


@dataclass(frozen=True)
class Subject:
    """An opened store, with the text tower that is evaluated on it and the rule by which images are chosen."""

    images: ImagesFolder
    text: TextSide
    selection: Selection
    published: dict[str, float] = dataclasses.field(default_factory=dict)  # the authors' figures, percent

    def provenance(self, config: RunEvaluation) -> dict[str, Any]:
        """Which vectors, which weights, which options and which libraries the figures come from."""
        run = self.text.run
        of_model = {"model": bare_name(config.model), "published": self.published} if config.model else {}
        return {
            "run": config.run and bare_name(config.run),
            **of_model,
            "checkpoint_step": run.step,
            **provenance(self.images, config),
            "trained_on_content_id": run.content_id,
            "split": self.selection.split,
            "holdout_fraction": self.selection.holdout_fraction,
            "holdout_by": self.selection.holdout_by,
        }

    def notes(self) -> list[str]:
        """What a reader must know before believing the figures."""
        run = self.text.run
        if self.published:
            shown = ", ".join(f"{name} {figure:g} %" for name, figure in self.published.items())
            return [f"Published for this model: {shown}."]
        trained_on = self.images.manifest.content_id in (run.content_id, *run.mixed)
        if not trained_on or self.selection.split == "heldout":
            return []
        return ["This is the store the run was trained on: the figures include images seen in training."]


def open_subject(config: RunEvaluation, text: TextSide | None = None) -> Subject:
    """Opens store and run, and checks that they speak of one space before anything is computed.

    Args:
        config: which ones.
        text: the run's text tower, where it is loaded already.

    Raises:
        ValueError: one of them cannot be read, or they are of different spaces.
    """
    images, known = open_images(config)
    if config.model is not None:
        text, source = _published(config.model, config, images)
        images.check()
        selection = Selection(ids=config.ids, where=parse_where(config.where))
        return Subject(images, text, selection, published_figures(source))
    if text is None:
        text = TextSide(load_run(str(config.run), config.step, config.weights))
    found, needed = images.manifest.space_id, text.run.space_id
    if found != needed:
        raise ValueError(
            f"space_id: the run's text tower must be evaluated in the space it was tuned for, {needed[:12]}…, found "
            f"{found[:12]}… in {images.manifest.tower_id} of {config.store}. Give the --tower-id trained on (known "
            f"here: {', '.join(known)}), embed these images with that tower, or train on this one."
        )
    images.check()
    return Subject(images, text, selection_of(config.split, config.ids, text.run.config, config.where))


def _published(path: str, config: RunEvaluation, images: ImagesFolder) -> tuple[TextSide, str]:
    """The text side of a published dual encoder and its bare name, once the store's vectors are its image side's.

    Raises:
        ValueError: the store was embedded with other weights, or without the model's image head.
    """
    side = load_text_side(
        path,
        tokenizer=config.model_tokenizer,
        max_text_length=config.model_text_length,
        text_heads=config.model_text_heads,
        options=read_storage_options(config.storage_options),
    )
    tower = images.manifest.tower
    if tower.weights != side.sha256:
        raise ValueError(
            f"--model: the store must be embedded with the image tower of the same file, sha256 {side.sha256[:12]}…, "
            f"found {tower.weights[:12]}… of {tower.tower} in {config.store}. Run lit-embed --checkpoint {side.source}."
        )
    if (side.has_image_head and tower.features != "head") or tower.embedding_dim != side.tower.out_dim:
        raise ValueError(
            f"--model: the store must hold what {side.source} compares, {side.tower.out_dim} numbers after its image "
            f"head, found {tower.embedding_dim} ({tower.features}). Embed with --features default."
        )
    manifest = images.manifest
    run = LoadedRun(side.tower, side.log_scale, side.bias, 0, {}, manifest.space_id, "")
    return TextSide(run), side.source


def open_images(config: StoreEvaluation, path: str | None = None) -> tuple[ImagesFolder, list[str]]:
    """The tower's folder of a store, and the names of all its towers.

    Args:
        config: which store and tower.
        path: another store than the configuration's.
    """
    store = open_store(path or config.store, read_storage_options(config.storage_options))
    images = store.images(only_tower(store) if config.tower_id is None else config.tower_id)
    return images, store.tower_ids()


def provenance(images: ImagesFolder, config: StoreEvaluation) -> dict[str, Any]:
    """Which vectors, options and libraries figures come from that need no run."""
    return {
        "tower_id": images.manifest.tower_id,
        "space_id": images.manifest.space_id,
        "content_id": images.manifest.content_id,
        "ids": config.ids,
        "where": list(config.where),
        "options": options(config),
        "versions": report.versions(),
    }


def options(config: StoreEvaluation) -> dict[str, Any]:
    """All that was asked for and decides a figure; of files and folders the bare names."""
    asked = {name: value for name, value in dataclasses.asdict(config).items() if name not in _DROPPED}
    return asked | {name: bare_name(asked[name]) for name in _PLACES if asked.get(name)}


def default_output(config: StoreEvaluation, name: str) -> str:
    """Where a report goes unless it is said. Raises ValueError where there is no run to put it in."""
    run = getattr(config, "run", None)
    if run is None:
        raise ValueError("--output: must be given where no run is evaluated. Name the JSON report to write.")
    return str(local_run(run) / "evaluations" / f"{name}.json")
