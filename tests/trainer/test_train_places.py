"""A run whose folder is a URL: stopped, its local copy lost, gone on with to the same end."""

import shutil

import jax
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from trainer import evaluate, export, train
from trainer.remote_run import working_folder
from trainer.run_directory import load_run

pytestmark = [pytest.mark.usefixtures("compiled_once"), pytest.mark.slow]

URL = "memory://train-places/run"


@pytest.fixture
def flags(write_store, row, tmp_path):
    rows = [row(str(i), [np.eye(4)[i % 4].tolist()], (f"{'abcd'[i % 4]} {i}",)) for i in range(12)]
    store = write_store([rows])
    tiny = "--text-width 8 --text-depth 1 --text-heads 1 --text-mlp 8 --vocab-size 64 --max-text-length 4"
    usual = "--batch-size 6 --steps 6 --checkpoint-every 3 --average-decay 0.5 --no-tensorboard --log-every 1"

    def make(output):
        places = f"--store {store} --output {output} --spool-dir {tmp_path / 'spool'}"
        return [*places.split(), *tiny.split(), *usual.split()]

    return make


def test_a_run_on_object_storage(flags, tmp_path, monkeypatch, capsys):
    assert train.main(flags(tmp_path / "local")) == 0
    assert train.main(flags(URL)) == 0
    fs = MemoryFileSystem()
    assert fs.exists("/train-places/run/summary.json")
    assert fs.exists("/train-places/run/checkpoints/6/complete.json")

    # The machine is lost after step 3, and another takes over.
    copy = working_folder(URL, tmp_path / "spool")
    shutil.rmtree(copy)
    fs.rm("/train-places/run/summary.json")
    fs.rm("/train-places/run/checkpoints/6/complete.json")
    capsys.readouterr()
    assert train.main(flags(URL)) == 0
    assert "going on after step 3" in capsys.readouterr().out

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "reader"))
    for weights in ("last", "average"):
        ours, theirs = load_run(URL, weights=weights), load_run(tmp_path / "local", weights=weights)
        assert ours.step == theirs.step == 6
        for mine, other in zip(
            jax.tree.leaves(ours.text_tower.params), jax.tree.leaves(theirs.text_tower.params), strict=True
        ):
            np.testing.assert_array_equal(mine, other)
    # What is told of the run goes where the run is.
    store = flags("")[1]
    for words in (
        ["retrieval", "--run", URL, "--store", store],
        ["pairs", "--run", URL, "--store", store],
        ["report", URL],
    ):
        assert evaluate.main(words) == 0
        assert f"written to {URL}/" in capsys.readouterr().out
    kept = {name.removeprefix("/train-places/run/") for name in fs.find("/train-places/run")}
    assert {
        "report.html",
        *(f"evaluations/{one}" for one in ("retrieval.json", "pairs.json", "pairs.parquet")),
    } <= kept
    assert evaluate.main(["table", URL]) == 0
    assert "| retrieval | i2t r1 |" in capsys.readouterr().out
    assert evaluate.main(["retrieval", "--run", URL, "--store", store, "--output", f"{URL}/r.json"]) == 2
    assert "--output: must be a local file" in capsys.readouterr().err

    out = "memory://train-places/export"
    assert export.main([URL, "--output", out, "--no-latency"]) == 0
    assert "README.md, config.json, text_tower.safetensors" in capsys.readouterr().out
    assert fs.exists("/train-places/export/tokenizer/tokenizer.json")
    assert export.main([URL, "--output", out, "--no-latency"]) == 2
    assert f"must be a new or empty folder, found {out} in use" in capsys.readouterr().err
    last, average = (load_run(tmp_path / "local", weights=weights) for weights in ("last", "average"))
    assert not np.array_equal(
        last.text_tower.params["head"]["kernel"], average.text_tower.params["head"]["kernel"]
    )
    fs.rm("/train-places", recursive=True)
