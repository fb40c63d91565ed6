"""What a configuration leaves open is settled before anything is trained, and written down."""

import dataclasses
import json

import pytest

from trainer.config import DataConfig, TrainConfig
from trainer.optim.optimizer import OptimizerConfig
from trainer.text_towers import TextTowerConfig

OPEN = TrainConfig(DataConfig(("store",)), "run", batch_size=0)
MINILM = TextTowerConfig(text_tower="minilm", text_checkpoint="minilm")
HEAD = dataclasses.replace(OPEN, text=MINILM, train="head")


def test_a_head_alone_learns_three_times_as_fast() -> None:
    assert OPEN.resolved(7).optimizer.learning_rate == 1e-3
    assert HEAD.resolved(7).optimizer.learning_rate == 3e-3
    chosen = dataclasses.replace(HEAD, optimizer=OptimizerConfig(learning_rate=0.5))
    assert chosen.resolved(7).optimizer.learning_rate == 0.5


def test_a_batch_of_zero_is_all_there_is() -> None:
    assert OPEN.resolved(789).batch_size == 789
    assert dataclasses.replace(OPEN, batch_size=5).resolved(789).batch_size == 5
    with pytest.raises(ValueError, match="batch_size: must be at least 1, or 0 for all images, found -1"):
        dataclasses.replace(OPEN, batch_size=-1)


def test_settled_is_settled() -> None:
    once = OPEN.resolved(7)
    assert once.resolved(9) == once == TrainConfig.from_json(once.to_json())


def test_a_configuration_of_another_version_is_refused_by_name() -> None:
    other = json.loads(OPEN.to_json())
    other["text"]["text_colour"] = other["colour"] = "red"
    with pytest.raises(ValueError, match="found text_colour, which it does not know"):
        TrainConfig.from_json(json.dumps(other))
    del other["text"]["text_colour"]
    with pytest.raises(ValueError, match="found colour, which"):
        TrainConfig.from_json(json.dumps(other))
