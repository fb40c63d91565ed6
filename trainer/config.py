"""Everything that can be said about a training run; the flags of `lit-train` are made from these fields."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import tyro

from trainer.data.captions import Draw
from trainer.data.sampler import WINDOW
from trainer.devices.processes import ProcessConfig
from trainer.losses import Kind
from trainer.losses.duplicates import Duplicates
from trainer.optim.modules import check_train
from trainer.optim.optimizer import OptimizerConfig
from trainer.text_towers import TextTowerConfig


@dataclass(frozen=True)
class DataConfig:
    """Which pairs are trained on, and how a caption becomes tokens."""

    store: tuple[str, ...]
    """Folder made by lit-embed; of several, each gives its share of every batch, and all must be of one space."""
    tower_id: str | None = None
    """Which of the store's image towers; may be left out where there is one."""
    store_weights: tuple[float, ...] = ()
    """Share of each store in a batch, as 3 1; default: as many as it has images."""
    caption_templates: str | None = None
    """File of templates, one {} a line; each caption is set into one of them, drawn by seed, step and row."""
    caption_kinds: tuple[str, ...] = ()
    """Kinds of caption to train on, as title description tags; default: all."""
    caption_langs: tuple[str, ...] = ()
    """Languages of captions to train on, as en de none (none: of unknown language); default: all."""
    caption_draw: Draw = "caption"
    """Of several captions an image shows any (caption), one of a kind drawn for it (kind-per-example) or for the
    whole batch (kind-per-batch), or one of each kind at once (joint)."""
    max_text_length: int = 16
    """Tokens a caption is cut or padded to; LiT's published runs have 16."""
    holdout_fraction: float = 0.0
    """Share of the data kept out of training, decided by a hash: it stays when data is added."""
    holdout_by: Literal["caption", "image"] = "caption"
    """What is hashed: the first caption's wording (equal captions stay together) or the image's bytes."""
    val_store: tuple[str, ...] = ()
    """Stores to validate on (--eval-every): of the same space; their images are not trained on."""
    spool_dir: str | None = None
    """Where memory-mapped copies are kept for all runs; default $XDG_CACHE_HOME or ~/.cache, lit-precompute."""
    spool_workers: int | None = None
    """Processes that read a store into the spool; None: one a core."""
    shuffle_window: int = WINDOW
    """Images that are shuffled as one; of more, blocks of 64 are shuffled first, so that what does not fit into
    memory is read in runs."""
    storage_options: str | None = None
    """JSON file of fsspec options by protocol, for a store that is not a local folder."""

    def __post_init__(self) -> None:
        if self.store is not tyro.MISSING:  # as in a preset, until the user names one
            _need("store", len(self.store) > 0, "at least one", "none")
            _need(
                "store_weights",
                len(self.store_weights) in (0, len(self.store)),
                f"one for each of the {len(self.store)} stores",
                len(self.store_weights),
            )
        _need("store_weights", all(one > 0 for one in self.store_weights), "above 0", self.store_weights)
        _need(
            "caption_kinds",
            self.caption_draw == "caption" or len(self.caption_kinds) > 0,
            f"given with --caption-draw {self.caption_draw}",
            "none",
        )
        _need("spool_workers", self.spool_workers is None or self.spool_workers >= 1, "at least 1", "less")
        _need("shuffle_window", self.shuffle_window >= 1024, "at least 1024", self.shuffle_window)
        _need("max_text_length", self.max_text_length >= 2, "at least 2", self.max_text_length)
        _need("holdout_fraction", 0 <= self.holdout_fraction < 1, "in [0, 1)", self.holdout_fraction)


@dataclass(frozen=True)
class LossConfig:
    """How a batch is judged."""

    loss: Kind = "softmax"
    """softmax: each image picks its caption among the batch's and each caption its image; sigmoid: each
    combination is judged alone."""
    logit_scale_init: float = 10.0
    """The learned scale's first value; kept as its logarithm."""
    logit_bias_init: float = -10.0
    """The learned bias's first value; sigmoid only."""
    duplicates: Duplicates = "mask"
    """Other pairs of the batch with the same image or the same caption: left out (mask), right answers too
    (positive), or wrong answers as in the papers (ignore)."""

    def __post_init__(self) -> None:
        _need("logit_scale_init", self.logit_scale_init > 0, "above 0", self.logit_scale_init)


