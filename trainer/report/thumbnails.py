"""Small pictures of stored images, asked of `lit-store`: the trainer itself opens no image."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

Thumbnails = Mapping[str, bytes]  # JPEG by id

COMMAND = "pipelines.store.command"
PATIENCE = 600.0  # seconds


def ask_for_thumbnails(
    store: str, wanted: Sequence[tuple[str, str]], tower_id: str, storage_options: str | None, max_bytes: int
) -> tuple[Thumbnails, str]:
    """Pictures of images whose input is still there and still the same, and a word about them.

    Runs `lit-store thumbnails` in a process of its own, where stage 1 is installed: decoding images is its business
    (see docs/decisions/0025).

    Args:
        store: as given to lit-eval.
        wanted: (unit, id) of each image.
        tower_id: of the store.
        storage_options: file of fsspec options.
        max_bytes: of input to read for them.
    """
    if importlib.util.find_spec("pipelines") is None or importlib.util.find_spec("PIL") is None:
        return {}, "no pictures: they need lit-precompute[embed] beside the trainer"
    with tempfile.TemporaryDirectory(prefix="lit-eval-") as folder:
        ids, output = Path(folder) / "ids.jsonl", Path(folder) / "thumbnails.parquet"
        ids.write_text(
            "".join(json.dumps({"unit": unit, "id": id}) + "\n" for unit, id in wanted), encoding="utf-8"
        )
        words = [
            sys.executable,
            "-m",
            COMMAND,
            "thumbnails",
            store,
            "--ids",
            str(ids),
            "--output",
            str(output),
        ]
        words += ["--tower-id", tower_id, "--max-input-bytes", str(max_bytes)]
        words += ["--storage-options", storage_options] if storage_options else []
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            return {}, f"no pictures: reading them took more than {PATIENCE:.0f} s"
        if done.returncode or not output.is_file():
            return {}, f"no pictures: {(done.stderr.strip().splitlines() or ['lit-store failed'])[-1]}"
        table = pq.read_table(output)
        found = dict(zip(table.column("id").to_pylist(), table.column("jpeg").to_pylist(), strict=True))
        return found, done.stdout.strip().splitlines()[-1]
