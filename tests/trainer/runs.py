"""Tiny training runs, for tests: what they are trained on, how they are stopped, what they leave behind."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from trainer import train
from trainer.checkpoint import read_params

WORDS = ("red", "green", "blue", "large", "small", "round", "flat", "old")
TINY = [
    *("--text-width", "16", "--text-depth", "1", "--text-heads", "2", "--text-mlp", "16"),
    *("--vocab-size", "64", "--max-text-length", "6"),
]


def word_rows(row: Callable[..., Any]) -> list[Any]:
    """24 images of eight dimensions, one for each of 24 pairs of words, which are its caption and its id."""
    return [
        row(
            f"{first}-{second}",
            [(np.eye(8)[i] + 0.5 * np.eye(8)[(i + j) % 8]).tolist()],
            (f"{first} {second}",),
        )
        for i, first in enumerate(WORDS)
        for j, second in ((j, WORDS[(i + j) % 8]) for j in range(1, 4))
    ]


def places(folder: Path, store: str, output: str) -> list[str]:
    """The flags that say where a run's files lie, all of them in one folder."""
    return [
        *("--store", store, "--output", str(folder / output)),
        *("--spool-dir", str(folder / "spool"), "--no-tensorboard"),
    ]


def stop_after(step: int, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `lit-train`, and send this process SIGTERM while the step after `step` is being made ready."""
    gather = train.gather

    def gather_and_signal(spools: Any, mixture: Any, number: int, *more: Any) -> Any:
        if number == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return gather(spools, mixture, number, *more)

    with monkeypatch.context() as patched:
        # Without reading ahead, so that the signal comes before the step it is meant for.
        patched.setattr(train, "ahead", lambda make, steps: (make(number) for number in steps))
        patched.setattr(train, "gather", gather_and_signal)
        assert train.main(command) == 0


def lines(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """What a run wrote into one of its logs."""
    return [json.loads(line) for line in (run / name).read_text(encoding="utf-8").splitlines()]


def losses(run: Path) -> list[float]:
    """The loss of each step that was logged."""
    return [line["loss"] for line in lines(run)]


def leaves(run: Path) -> list[np.ndarray]:
    """The parameters of a run's last checkpoint."""
    return jax.tree.leaves(read_params(run / "checkpoints")[1])
