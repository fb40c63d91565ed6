"""`lit-embed-text`: the vectors of the tuned tower, every text counted, and going on after a stop."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.text.command import main
from schemas.embeddings import vectors
from trainer.run_directory import load_run
from trainer.train import main as train


@pytest.fixture(scope="module")
def run(colour_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    tiny = "--text-width 16 --text-depth 1 --text-heads 2 --vocab-size 200 --batch-size 6 --steps 2 --seed 0"
    places = ["--store", str(colour_store), "--output", f"{folder}/run", "--spool-dir", f"{folder}/spool"]
    assert train([*places, *tiny.split(), "--max-text-length", "8", "--no-tensorboard"]) == 0
    return f"{folder}/run"


def slow_vectors(run: str, texts: list[str]) -> np.ndarray:
    tower = load_run(run).text_tower
    tokens = tower.tokenizer(texts, tower.max_text_length)
    return np.asarray(jax.jit(tower.embed)(tower.params, tokens))


def read(output: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(output.glob("texts-*.parquet"))])


def write(path: Path, rows: list[dict[str, Any]], **options: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, **options)


def test_captions_of_a_store(run: str, colour_store: Path, tmp_path: Path) -> None:
    output = tmp_path / "texts"
    command = [
        "--run",
        run,
        "--input",
        f"{colour_store}/pairs",
        "--output",
        str(output),
        "--dtype",
        "float32",
    ]
    assert main([*command, "--batch-size", "5"]) == 0
    found = read(output)
    pairs = pa.concat_tables(
        [pq.read_table(path) for path in sorted(colour_store.glob("pairs/pairs-*.parquet"))]
    )
    wanted = {
        (row["id"], place): caption["text"]
        for row in pairs.to_pylist()
        for place, caption in enumerate(row["captions"])
    }
    assert {(row["id"], row["place"]): row["text"] for row in found.to_pylist()} == wanted
    expected = slow_vectors(run, found.column("text").to_pylist())
    np.testing.assert_allclose(vectors(found.column("embedding")), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.column("norm").to_numpy(), np.linalg.norm(expected, axis=1), rtol=1e-5)
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["counts"] == {"texts": len(wanted), "embedded": len(wanted), "blank": 0}
    assert manifest["space_id"] == load_run(run).space_id
    assert sorted(path.name for path in output.iterdir() if not path.name.startswith("texts-")) == [
        "manifest.json",
        "parts.parquet",
    ]


def test_blank_texts_are_counted_and_others_kept(run: str, tmp_path: Path) -> None:
    titles = ["red", None, "  ", "blue sky", "<b>red</b>"]
    write(tmp_path / "in" / "a.parquet", [{"sku": f"{n}", "title": text} for n, text in enumerate(titles)])
    columns = ["--text-column", "title", "--id-column", "sku", "--dtype", "float32"]
    assert main(["--run", run, "--input", f"{tmp_path}/in", "--output", f"{tmp_path}/out", *columns]) == 0
    assert read(tmp_path / "out").column("id").to_pylist() == ["0", "3", "4"]
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert counts == {"texts": 5, "embedded": 3, "blank": 2}


def test_a_broken_file_is_named_and_costs_nothing_else(run: str, tmp_path: Path, capsys: Any) -> None:
    rows = [{"id": f"{n}", "captions": [f"red {n}", "two"]} for n in range(40)]
    for name in ("a", "b"):
        write(tmp_path / "in" / f"{name}.parquet", rows)
    path, written = tmp_path / "in" / "b.parquet", (tmp_path / "in" / "b.parquet").stat()
    whole = path.read_bytes()
    start = whole.index(b"PAR1") + 4  # the pages' first bytes; the footer stays as it was
    path.write_bytes(whole[:start] + bytes(60) + whole[start + 60 :])
    os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))
    command = ["--run", run, "--input", f"{tmp_path}/in", "--output", f"{tmp_path}/out"]
    assert main(command) == 3
    assert "b.parquet row groups 0 to 0" in capsys.readouterr().err
    assert not (tmp_path / "out" / "manifest.json").exists()
    part = tmp_path / "out" / "texts-00000.parquet"
    made = part.stat().st_mtime_ns
    path.write_bytes(whole)
    os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))
    assert main(command) == 0
    assert len(read(tmp_path / "out")) == 160
    assert part.stat().st_mtime_ns == made
    path.write_bytes(whole)  # of another time: no longer the file that was planned
    assert main(command) == 2
    assert "another job" in capsys.readouterr().err


def test_a_lost_part_is_made_again_and_standing_ones_are_not(
    run: str, tmp_path: Path, monkeypatch: Any
) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / "in" / f"{name}.parquet", [{"id": name, "captions": [f"{name} red"]}])
    command = ["--run", run, "--input", f"{tmp_path}/in", "--output", f"{tmp_path}/out"]
    from pipelines.text import command as module

    monkeypatch.setattr(module, "_write_manifest", lambda *_: (_ for _ in ()).throw(OSError("killed here")))
    assert main(command) == 2
    monkeypatch.undo()
    out = tmp_path / "out"
    (out / "texts-00001.parquet").write_bytes(b"cut")
    before = {
        name: (out / name).stat().st_mtime_ns for name in ("texts-00000.parquet", "texts-00002.parquet")
    }
    assert main(command) == 0
    assert read(out).column("id").to_pylist() == ["a", "b", "c"]
    assert before == {name: (out / name).stat().st_mtime_ns for name in before}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text-column", "titel"], "must be a column of a.parquet"),
        (["--text-column", "number"], "must hold strings"),
        (["--batch-size", "0"], "--batch-size: must be at least 1"),
    ],
)
def test_what_can_not_be_is_refused(
    run: str, tmp_path: Path, flags: list[str], message: str, capsys: Any
) -> None:
    write(tmp_path / "in" / "a.parquet", [{"id": "1", "captions": ["x"], "number": 3}])
    assert main(["--run", run, "--input", f"{tmp_path}/in", "--output", f"{tmp_path}/out", *flags]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
