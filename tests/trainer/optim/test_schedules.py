"""Schedules: the reference's factors, and what a user may get wrong."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainer.optim.schedules import duration_in_steps, schedule

CASES = [
    "cosine_w100", "cosine_w10pct", "linear_w50", "linear_end0.1_w50_cd100", "poly_p2_w10", "rsqrt_t100_w100_cd100",
    "rsqrt_default", "rsqrt_shift50_w100", "stair", "cosine_bsscale", "cosine_w2epochs",
]  # fmt: skip


@pytest.fixture(scope="module")
def golden(golden_dir):
    return np.load(golden_dir / "schedules" / "schedules.npz")


def steps_of(case: dict, name: str, run: dict) -> int:
    """A golden case's warm-up or cooldown in steps, whatever its unit."""
    units = {"steps": "steps", "examples": "examples", "epochs": "epochs", "percent": "fraction"}
    given = {ours: case[f"{name}_{theirs}"] for theirs, ours in units.items() if f"{name}_{theirs}" in case}
    return duration_in_steps(**given, **run) if given else 0


@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference(golden, name):
    described = json.loads(str(golden["_json"]))
    run = {key: described[key] for key in ("total_steps", "batch_size", "data_size")}
    case = described["cases"][name]
    factor = schedule(
        "poly" if case["decay_type"] == "polynomial" else case["decay_type"],
        1000,
        warmup_steps=steps_of(case, "warmup", run),
        cooldown_steps=steps_of(case, "cooldown", run),
        end=case.get("linear_end", 0.0),
        power=case.get("power", 1),
        timescale=case.get("timescale", 10_000),
        shift=case.get("shift", 0),
        stair_steps=case.get("steps", ()),
        stair_multipliers=case.get("mults", ()),
    )
    scale = run["batch_size"] / 256 if case.get("scale_with_batchsize") else 1.0
    found = scale * np.array([factor(int(k)) for k in golden["steps"]])
    np.testing.assert_allclose(found, golden[name], atol=1e-6 * scale)
    together = scale * jax.jit(factor)(jnp.asarray(golden["steps"]))
    np.testing.assert_allclose(together, golden[name], atol=1e-6 * scale)


def test_warm_up_starts_at_exactly_zero():
    assert float(schedule("cosine", 100, warmup_steps=5)(0)) == 0.0
    assert float(schedule("cosine", 100)(0)) == 1.0


def test_stair_without_steps_is_constant():
    assert [float(schedule("stair", 10)(k)) for k in (0, 5, 10)] == [1.0, 1.0, 1.0]


def test_cooldown_stays_at_zero_after_the_end():
    assert float(schedule("rsqrt", 10, cooldown_steps=4)(11)) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cosign"}, "must be one of cosine"),
        ({"warmup_steps": 10}, "warmup_steps=10, total_steps=10"),
        ({"name": "stair", "stair_steps": (5, 2), "stair_multipliers": (0.1, 0.2)}, "must ascend"),
        ({"name": "stair", "stair_steps": (5,)}, "one multiplier each"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        schedule(**({"name": "cosine", "total_steps": 10} | arguments))


def test_durations_round_to_nearest_and_never_to_nothing():
    assert duration_in_steps(fraction=0.05, total_steps=60) == 3
    assert duration_in_steps(fraction=0.001, total_steps=60) == 1
    assert duration_in_steps(fraction=0.0, total_steps=60) == 0
    assert duration_in_steps(examples=1000, batch_size=300) == 3
    with pytest.raises(ValueError, match="exactly one"):
        duration_in_steps(steps=3, fraction=0.1)
