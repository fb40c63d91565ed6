"""The three steps both demos take: embed once, tune a text tower, measure it on what it never saw."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.commands import run_command
from pipelines.embed import main as lit_embed
from schemas.store import open_store
from trainer.evals.selection import Selection, stored_embeddings
from trainer.evaluate import main as lit_eval
from trainer.train import main as lit_train

HOLDOUT = 0.2
HOLDOUT_BY = "caption"
BATCH_SIZE = 512  # or all training images, where there are fewer

SPLITS = {"seen": "train", "unseen": "heldout"}


@dataclass(frozen=True)
class Places:
    """Where a demo keeps what it makes.

    Attributes:
        output: the demo's folder.
        run_name: of the run and its reports, so that other settings get their own.
    """

    output: Path
    run_name: str

    @property
    def store(self) -> str:
        return str(self.output / "store")

    @property
    def run(self) -> str:
        return str(self.output / f"run-{self.run_name}")

    @property
    def weights(self) -> Path:
        return self.output / "weights"

    @property
    def page(self) -> Path:
        return self.output / "index.html"

    def report(self, name: str) -> Path:
        return self.output / f"{name}-{self.run_name}.json"


@dataclass
class Journey:
    """One walk through the commands.

    Attributes:
        places: where things go.
        said: the command lines so far, as one would type them.
    """

    places: Places
    said: list[str] = field(default_factory=list)

    def embed(self, source: list[str], checkpoint: Path, resize: str) -> None:
        """Embeds the images; `source` is --input, --format and what belongs to them."""
        tower = ["--tower", "efficientnet-lite0", "--checkpoint", str(checkpoint), "--resize", resize]
        self.said.append(
            run_command("lit-embed", lit_embed, [*source, *tower, "--output", self.places.store])
        )

    def train(self, text: list[str], steps: int, learning_rate: str, max_text_length: int) -> None:
        """Tunes the text tower; `text` says which and from what."""
        data = [
            *("--store", self.places.store, "--holdout-fraction", str(HOLDOUT), "--holdout-by", HOLDOUT_BY),
            *("--max-text-length", str(max_text_length), "--spool-dir", str(self.places.output / "spool")),
        ]
        batch = min(BATCH_SIZE, count_split(self.places.store, "train"))
        work = [
            *("--loss", "softmax", "--batch-size", str(batch), "--steps", str(steps)),
            *(
                "--learning-rate",
                learning_rate,
                "--seed",
                "0",
                "--no-tensorboard",
                "--output",
                self.places.run,
            ),
        ]
        self.said.append(run_command("lit-train", lit_train, [*data, *text, *work]))

    def retrieval(self) -> dict[str, dict[str, Any]]:
        """Reports of retrieval by split: seen (trained on) and unseen (held out)."""
        return {name: self._evaluate("retrieval", name, ["--split", split]) for name, split in SPLITS.items()}

    def zero_shot(self, classes: Path) -> dict[str, Any]:
        """The report of zero-shot classification of the unseen images that have a label."""
        return self._evaluate("zero-shot", "unseen", ["--split", "heldout", "--classes", str(classes)])

    def metrics(self) -> list[dict[str, Any]]:
        """What lit-train logged, a record a line."""
        lines = (Path(self.places.run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def _evaluate(self, kind: str, split: str, flags: list[str]) -> dict[str, Any]:
        report = self.places.report(f"{kind}-{split}")
        flags = ["--run", self.places.run, "--store", self.places.store, *flags, "--output", str(report)]
        self.said.append(run_command("lit-eval", lit_eval, [kind, *flags]))
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return found


def count_split(store: str, split: str) -> int:
    """How many images with a caption the hold-out rule puts on one side ("train" or "heldout")."""
    opened = open_store(store)
    selection = Selection("train" if split == "train" else "heldout", HOLDOUT, HOLDOUT_BY)
    images = opened.images(opened.tower_ids()[0])
    return sum(len(part.ids) for part in stored_embeddings(images, selection))