@dataclass(frozen=True)
class TrainConfig:
    """A whole run; pairs seen are batch_size x steps (32,768 x 3,000 is about 98 million)."""

    data: DataConfig
    output: str
    """Folder of the run: checkpoints, metrics, configuration, tokenizer."""
    text: TextTowerConfig = field(default_factory=TextTowerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    processes: ProcessConfig = field(default_factory=ProcessConfig)
    init: str | None = None
    """Run of lit-train whose text tower this one starts from, as when only the images' tower has changed: flags of the
    text tower are then the run's, its newest checkpoint (averaged, where it keeps an average) gives the weights."""
    train: str = "all"
    """What of the text tower moves: all; head: the head alone on a pretrained backbone, through which captions then
    go once for the whole run; or last-K: the last K blocks, what stands behind them, and the head."""
    batch_size: int = 256
    """Pairs in a step; each is contrasted with all the others; 0: all there are."""
    steps: int = 1000
    """Updates to make."""
    microbatch_size: int | None = None
    """Captions a device embeds at a time where a whole batch does not fit its memory; the update stays that of
    the whole batch, for a third more work. None: all."""
    rematerialise: bool = False
    """Keep only what enters each block of the text tower and compute the rest again for the gradient, which stays
    the same: less memory for up to a third more work."""
    devices: int | None = None
    """How many of this process's accelerators share a batch; None: all."""
    shard_parameters: bool = False
    """Cut large parameters and the optimizer's state over the devices rather than keep them whole on each."""
    plan: bool = False
    """Say what memory and work a step needs, and stop before the first; writes nothing but the spool."""
    seed: int = 0
    """Of the new parameters, the order of the data, the choice of captions and templates, and dropout."""
    log_every: int = 10
    """Steps between log lines, at which recall inside the batch is measured."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = 3
    """How many of the last checkpoints stay."""
    tensorboard: bool = True
    """Write TensorBoard events beside metrics.jsonl."""
    eval_every: int = 0
    """Steps between evaluations while training, the last step being one; the best checkpoint is kept. 0: none."""
    eval_suite: str | None = None
    """What is evaluated: a YAML file as for lit-eval all; unless given, retrieval on what is held out."""
    eval_best: str | None = None
    """The figure that makes a checkpoint the best, such as heldout/t2i_r1; unless given, the mean over the
    evaluations of recall@1 (both ways) and top1."""
    wandb: str | None = None
    """Project on Weights & Biases to send the metrics to besides, where wandb is installed."""

    def __post_init__(self) -> None:
        _need("batch_size", self.batch_size >= 0, "at least 1, or 0 for all images", self.batch_size)
        for name in ("steps", "log_every", "checkpoint_every", "keep_checkpoints"):
            _need(name, getattr(self, name) >= 1, "at least 1", getattr(self, name))
        for name in ("microbatch_size", "devices"):
            value = getattr(self, name)
            _need(name, value is None or value >= 1, "at least 1", value)
        _need("eval_every", self.eval_every >= 0, "at least 1, or 0 for none", self.eval_every)
        check_train(self.train)
        _need("init", self.init is None or self.init != self.output, "another run than --output", self.init)
        if self.init is None:
            self.text.check_untrained()
            _need(
                "train",
                not self.head_alone or self.text.text_checkpoint is not None,
                "all without a pretrained backbone (--text-checkpoint or --init), whose random one would never learn",
                self.train,
            )
        _need("seed", 0 <= self.seed < 2**32, "in [0, 2**32)", self.seed)

    @property
    def head_alone(self) -> bool:
        """Whether the backbone stands still, so that what it says of a caption is computed once."""
        return self.train == "head"

    def resolved(self, rows: int) -> "TrainConfig":
        """This configuration with what depends on others or on the data put in.

        Args:
            rows: images there are to train on.
        """
        rate = self.optimizer.learning_rate
        if rate is None:  # a head alone on features that stand still bears three times the rate of a tower
            rate = 3e-3 if self.head_alone else self.optimizer.peak_rate
        return dataclasses.replace(
            self,
            batch_size=self.batch_size or rows,
            optimizer=dataclasses.replace(self.optimizer, learning_rate=rate),
        )

    def to_json(self) -> str:
        """The configuration as JSON text, nested as here."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "TrainConfig":
        """The inverse of `to_json`."""
        value = json.loads(text)
        parts = {
            "data": DataConfig,
            "text": TextTowerConfig,
            "loss": LossConfig,
            "optimizer": OptimizerConfig,
            "processes": ProcessConfig,
        }
        whole = {name: _build(parts[name], part) if name in parts else part for name, part in value.items()}
        return _build(cls, whole)


# What a resumed run may say otherwise: where things lie, what is written down and how the work is cut up, never what
# is computed but for rounding. The content of these places is compared by its digest (`run_directory.Provenance`).
FREE_ON_RESUME = frozenset(
    {
        "output",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "tensorboard",
        "eval_every",
        "eval_suite",
        "eval_best",
        "wandb",
        "microbatch_size",
        "rematerialise",
        "devices",
        "shard_parameters",
        "processes.coordinator",
        "processes.num_processes",
        "processes.process_id",
        "plan",
        "init",
        "data.store",
        "data.tower_id",
        "data.caption_templates",
        "data.spool_dir",
        "data.storage_options",
        "data.val_store",
        "data.spool_workers",
        "text.text_checkpoint",
        "text.text_tokenizer",
    }
)


def differences(ours: TrainConfig, theirs: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Fields that decide what a run computes and differ: `{"optimizer.learning_rate": (ours, theirs)}`."""
    left, right = _flat(dataclasses.asdict(ours)), _flat(dataclasses.asdict(theirs))
    return {
        name: (left[name], right[name])
        for name in left
        if name not in FREE_ON_RESUME and left[name] != right[name]
    }


def _need(name: str, holds: bool, what: str, found: Any) -> None:
    if not holds:
        raise ValueError(f"{name}: must be {what}, found {found}.")


def _build(kind: type, value: Mapping[str, Any]) -> Any:
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(set(value) - known):
        raise ValueError(
            f"config.json: must be written by this version of lit-train, found {', '.join(unknown)}, which it does not"
            " know. Read the run with the version that made it."
        )
    return kind(**{name: tuple(one) if isinstance(one, list) else one for name, one in value.items()})


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, one in value.items():
        flat |= _flat(one, f"{prefix}{name}.") if isinstance(one, Mapping) else {prefix + name: one}
    return flat
