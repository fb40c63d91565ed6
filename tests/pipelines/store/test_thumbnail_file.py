"""`lit-store thumbnails`: pictures of the images asked for, by id."""

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.store.command import main


def test_pictures_by_id(colour_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids, output = tmp_path / "ids", tmp_path / "out.parquet"
    ids.write_text(
        "square-00\n\nnobody\n" + json.dumps({"unit": "g000-00002", "id": "square-09"}) + "\n",
        encoding="utf-8",
    )
    assert main(["thumbnails", str(colour_store), "--ids", str(ids), "--output", str(output)]) == 0
    assert "2 of 2 images; 1 ids have no vector in stand-in" in capsys.readouterr().out
    found = {row["id"]: row["jpeg"] for row in pq.read_table(output).to_pylist()}
    assert found.keys() == {"square-00", "square-09"}
    red, green, blue = Image.open(io.BytesIO(found["square-00"])).convert("RGB").getpixel((8, 8))  # type: ignore[misc]
    assert red > 240
    assert max(green, blue) < 15


def test_units_given_with_every_id_are_the_only_ones_read(
    colour_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from schemas.storage import Folder

    read: list[str] = []
    original = Folder.read_column

    def noted(self: Folder, name: str, column: str) -> object:
        read.append(name)
        return original(self, name, column)

    monkeypatch.setattr(Folder, "read_column", noted)
    ids = tmp_path / "ids"
    ids.write_text(json.dumps({"unit": "g000-00001", "id": "square-05"}) + "\n", encoding="utf-8")
    words = ["thumbnails", str(colour_store), "--ids", str(ids), "--output", str(tmp_path / "out.parquet")]
    assert main(words) == 0
    assert set(read) == {"embeddings-g000-00001.parquet"}
    assert main([*words, "--max-input-bytes", "1"]) == 0
    assert "0 of 1 images; others would need" in capsys.readouterr().out


def test_what_is_wrong_with_the_file_of_ids(
    colour_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["thumbnails", str(colour_store), "--output", str(tmp_path / "out.parquet"), "--ids"]
    assert main([*words, str(tmp_path / "none")]) == 2
    assert "--ids: must be a readable" in capsys.readouterr().err
    (tmp_path / "ids").write_text('a\n{"unit": "x"}\n', encoding="utf-8")
    assert main([*words, str(tmp_path / "ids")]) == 2
    assert "line 2 must be an id, or a JSON object with one" in capsys.readouterr().err
