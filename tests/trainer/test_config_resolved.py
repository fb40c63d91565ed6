"""What a configuration leaves open is settled before anything is trained, and written down."""

import dataclasses

import pytest

from trainer.config import DataConfig, TrainConfig
from trainer.optim.optimizer import OptimizerConfig
from trainer.text_towers import TextTowerConfig

OPEN = TrainConfig(DataConfig(("store",)), "run", batch_size=0)
FROZEN = TextTowerConfig(text_tower="minilm", text_checkpoint="minilm", freeze_backbone=True)


def test_a_head_alone_learns_three_times_as_fast() -> None:
    assert OPEN.resolved(7).optimizer.learning_rate == 1e-3
    assert dataclasses.replace(OPEN, text=FROZEN).resolved(7).optimizer.learning_rate == 3e-3
    chosen = dataclasses.replace(OPEN, text=FROZEN, optimizer=OptimizerConfig(learning_rate=0.5))
    assert chosen.resolved(7).optimizer.learning_rate == 0.5


def test_a_batch_of_zero_is_all_there_is() -> None:
    assert OPEN.resolved(789).batch_size == 789
    assert dataclasses.replace(OPEN, batch_size=5).resolved(789).batch_size == 5
    with pytest.raises(ValueError, match="batch_size: must be at least 1, or 0 for all images, found -1"):
        dataclasses.replace(OPEN, batch_size=-1)


def test_settled_is_settled() -> None:
    once = OPEN.resolved(7)
    assert once.resolved(9) == once == TrainConfig.from_json(once.to_json())
