"""The loss, recall and step over simulated devices: those of one device, and no gathering."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from trainer.devices.mesh import data_mesh
from trainer.losses import contrastive_loss

pytestmark = pytest.mark.slow

REPO = Path(__file__).resolve().parents[3]
B, D = 24, 6
DUPLICATES = ["mask", "positive", "ignore"]


@pytest.fixture(scope="module")
def found() -> dict:
    """What one process with eight devices computed for all tests below."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(REPO / "tests/trainer/losses/eight_devices.py")],
        env={"PYTHONPATH": str(REPO), "JAX_PLATFORMS": "cpu", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("duplicates", DUPLICATES)
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_value_and_gradients_are_those_of_one_device(found, kind, duplicates, devices):
    expected = found["loss"][f"{kind} {duplicates} None"]["arrays"]
    ours = found["loss"][f"{kind} {duplicates} {devices}"]["arrays"]
    np.testing.assert_allclose(ours[0], expected[0], rtol=2e-6)
    for mine, theirs in zip(ours[1:], expected[1:], strict=True):
        assert np.linalg.norm(np.subtract(mine, theirs)) <= 5e-6 * np.linalg.norm(theirs)


def test_only_slices_move_and_nothing_is_gathered(found):
    """From device to device go slices of 24 / n rows; what is summed over devices is single numbers."""
    for case, what in found["loss"].items():
        *_, devices = case.split()
        rows = B // int(devices) if devices != "None" else None
        moved = {f"collective-permute {shape}" for shape in _slices(rows)}
        assert set(what["sent"]) <= moved | {"all-reduce f32[]"}, case
        if devices not in ("1", "None"):
            assert f"collective-permute f32[{rows},{D}]" in what["sent"], case


def _slices(rows):
    return {f"f32[{rows},{D}]", f"f32[{rows}]", f"s32[{rows}]", f"u32[{rows},2]"}


def test_locked_images_cost_no_gradient(found):
    """3 products instead of 4, as on one device."""
    assert found["loss"]["softmax mask 4"]["products"] == 4
    assert found["locked"] == 3


@pytest.mark.parametrize("duplicates", DUPLICATES)
def test_recall_is_that_of_one_device(found, duplicates):
    """With two equal images among the pairs: of equal matches the first counts, wherever it lies."""
    expected, ours = (found["recall"][f"{duplicates} {devices}"] for devices in (None, 4))
    assert 0 < expected["i2t"] < 1
    assert ours == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("case", ["softmax 4 None", "softmax 4 4", "sigmoid 4 4"])
def test_three_steps_are_those_of_one_device(found, case):
    """With dropout, in microbatches (6 rows a device as two of 3) and without."""
    expected, ours = found["steps"][f"{case.split()[0]} None None"], found["steps"][case]
    for name, leaf in expected["params"].items():
        difference = np.linalg.norm(np.subtract(ours["params"][name], leaf))
        assert difference <= 1e-6 * np.linalg.norm(leaf), name
    for mine, theirs in zip(ours["metrics"], expected["metrics"], strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            assert mine[name] == (None if value is None else pytest.approx(value, rel=1e-5)), name
    assert ours["compiled"] == 1  # the state that comes out lies as the one that went in


def test_a_batch_the_devices_cannot_share_is_refused():
    mesh = data_mesh(jax.devices() * 5)
    rows = np.ones((B, D), np.float32)
    with pytest.raises(ValueError, match=r"multiple of the 5 devices.* found 24\. Set --batch-size 25"):
        contrastive_loss(rows, rows, 1.0, kind="softmax", duplicates="ignore", mesh=mesh)
