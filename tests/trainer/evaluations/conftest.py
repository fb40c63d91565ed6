"""A tiny trained run with the store it was trained on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer import train

WORDS = ("red", "green", "blue", "large", "small", "round", "flat", "old")


@pytest.fixture
def trained(
    write_store: Callable[..., str], row: Callable[..., Any], tmp_path: Path, compiled_once: None
) -> Callable[..., tuple[str, Path]]:
    """`trained(*flags) -> (store, run)`: 24 images in two parts, and a run that held a third of the captions out."""
    rows = []
    for i, first in enumerate(WORDS):
        for j in range(1, 4):
            second = WORDS[(i + j) % 8]
            vectors = [(np.eye(8)[i] + 0.5 * np.eye(8)[(i + j) % 8]).tolist()]
            rows.append(row(f"{first}-{second}", vectors, (f"{first} {second}",)))
    store = write_store([rows[:14], rows[14:]])

    def make(*more: str) -> tuple[str, Path]:
        tiny = (
            "--text-width 16 --text-depth 1 --text-heads 2 --text-mlp 16 --vocab-size 64 --max-text-length 4"
        )
        flags = (
            f"{tiny} --batch-size 12 --steps 30 --learning-rate 1e-2 --holdout-fraction 0.3 --no-tensorboard"
        )
        places = ["--store", store, "--output", str(tmp_path / "run"), "--spool-dir", str(tmp_path / "spool")]
        assert train.main([*places, *flags.split(), *more]) == 0
        return store, tmp_path / "run"

    return make
