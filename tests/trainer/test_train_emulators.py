"""Store and run on emulated object stores: stopped, the machine lost with all it had, gone on with on another."""

import json
import shutil
from pathlib import Path

import fsspec
import jax
import numpy as np
import pytest

from tests.conftest import BUCKET
from tests.trainer.runs import TINY, lines, places, stop_after, word_rows
from trainer import train
from trainer.remote_run import working_folder
from trainer.run_directory import load_run

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture
def flags(tmp_path):
    usual = (
        "--batch-size 6 --steps 6 --checkpoint-every 3 --average-decay 0.5 --log-every 1 --text-dropout 0.2"
    )

    def make(store: str, output: str, *more: str) -> list[str]:
        return [*places(tmp_path, store, "local"), *TINY, *usual.split(), "--output", output, *more]

    return make


@pytest.mark.parametrize("protocol", ["gs", "s3"])
def test_a_run_is_that_of_a_local_store_and_folder(
    protocol, flags, write_store, row, tmp_path, monkeypatch, capsys, request
) -> None:
    options = {protocol: request.getfixturevalue(protocol)}
    (tmp_path / "options.json").write_text(json.dumps(options))
    base = f"{protocol}://{BUCKET}/{tmp_path.name}"
    fs = fsspec.filesystem(protocol, **options[protocol])
    store, local = write_store([word_rows(row)]), tmp_path / "local"
    for file in Path(store).rglob("*"):
        if file.is_file():
            fs.put_file(str(file), f"{base}/store/{file.relative_to(store).as_posix()}")
    assert train.main(flags(store, str(local))) == 0
    shutil.rmtree(tmp_path / "spool")

    there = ("--storage-options", str(tmp_path / "options.json"))
    command = flags(f"{base}/store", f"{base}/run", *there)
    stop_after(4, command, monkeypatch)
    assert "stopped by SIGTERM after step 4, saved" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "spool")
    assert train.main(command) == 0
    assert "going on after step 4" in capsys.readouterr().out
    copy = working_folder(f"{base}/run", tmp_path / "spool")
    for weights in ("last", "average"):
        ours, theirs = load_run(copy, weights=weights), load_run(local, weights=weights)
        assert ours.step == theirs.step == 6
        jax.tree.map(np.testing.assert_array_equal, ours.text_tower.params, theirs.text_tower.params)
    assert [line["step"] for line in lines(copy)] == list(range(1, 7))

    found = {name.partition(f"{tmp_path.name}/run/")[2] for name in fs.find(f"{base}/run")}
    assert {"summary.json", *(f"checkpoints/{step}/complete.json" for step in (3, 4, 6))} <= found
    shutil.rmtree(tmp_path / "spool")
    assert train.main(command) == 0
    assert f"{copy} is complete" in capsys.readouterr().out
