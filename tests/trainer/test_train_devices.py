"""`lit-train` in microbatches and over simulated devices: the run of one device in one piece."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.runs import TINY, losses, places, word_rows
from trainer import train

pytestmark = [pytest.mark.usefixtures("compiled_once"), pytest.mark.slow]

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def flags(write_store, row, tmp_path):
    """A command line for a tiny tower with dropout; SGD-like enough for rounding to stay rounding."""
    store = write_store([word_rows(row)])
    usual = (
        "--batch-size 12 --steps 6 --learning-rate 1e-3 --log-every 1 --text-dropout 0.3 --checkpoint-every 3"
    )

    def make(output: str, *more: str) -> list[str]:
        return [*places(tmp_path, store, output), *TINY, *usual.split(), *more]

    return make


def on_four_devices(*commands: list[str]) -> None:
    """Runs `lit-train` once for each command line in a process with four devices."""
    script = (
        "import json, sys; from trainer.train import main; sys.exit(max(map(main, json.loads(sys.argv[1]))))"
    )
    four = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)],
        env={**os.environ, "XLA_FLAGS": four, "JAX_PLATFORMS": "cpu"},
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr


def test_microbatches_and_devices_leave_the_run_as_it_is(flags, tmp_path, capsys):
    """Also when it goes on with another number of devices, which is no other run."""
    assert train.main(flags("one")) == 0
    expected = losses(tmp_path / "one")
    on_four_devices(flags("four", "--microbatch-size", "2"))
    np.testing.assert_allclose(losses(tmp_path / "four"), expected, rtol=2e-6)

    shutil.rmtree(tmp_path / "four" / "checkpoints" / "6")
    (tmp_path / "four" / "summary.json").unlink()
    capsys.readouterr()
    assert train.main(flags("four", "--microbatch-size", "5")) == 0
    assert "going on after step 3" in capsys.readouterr().out
    np.testing.assert_allclose(losses(tmp_path / "four"), expected, rtol=2e-6)


def test_the_plan_is_printed_and_nothing_is_begun(flags, tmp_path, capsys):
    assert train.main(flags("planned", "--plan", "--microbatch-size", "4")) == 0
    said = capsys.readouterr().out
    assert "steps: 6 of 12 pairs" in said
    assert "memory on 1 device" in said
    assert "pairs/s" in said
    assert not (tmp_path / "planned").exists()


def test_cut_parameters_train_the_same(flags, tmp_path):
    """A tower wide enough for its arrays to be worth cutting."""
    wide = ("--text-width", "64", "--text-mlp", "256", "--steps", "3", "--learning-rate", "1e-4")
    on_four_devices(flags("whole", *wide), flags("cut", *wide, "--shard-parameters"))
    np.testing.assert_allclose(losses(tmp_path / "cut"), losses(tmp_path / "whole"), rtol=2e-6)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--devices", "2"), "devices: must be at most the 1 of this machine, found 2"),
        (("--devices", "0"), "devices: must be at least 1, found 0"),
        (("--microbatch-size", "0"), "microbatch_size: must be at least 1, found 0"),
    ],
)
def test_what_cannot_be_is_refused(flags, capsys, more, said):
    assert train.main(flags("run", *more)) == 2
    assert said in capsys.readouterr().err
