"""A saved state comes back bit for bit, and a damaged one never comes back at all."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trainer.checkpoint import Checkpoints, OtherState, read_params
from trainer.step import TrainState


def state_at(step: int) -> tuple[TrainState, optax.GradientTransformation]:
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    keys = jax.random.split(jax.random.key(step), 2)
    params = {
        "head": {"kernel": jax.random.normal(keys[0], (64, 48)), "bias": jax.random.normal(keys[1], (48,))},
        "log_scale": jnp.float32(0.1 * step),
    }
    return TrainState(params, optimizer.init(params), jnp.int32(step)), optimizer


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.fixture
def saved(tmp_path):
    """Steps 1 to 5 of a run that keeps three."""
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, keep=3)
    for step in range(1, 6):
        checkpoints.save(state_at(step)[0])
    checkpoints.close()
    return folder


def test_the_newest_comes_back_and_three_are_kept(saved):
    checkpoints = Checkpoints(saved)
    assert checkpoints.steps() == [3, 4, 5]
    assert_equal(checkpoints.restore(state_at(0)[0]), state_at(5)[0])
    checkpoints.close()


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.restore(state_at(0)[0]) is None
    checkpoints.close()


def test_a_step_that_is_there_is_not_written_again(saved):
    checkpoints = Checkpoints(saved)
    other = state_at(5)[0].replace(params=state_at(9)[0].params)
    checkpoints.save(other)
    assert_equal(checkpoints.restore(other), state_at(5)[0])
    checkpoints.close()


def test_a_state_may_be_donated_while_it_is_being_written(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    state, _ = state_at(1)
    expected = jax.tree.map(np.array, state)
    add = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    checkpoints.save(state)
    for _ in range(5):
        state = add(state)
    assert_equal(checkpoints.restore(state_at(0)[0]), expected)
    checkpoints.close()


def _cut(folder):
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:20])


def _flip_one_byte_of_the_largest_file(folder):
    largest = max(
        (file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size
    )
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 0xFF
    largest.write_bytes(bytes(data))


def _lose_the_optimizer(folder):
    for file in (folder / "opt_state").rglob("*"):
        if file.is_file():
            file.unlink()


@pytest.mark.parametrize("damage", [_cut, _flip_one_byte_of_the_largest_file, _lose_the_optimizer])
def test_a_damaged_one_is_set_aside_and_the_one_before_comes_back(saved, damage, capsys):
    damage(saved / "5")
    checkpoints = Checkpoints(saved)
    assert_equal(checkpoints.restore(state_at(0)[0]), state_at(4)[0])
    assert "checkpoint 5 is damaged" in capsys.readouterr().out
    assert (saved.with_name("checkpoints-damaged") / "5").is_dir()
    checkpoints.save(state_at(5)[0])  # the step can be written anew
    checkpoints.close()
    assert read_params(saved)[0] == 5


def test_when_none_is_whole_it_says_so(saved):
    for step in ("3", "4", "5"):
        _cut(saved / step)
    checkpoints = Checkpoints(saved)
    with pytest.raises(ValueError, match="found 3 damaged"):
        checkpoints.restore(state_at(0)[0])
    assert checkpoints.steps() == [3, 4, 5]
    checkpoints.close()


def test_a_checkpoint_of_another_shape_is_not_taken(saved):
    like, _ = state_at(0)
    like = like.replace(params={**like.params, "head": {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}})
    checkpoints = Checkpoints(saved)
    with pytest.raises(OtherState, match=r"\[48\] instead of \[2\]"):
        checkpoints.restore(like)
    assert checkpoints.steps() == [3, 4, 5]
    checkpoints.close()


def test_parameters_are_read_without_knowing_their_structure(saved):
    step, params = read_params(saved)
    assert step == 5
    assert_equal(params, jax.tree.map(np.asarray, state_at(5)[0].params))
    assert read_params(saved, 3)[0] == 3
    with pytest.raises(ValueError, match="found steps: 3, 4, 5"):
        read_params(saved, 2)


def test_reading_parameters_skips_a_damaged_last_one(saved, capsys):
    _cut(saved / "5")
    assert read_params(saved)[0] == 4
    assert "damaged" in capsys.readouterr().out
    with pytest.raises(ValueError, match="damaged"):
        read_params(saved, 5)


def test_reading_parameters_says_nothing_of_the_optimizer(saved, caplog):
    step, params = read_params(saved)
    assert step == 5
    np.testing.assert_array_equal(params["head"]["kernel"], state_at(5)[0].params["head"]["kernel"])
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []
